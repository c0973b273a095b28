"""Attention over a prefix that is there once for a whole batch, merged with that over what each row adds."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import AttentionMaskInterface, eager_mask

from icl_plugins.proxy.prefix_state import PrefixState

_NAME = "icl_plugins_shared_prefix"
# Attention scores over the prefix that are in memory at a time: 64 MiB in float32.
_SCORES = 2**24

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
    AttentionInterface.register(_NAME, prefix_attention)
    AttentionMaskInterface.register(_NAME, eager_mask)
    before = model.config._attn_implementation
    token = _prefix.set(state)
    try:
        model.set_attn_implementation(_NAME)
        yield Cache(layers=[SuffixLayer(state.slots) for _ in state.layers])
    finally:
        _prefix.reset(token)
        model.set_attn_implementation(before)


def prefix_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return (B, Q, H, d) the attention of (B, H, Q, d) queries over the prefix and (B, h, S, d) keys.

    With o, l the output and the log of the sum of exponentials of each part, the whole is
    (o1 exp(l1) + o2 exp(l2)) / (exp(l1) + exp(l2)). Raises NotImplementedError for attention with sinks.
    """
    if others.get("s_aux") is not None or others.get("position_bias") is not None:
        raise NotImplementedError("attention with sinks or with a bias of its own")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    heads, new = key.shape[1], query.shape[2]
    batch, _, _, size = query.shape
    grouped = (query * scaling).reshape(batch, heads, -1, new, size)  # (B, h, G, Q, d)

    own = _capped(torch.einsum("bhgqd,bhsd->bhgqs", grouped, key), softcap)
    own = own + attention_mask[:, :, None].float()
    behind, behind_mass = _attended(own, value[:, :, None])

    keys, values = (part[0] for part in _prefix.get().layers[module.layer_idx])
    slots = keys.shape[-2] + torch.arange(key.shape[2] - new, key.shape[2], device=key.device)
    rows = grouped.transpose(0, 1).flatten(1, 3)  # (h, B * G * Q, d)
    front, mass = torch.empty_like(rows, dtype=torch.float32), rows.new_empty(rows.shape[:2]).float()
    places = slots.repeat(rows.shape[1] // new)
    step = max(1, _SCORES // (heads * keys.shape[-2]))
    for at in range(0, rows.shape[1], step):
        part = slice(at, at + step)
        scores = _capped(rows[:, part] @ keys.transpose(-1, -2), softcap)
        if sliding_window is not None:
            far = places[part, None] - torch.arange(keys.shape[-2], device=key.device) >= sliding_window
            scores.masked_fill_(far, torch.finfo(scores.dtype).min)
        front[:, part], mass[:, part] = _attended(scores, values)

    def back(flat: Tensor) -> Tensor:
        return flat.reshape(heads, batch, -1, new, *flat.shape[2:]).transpose(0, 1)

    share = torch.sigmoid(behind_mass - back(mass))[..., None]
    merged = torch.lerp(back(front), behind, share)
    return merged.flatten(1, 2).transpose(1, 2).to(query.dtype).contiguous(), None


def _capped(scores: Tensor, softcap: float | None) -> Tensor:
    scores = scores.float()
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def _attended(scores: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted values in float32, and the log of the sum of the scores' exponentials."""
    mass = scores.logsumexp(-1)
    weights = (scores - mass[..., None]).exp_()
    return (weights.to(values.dtype) @ values).float(), mass
