"""Attention over a prefix that is there once for a whole batch, merged with that over what each row adds."""

from typing import Any

import torch
from torch import Tensor

from icl_plugins.proxy.prefix_state import PrefixState

# Attention scores that are in memory at a time where no kernel does without them: 64 MiB in float32.
_SCORES = 2**24


def prefix_attention(
    state: PrefixState,
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Return (B, Q, H, d): (B, H, Q, d) queries over the state's prefix and their own (B, h, S, d) keys.

    attention_mask: (B, 1, Q, S) bool, None where the last Q of S tokens are all that is hidden from earlier
    ones. With o, m the output and the log of the sum of exponentials of each part, the whole is
    (o1 exp(m1) + o2 exp(m2)) / (exp(m1) + exp(m2)). Raises NotImplementedError for attention with sinks.
    """
    if others.get("s_aux") is not None or others.get("position_bias") is not None:
        raise NotImplementedError("attention with sinks or with a bias of its own")
    query = query * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    batch, total, new, size = query.shape
    heads = key.shape[1]

    key, value = (part.repeat_interleave(total // heads, 1) for part in (key, value))
    causal = attention_mask is None and new > 1
    behind, behind_mass = attended(query, key, value, attention_mask, causal=causal, softcap=softcap)

    # the rows of a batch, and the heads that share keys, stand below each other: the prefix is never copied
    rows = query.reshape(batch, heads, -1, new, size).transpose(0, 1).reshape(1, heads, -1, size)
    keys, values = state.layers[module.layer_idx]
    seen = None
    if sliding_window is not None:
        keys, values = keys[:, :, -sliding_window:], values[:, :, -sliding_window:]
        slots = torch.arange(key.shape[2] - new, key.shape[2], device=key.device) + keys.shape[2]
        seen = slots[:, None] - torch.arange(keys.shape[2], device=key.device) < sliding_window
        seen = seen.repeat(rows.shape[2] // new, 1)[None, None]
    front, mass = (
        part.reshape(heads, batch, -1, new, *part.shape[3:]).transpose(0, 1).flatten(1, 2)
        for part in attended(rows, keys, values, seen, softcap=softcap)
    )

    share = torch.sigmoid(behind_mass - mass)[..., None]
    return torch.lerp(front.float(), behind.float(), share).to(query.dtype).transpose(1, 2).contiguous(), None


def attended(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (N, h, Q, d) the weighted values, (N, h, Q) the log of the sum of the scores' exponentials.

    query: scaled. mask: bool, what is seen; (1 or N, 1, Q, S). causal: of as many keys as queries, each query
    sees those up to its own.
    """
    if softcap is None and query.device.type == "cpu":
        hidden = (
            None if mask is None else torch.where(mask, 0.0, torch.finfo(query.dtype).min).to(query.dtype)
        )
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output, mass = flash(query, key, value, 0.0, causal, attn_mask=hidden, scale=1.0)
        return output, mass
    if causal:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=key.device).tril()[
            None, None
        ]
    output, mass = torch.empty_like(query), query.new_empty(query.shape[:3], dtype=torch.float32)
    step = max(1, _SCORES // (query.shape[0] * query.shape[1] * key.shape[2]))
    for at in range(0, query.shape[2], step):
        part = slice(at, at + step)
        scores = (query[:, :, part] @ key.transpose(-1, -2)).float()
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if mask is not None:
            scores = scores.masked_fill(~mask[:, :, part], torch.finfo(torch.float32).min)
        mass[:, :, part] = scores.logsumexp(-1)
        weights = (scores - mass[:, :, part, None]).exp_()
        output[:, :, part] = weights.to(value.dtype) @ value
    return output, mass
