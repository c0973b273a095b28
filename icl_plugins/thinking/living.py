"""Saved states behind the models that are in memory already, so that no weights are loaded twice."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from icl_plugins.errors import ProxyError
from icl_plugins.proxy.loading import load_tokenizer

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy
    from icl_plugins.thinking.kv_state import KVState

_live: "WeakSet[Proxy]" = WeakSet()
_lock = threading.RLock()  # held while a model is loaded: who asks for it meanwhile shall find it


def remember(proxy: "Proxy") -> None:
    """Let `load_state` find the proxy for as long as something else holds it."""
    with _lock:
        _live.add(proxy)


def load_state(folder: str | Path, model: "str | Path | Proxy | None" = None) -> "KVState":
    """Read a saved state; its model is loaded, in the dtype of the state, unless it is remembered.

    model: None is the name that the state was saved with. Raises what KVState.load raises, and ProxyError for
    a name without model: at once, with no look at the network, unless it is "owner/name".
    """
    from icl_plugins.thinking.kv_state import KVState
    from icl_plugins.thinking.saving import describe

    saved = describe(Path(folder))["model"]
    if model is None:
        model = saved["name"]
    with _lock:
        if isinstance(model, str | Path):
            found = _remembered(str(model), saved)
            state = KVState.load(folder, found) if found else _loaded(folder, str(model))
        else:
            state = KVState.load(folder, model)
        remember(state.proxy)
    return state


def _remembered(name: str, saved: dict[str, Any]) -> "Proxy | None":
    named = (one for one in tuple(_live) if one.name == name)
    return next((one for one in named if {**saved, **one.fingerprint} == saved), None)


def _loaded(folder: str | Path, name: str) -> "KVState":
    from icl_plugins.thinking.kv_state import KVState

    try:
        if "/" not in name and not Path(name).exists():
            load_tokenizer(name, offline=True)  # models in memory are called anything: do not ask the hub
    except ProxyError as error:
        got = f"neither a folder nor a model in Hugging Face's cache is called {name!r}"
        raise _not_found(folder, got) from error
    try:
        return KVState.load(folder, name)
    except ProxyError as error:
        raise _not_found(folder, error.got) from error


def _not_found(folder: str | Path, why: str) -> ProxyError:
    return ProxyError(
        f"{str(folder)!r} is the state of a model that cannot be loaded by its name: {why}",
        expected='"micro", a folder or a Hugging Face id, or the model itself',
        fix="pass model=, as to KVState.load(folder, model=proxy): the Proxy of a model that is in memory, "
        "or the folder to which it was moved",
    )
