"""A state for a model of LangChain: in memory, or the folder that it was saved in."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_plugins.errors import SettingError

if TYPE_CHECKING:
    from icl_plugins.thinking.kv_state import KVState


def loaded(state: Any, model: Any) -> "KVState":
    """Return the state, read from its folder where it is not in memory.

    model: that of the state, as a name, folder or Proxy; None is the one that it was made with. A model that
    is in memory behind another state is not loaded again. Raises SettingError for what is no state and for
    another model, what KVState.load raises, and ProxyError for a model that cannot be loaded by its name.
    """
    from icl_plugins.thinking.kv_state import KVState
    from icl_plugins.thinking.living import load_state, remember

    if isinstance(state, str | Path):
        return load_state(state, model)
    if not isinstance(state, KVState):
        raise SettingError(
            f"a {type(state).__name__} as state",
            expected="a KVState, or the folder of one",
            fix="pass DeepThinking(model).fit(prompt)",
        )
    if model is not None and getattr(model, "model", None) is not state.proxy.model:
        check_model(model, state.proxy.name)
    remember(state.proxy)
    return state


def check_model(asked: object, own: str) -> None:
    """Raise SettingError for another model than the state's own."""
    if asked != own:
        raise SettingError(
            f"model={asked!r:.80} for a state of {own!r}",
            expected="the model that the state was made with",
            fix="leave model out, or make a state with the other model",
        )


def check_saved(state: "KVState", folder: Path | None, name: str) -> None:
    """Raise SettingError unless the folder holds this state; name: of what cannot be pickled without."""
    from icl_plugins.thinking.saving import describe

    if folder is None or describe(folder)["fingerprint"] != state.fingerprint:
        raise SettingError(
            f"{name} cannot be pickled with a state in memory",
            expected="a state that was loaded from a folder, and is still there",
            fix=f"call state.save(folder) and make {name}(folder)",
        )
