"""What the settings of deep thinking and of context tuning share."""

from typing import Any

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.errors import SettingError
from icl_plugins.selectors._settings import check_choice, check_models, check_seed


def check_common(settings: Any) -> None:
    """Raise SettingError for a model, steps, folds, a layout or a seed that cannot be."""
    check_models(settings)
    if settings.steps != "auto":
        whole_number("steps", settings.steps, 1)
    whole_number("max_steps", settings.max_steps, 1)
    whole_number("folds", settings.folds, 2)
    check_choice("layout", settings.layout, ("single", "turns", "json"))
    check_seed(settings.seed)


def candidates(name: str, values: Any) -> tuple[Any, ...]:
    """Return one value or several as a tuple, each once; raises SettingError for none."""
    found = tuple(dict.fromkeys(values)) if isinstance(values, tuple) else (values,)
    if not found:
        raise SettingError(f"{name}=()", expected="one value at least", fix=f"leave {name} out")
    return found
