"""Ways to make a state by name, and the settings of one made of the options that are given."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Literal

import icl_plugins
from icl_plugins.errors import SettingError

if TYPE_CHECKING:
    from icl_plugins.thinking.context_tuning import ContextTuning
    from icl_plugins.thinking.deep_thinking import DeepThinking

ThinkMethod = Literal["deep_thinking", "context_tuning"]
_CLASSES: dict[ThinkMethod, str] = {"deep_thinking": "DeepThinking", "context_tuning": "ContextTuning"}


def make_thinking(
    method: ThinkMethod, options: Mapping[str, object], *, paper: bool
) -> "DeepThinking | ContextTuning":
    """Return the settings of a method, by default its own or those of its paper.

    options: fields of both methods (None: not given). Raises SettingError for those that are not its own.
    """
    kind: Any = getattr(icl_plugins, _CLASSES[method])
    own = {field.name for field in fields(kind)} | ({"paper"} if hasattr(kind, "paper") else set())
    given = {name: value for name, value in options.items() if value is not None}
    other = _options([name for name in (*given, *["paper"] * paper) if name not in own])
    if other:
        raise SettingError(
            f"{other} with --method {method}",
            expected=f"its own options: {_options([name for name in (*options, 'paper') if name in own])}",
            fix=f"leave out {other}, or choose the other method",
        )
    base = kind.paper() if paper else kind()
    settings: DeepThinking | ContextTuning = replace(base, **given)
    return settings


def _options(names: list[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in names)
