"""A cache in which a prefix stands once for all rows, and the attention that goes with it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from icl_plugins.proxy.locking import model_lock
from icl_plugins.proxy.prefix_attention import prefix_attention
from icl_plugins.proxy.prefix_state import PrefixState

_NAME = "icl_plugins_shared_prefix"

_prefix: ContextVar[PrefixState] = ContextVar("icl_plugins_prefix")


class SuffixLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A layer of a cache that holds what stands behind a prefix, and counts as if it held both."""

    def __init__(self, before: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.before = before

    @property
    def own(self) -> int:
        """How many tokens it holds."""
        keys: Any = self.keys
        return int(keys.shape[-2]) if self.is_initialized and keys.numel() else 0

    def get_seq_length(self) -> int:
        """Return the tokens of prefix and suffix: where the next token stands."""
        return self.before + self.own

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return for how many keys a mask is wanted, and where the first of them stands."""
        return self.own + query_length, self.before


def suffix_cache(state: PrefixState) -> Any:
    """Return an empty cache of what stands behind a state."""
    return Cache(layers=[SuffixLayer(state.slots) for _ in state.layers])


@contextmanager
def sharing(model: Any, state: PrefixState) -> Iterator[None]:
    """Let the model attend to the state's keys and values, of which the cache that it is given holds none.

    For models whose attention goes through transformers' AttentionInterface, windows and soft-capping
    included; raises NotImplementedError for others. It holds for this thread alone, in which the model must
    not be run on anything else meanwhile; others that run it attend as before, or wait if they share too.
    Whether it works on a model is to be tried: see generating.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise NotImplementedError("an attention of its own")
    with model_lock(model):
        before = model.config._attn_implementation
        token = _prefix.set(state)
        try:
            model.set_attn_implementation(_registered(before))
            yield
        finally:
            _prefix.reset(token)
            model.set_attn_implementation(before)


def _registered(before: str) -> str:
    """Return the name of an attention that is ours where a prefix is set, and the one before elsewhere."""
    if before.startswith(_NAME):
        return before
    name = f"{_NAME}_{before}"
    AttentionInterface.register(name, partial(_attention, before))
    AttentionMaskInterface.register(name, partial(_mask, before))
    return name


def _attention(before: str, module: Any, *args: Any, **kwargs: Any) -> Any:
    state = _prefix.get(None)
    if state is not None:
        return prefix_attention(state, module, *args, **kwargs)
    eager: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    return ALL_ATTENTION_FUNCTIONS.get_interface(before, eager)(module, *args, **kwargs)


def _mask(before: str, *args: Any, **kwargs: Any) -> Any:
    plain: Any = ALL_MASK_ATTENTION_FUNCTIONS[before]
    return (plain if _prefix.get(None) is None else sdpa_mask)(*args, **kwargs)
