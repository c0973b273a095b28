"""Where requests go, and with which key."""

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from icl_plugins.errors import SettingError, TargetError

_NO_KEY = "none"  # servers that want no key take any


@dataclass(frozen=True)
class Provider:
    """A known service: its name in litellm's table, its host and URL, the environment variable of its key."""

    name: str
    host: str
    base_url: str
    variable: str


OPENAI = Provider("openai", "api.openai.com", "https://api.openai.com/v1", "OPENAI_API_KEY")
DEEPSEEK = Provider("deepseek", "api.deepseek.com", "https://api.deepseek.com", "DEEPSEEK_API_KEY")


class Key:
    """An API key that no repr and no copy shows and no pickle holds; from a pickle it comes back empty."""

    __slots__ = ("_value",)

    def __init__(self, value: str = "") -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the key, "" after a pickle."""
        return self._value

    def __repr__(self) -> str:
        """Say whether there is one."""
        return f"Key({'***' if self._value else ''})"

    def __copy__(self) -> "Key":
        """Stay one: `asdict` copies values, and a copy would have to carry the key."""
        return self

    def __deepcopy__(self, memo: object) -> "Key":
        """Stay one."""
        return self

    def __reduce__(self) -> tuple[type["Key"], tuple[()]]:
        """Leave the key behind."""
        return Key, ()


def provider_of(base_url: str) -> Provider | None:
    """Return the provider whose host a URL names, None for any other server."""
    host = urlsplit(base_url).hostname or ""
    return next((known for known in (OPENAI, DEEPSEEK) if f".{host}".endswith(f".{known.host}")), None)


def resolve_url(model: str, base_url: str | None) -> str:
    """Return the URL for a model: as given, DeepSeek's for its names, else OPENAI_BASE_URL or OpenAI's.

    Raises SettingError for what is no plain http(s) URL; a user, password, query or fragment could be a key.
    """
    if base_url is None:
        named = model.startswith(("deepseek-", "deepseek/"))
        base_url = DEEPSEEK.base_url if named else os.environ.get("OPENAI_BASE_URL") or OPENAI.base_url
    try:
        url = urlsplit(base_url)
        address = url.scheme in ("http", "https") and url.hostname
        plain = address and "@" not in url.netloc and not (url.query or url.fragment)
    except (ValueError, AttributeError, TypeError):
        plain = False
    if not plain:
        raise SettingError(
            "a base_url that is no plain URL",
            expected='"http://..." or "https://..." without password, query and fragment',
            fix='write it like "http://127.0.0.1:8000/v1", and pass the key as api_key',
        )
    return base_url.rstrip("/")


def check_variable(name: str | None) -> None:
    """Raise SettingError, which does not show it, for what is no name of a variable and may be the key."""
    if name is not None and not (isinstance(name, str) and re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name)):
        raise SettingError(
            "an api_key_env that is no name of an environment variable",
            expected="a name such as OPENAI_API_KEY",
            fix="put the key into a variable, and the name of that variable here",
        )


def key_variable(chosen: str | None, base_url: str) -> str:
    """Return the environment variable of the key: the one that was chosen, else that of the server's host."""
    return chosen or (provider_of(base_url) or OPENAI).variable


def find_key(given: str | Key | None, variable: str | None, base_url: str) -> Key:
    """Return the key that was given, else that of the environment; a server of one's own may need none.

    Raises TargetError where a key is missing or cannot be sent in a header.
    """
    name = key_variable(variable, base_url)
    shown = given.reveal() if isinstance(given, Key) else given
    key = (shown or os.environ.get(name, "")).strip()
    if not key and (variable or provider_of(base_url)):
        raise _bad_key(f"no key for {base_url}", name)
    if not (key.isascii() and key.isprintable()):
        raise _bad_key(f"a key for {base_url} that no header can hold", name)
    return Key(key or _NO_KEY)


def _bad_key(got: str, name: str) -> TargetError:
    return TargetError(got, expected=f"a key in {name} or api_key", fix=f"set {name}, or pass api_key")
