"""What an exception of the client means: for this request, for the next try, for all requests."""

import email.utils
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import openai

from openai_icl.replies import word

_RETRIED = (408, 409, 425, 429)  # and all from 500 on
_FOR_ALL = {  # what no other request would fare better with, by status or code, and what to do about it
    401: "set the right key: {variable}, or api_key",
    402: "pay in credit at the provider",
    403: "use a key that may use this model",
    404: "correct model or base_url",
    "insufficient_quota": "pay in credit at the provider, or raise the limit of the key",
    "model_not_found": "correct the name of the model",
    "unsupported_parameter": "use a model that takes {parameter}, or leave it at None",
    "unsupported_value": "use a model that takes this {parameter}, or leave it at None",
}
# DeepSeek and transformers serve answer 400 without a code
_UNKNOWN_MODEL = re.compile(r"\W*(detail\W+)?(model not exist|server is pinned to)", re.IGNORECASE)
_TOO_LONG = re.compile(r"context[ _](length|window)|maximum context", re.IGNORECASE)


@dataclass(frozen=True)
class Failure:
    """What went wrong.

    error: in words, without key and data. fix: what to do about what every request would meet, else None.
    retry: another try may help; after: seconds that the server asks to wait before it. unreachable: there was
    no connection at all.
    """

    error: str
    fix: str | None = None
    retry: bool = False
    after: float | None = None
    unreachable: bool = False


def failure_of(error: Exception, variable: str) -> Failure:
    """Read an exception; `variable` is where the key is looked for."""
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, variable)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        if type(cause).__name__ in ("ConnectError", "ConnectTimeout"):  # of httpx, or httpx2 in openai 3
            reason = f"cannot be reached ({type(cause).__name__}: {cause})".replace(": )", ")")
            return Failure(reason, fix="start the server, or correct base_url", retry=True, unreachable=True)
        if not isinstance(error, openai.APITimeoutError):
            return Failure(f"the connection was cut ({type(cause).__name__})", retry=True)
    if isinstance(error, openai.APITimeoutError | TimeoutError):
        return Failure("time-out", retry=True)
    return Failure(f"the client failed with {type(error).__name__}")


def _of_status(error: openai.APIStatusError, variable: str) -> Failure:
    status, body = error.status_code, str(error.body)[:2000]
    code = word(error.code or error.type)
    said = f"status {status}" + f" ({code})" * (code != "unknown")
    if _UNKNOWN_MODEL.match(_message(error.body)):
        return Failure(said, fix=_FOR_ALL["model_not_found"])
    if fix := _FOR_ALL.get(status) or _FOR_ALL.get(code):
        return Failure(said, fix=fix.format(variable=variable, parameter=word(error.param)))
    if status == 413 or (status in (400, 422) and _TOO_LONG.search(f"{error.code} {body}")):
        return Failure(f"context overflow, {said}")
    if status in _RETRIED or status >= 500:
        return Failure(said, retry=True, after=retry_after(error.response.headers))
    return Failure(said)


def _message(body: Any) -> str:
    """Return the server's words from {"message": ...} or {"detail": ...}."""
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail")
    return str(body)[:2000]


def retry_after(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds of Retry-After, a number or a date, or of retry-after-ms; None for none and junk."""
    for name, scale in (("retry-after-ms", 1000), ("retry-after", 1)):
        try:
            seconds = float(headers.get(name, "")) / scale
        except ValueError:
            continue
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except (ValueError, TypeError):
        return None
    return max(0.0, date.timestamp() - now())
