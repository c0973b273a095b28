"""What deep thinking refuses before anything is read."""

from copy import copy
from typing import TYPE_CHECKING

from icl_plugins.errors import ProxyError, SettingError
from icl_plugins.proxy.shared_prefix import steady_length

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


def check_model(proxy: "Proxy") -> None:
    """Raise ProxyError for a model behind whose keys and values nothing can be read.

    Shown by trying: models without a cache, or with another than keys and values, and rotary frequencies
    that depend on the length of the whole text (dynamic NTK, longrope), so that keys do not last.
    """
    shared = proxy.shared_prefix
    if shared.way == "whole":
        raise ProxyError(
            f"{type(proxy.model).__name__} cannot go on behind keys and values: {shared.reason}",
            expected="a model that gives the same behind its cache as for the whole text",
            fix="choose another model, or send the prompt as it is",
        )


def check_enough(demonstrations: int) -> None:
    """Raise SettingError for too few demonstrations to tune on."""
    if demonstrations < 3:
        raise SettingError(
            f"context tuning of {demonstrations} demonstrations",
            expected="three at least: each is answered by the others, and some are held out",
            fix="choose more demonstrations, or use DeepThinking",
        )


def check_masks(proxy: "Proxy") -> None:
    """Raise ProxyError for a model that takes no mask of its own."""
    shared = proxy.shared_prefix
    if not shared.packs:
        raise ProxyError(
            f"{type(proxy.model).__name__} takes no mask of its own: {shared.reason}",
            expected="a model that lets each token see only what it is told to see",
            fix="choose another model, or use DeepThinking",
        )


def lasting(proxy: "Proxy") -> "Proxy":
    """Return the proxy, cut to the length within which its keys last.

    Rotary frequencies of the kinds dynamic and longrope are the same up to the length that the model was
    first trained on, and others beyond it.
    """
    length = steady_length(proxy.model.config)
    if length is None or proxy.max_length <= length:
        return proxy
    kept = copy(proxy)
    kept.__dict__.pop("shared_prefix", None)  # tried anew, within that length
    kept.max_length = length
    kept.reasons = {**proxy.reasons, "max_length": "rotary frequencies change beyond it"}
    return kept
