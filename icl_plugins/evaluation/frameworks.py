"""What targets share that ask a model through a framework: settings without secrets, errors without words."""

import re
from collections.abc import Mapping
from typing import Any

from icl_plugins.errors import SettingError, TargetError

# secrets, and what no answer depends on
_LEFT_OUT = re.compile(
    "api_?key|access_?key|secret|password|authorization|credential|headers|token_provider|retries|timeout"
    "|^token$|(^|_)(access|ad|api|auth|bearer|hf|security|session)_token$|^cache$",
    re.IGNORECASE,
)
_NOT_THERE = ("ConnectError", "ConnectTimeout", "ConnectionRefusedError")


def without_secrets(settings: Any) -> Any:
    """Return settings as a framework saves them, without keys and headers, retries, time-outs and caches."""
    if isinstance(settings, Mapping):
        return {
            name: without_secrets(value) for name, value in settings.items() if not _LEFT_OUT.search(name)
        }
    return [without_secrets(value) for value in settings] if isinstance(settings, list | tuple) else settings


def told(target: str, error: Exception, status: object, *, for_all: bool) -> str | TargetError:
    """Return an error as its type and status alone, since its words may quote data or keys.

    A TargetError where every other request would meet it too: if it is `for_all`, or no server was there.
    """
    said = type(error).__name__ + (f", status {status}" if isinstance(status, int) else "")
    if not for_all and not any(type(cause).__name__ in _NOT_THERE for cause in _causes(error)):
        return said
    return TargetError(
        f"{target}: {said}",
        expected="a server that answers, a key that it takes and a model that it has",
        fix="start the server, or correct its address, the key and the name of the model",
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    """Return an error and all that led to it, named as its cause or not."""
    if error is None:
        return []
    return [error, *_causes(error.__cause__ or (None if error.__suppress_context__ else error.__context__))]


def nameless(what: str) -> SettingError:
    """Return the error for a target whose settings cannot be read, and that has no name."""
    return SettingError(
        f"{what}, without a name",
        expected="a name that changes whenever the model or a setting does",
        fix='pass name="...", by which stored answers are found again',
    )
