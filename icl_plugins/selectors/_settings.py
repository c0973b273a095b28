"""Hyper-parameters of selectors: checked when they are made, and as JSON in the config of a selection."""

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.errors import SettingError
from icl_plugins.examples import Pool
from icl_plugins.values import plain

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


def check_seed(seed: object) -> None:
    """Raise SettingError unless numpy, scikit-learn and torch all accept the seed."""
    if whole_number("seed", seed, 0) >= 2**32:
        raise SettingError(f"seed={seed!r}", expected="a whole number below 2**32", fix="pass a smaller one")


def check_real(
    name: str, value: object, *, at_least: float = 0.0, at_most: float = math.inf, positive: bool = False
) -> None:
    """Raise SettingError unless `value` is a finite number within the bounds; bool is none."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    inside = number and math.isfinite(value) and at_least <= value <= at_most  # type: ignore[arg-type, operator]
    if not inside or (positive and value == 0):
        span = f"a finite{' positive' * positive} number from {at_least} to {at_most}"
        raise SettingError(f"{name}={value!r}", expected=span, fix=f"pass {span} as {name}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise SettingError unless `value` is one of the choices."""
    if value not in choices:
        raise SettingError(f"{name}={value!r}", expected=" or ".join(map(repr, choices)), fix="choose one")


def check_models(selector: Any) -> None:
    """Raise SettingError unless the fields `proxy`, `model`, `tokenizer` hold names, a loaded proxy, or None.

    A folder given as a Path becomes its text.
    """
    for name in ("proxy", "model", "tokenizer"):
        value = getattr(selector, name, None)
        if isinstance(value, Path):
            value = str(value)
            object.__setattr__(selector, name, value)
        named = isinstance(value, str) and bool(value)
        loaded = hasattr(value, "total" if name == "tokenizer" else "count_tokens")
        default = getattr(type(selector), name, None)
        if not (named or loaded or value is default):
            raise SettingError(
                f"{name}={value!r}",
                expected='"micro", a folder or a Hugging Face id'
                + ", or a loaded Proxy" * (name != "tokenizer"),
                fix=f"pass one of them as {name}",
            )


def load_proxy(proxy: "str | Proxy") -> "Proxy":
    """Return the proxy itself, loaded when it is given by name."""
    from icl_plugins.proxy.model import Proxy

    return Proxy.load(proxy) if isinstance(proxy, str) else proxy


def settings(selector: Any) -> dict[str, object]:
    """Return the class and fields of a selector in JSON's types; a loaded proxy is its name.

    Where things lie on this machine changes nothing that is chosen: `store` is left out, and of the folder of
    a model the last part is kept (`about` has the whole and the fingerprints).
    """
    names = [field.name for field in fields(selector) if field.name != "store"]
    values = {name: _as_json(getattr(selector, name)) for name in names}
    models: dict[str, object] = {
        name: _without_folder(values[name]) for name in ("proxy", "tokenizer") if name in values
    }
    return {"selector": type(selector).__name__, **values, **models}


def about(proxy: "Proxy") -> dict[str, object]:
    """Return what the details of a selection say of the proxy: name, fingerprints, device, dtype, reasons."""
    return {
        "proxy": proxy.name,
        "fingerprints": proxy.fingerprint,
        "device": str(proxy.device),
        "dtype": str(proxy.dtype).removeprefix("torch."),
        "reasons": proxy.reasons,
    }


def _without_folder(name: object) -> object:
    if not isinstance(name, str) or name == "micro":
        return name
    path = Path(name).expanduser()
    return os.path.basename(os.path.abspath(path)) if path.is_absolute() or path.is_dir() else name


def _as_json(value: Any) -> object:
    if isinstance(value, Pool):
        return {"examples": len(value), "fingerprint": value.fingerprint}
    if hasattr(value, "name") and (hasattr(value, "encoder") or hasattr(value, "total")):
        return value.name
    return plain(asdict(value) if is_dataclass(value) and not isinstance(value, type) else value)
