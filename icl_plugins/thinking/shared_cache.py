"""A cache in which a prefix stands once for all rows, and the attention that goes with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from icl_plugins.proxy.prefix_state import PrefixState
from icl_plugins.thinking.prefix_attention import prefix_attention

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


@contextmanager
def sharing(model: Any, state: PrefixState) -> Iterator[Any]:
    """Let the model attend to the state's keys and values without a copy for each row; yield an empty cache.

    For models whose attention goes through transformers' AttentionInterface, windows and soft-capping
    included; raises NotImplementedError for others. The model's own attention is back afterwards. Whether it
    works on a model is to be tried: see generating.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise NotImplementedError("an attention of its own")
    AttentionInterface.register(_NAME, _attention)
    AttentionMaskInterface.register(_NAME, sdpa_mask)
    before = model.config._attn_implementation
    token = _prefix.set(state)
    try:
        model.set_attn_implementation(_NAME)
        yield Cache(layers=[SuffixLayer(state.slots) for _ in state.layers])
    finally:
        _prefix.reset(token)
        model.set_attn_implementation(before)


def _attention(*args: Any, **kwargs: Any) -> tuple[Tensor, None]:
    return prefix_attention(_prefix.get(), *args, **kwargs)
