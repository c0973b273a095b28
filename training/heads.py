"""Attention heads of a Qwen3 written by hand: what each part of a head adds to a logit, in nats.

Queries and keys are normed before they turn with position. So a head's rows are written to a fixed length,
the square root of its dimension, in units of the axis that is one everywhere; then the norm changes nothing.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

HEAD = 128  # dimensions
HALF, PAIRS = HEAD // 2, 13  # rotary pairs; those that turn fast enough to tell where a token stands
_STILL = [*range(PAIRS, HALF), *range(HALF + PAIRS, HEAD)]
CONTENT, MARKS = _STILL[:96], _STILL[96:]  # blind to position: for words; for marks, and to fill up
_ROOT = HEAD**0.5  # by which transformers divides logits


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random rows at right angles."""
    return torch.linalg.qr(torch.randn(columns, columns, generator=generator)).Q[:rows]


def set_norms(layer: nn.Module, positions: float, content: float, marks: float) -> None:
    """Set what queries and keys are multiplied by behind their norm."""
    for norm in (layer.self_attn.q_norm, layer.self_attn.k_norm):
        norm.weight[:PAIRS] = norm.weight[HALF : HALF + PAIRS] = positions
        norm.weight[CONTENT], norm.weight[MARKS] = content, marks


class Head:
    """A head to be written: first its parts, then ``write``.

    one: the axis of the residual stream that is ``size`` everywhere. Marks are read as (axis, size) and are
    1 where the axis is ``size``.
    """

    def __init__(self, layer: nn.Module, number: int, frequencies: Tensor, one: int, size: float) -> None:
        self.attention, self.number, self.frequencies = layer.self_attn, number, frequencies
        self.one, self.size = one, size
        width = layer.self_attn.q_proj.in_features
        self.query, self.key, self.value = (torch.zeros(HEAD, width) for _ in range(3))
        self.output = torch.zeros(width, HEAD)
        self.weight = layer.self_attn.q_norm.weight

    def near(self, distance: float, sharpness: Sequence[float]) -> None:
        """Look at the token so many before: sum over pairs of sharpness * cos(frequency * (d - distance))."""
        for pair, nats in enumerate(sharpness):
            gain, angle = math.sqrt(_ROOT * nats) / self.weight[pair], distance * self.frequencies[pair]
            self.query[pair, self.one] += gain
            self.key[pair, self.one] += gain * angle.cos()
            self.key[HALF + pair, self.one] += gain * angle.sin()

    def mark(self, slot: int, query: Tensor, key: Tensor, nats: float) -> None:
        """Add nats times what ``query`` reads at the one token and ``key`` at the other."""
        gain = math.sqrt(_ROOT * abs(nats)) / self.weight[MARKS[slot]]
        self.query[MARKS[slot]] += gain * query
        self.key[MARKS[slot]] += math.copysign(1.0, nats) * gain * key

    def alike(self, query: Tensor, key: Tensor, energy: float) -> None:
        """Compare two readings (n, width) of length one, which take so much of the squared length."""
        self.query[CONTENT[: len(query)]] += math.sqrt(energy) * self.size * query
        self.key[CONTENT[: len(key)]] += math.sqrt(energy) * self.size * key

    def carry(self, read: Tensor, write: Tensor) -> None:
        """Move what ``read`` (n, width) finds where the head looks to where ``write`` (width, n) says."""
        at = int((self.value != 0).any(1).sum())
        self.value[at : at + len(read)] = read
        self.output[:, at : at + len(read)] = write

    def write(self, content: float = 0.0) -> None:
        """Fill queries and keys up to their length, beside so much of content, and add all to the layer."""
        for rows, slot in ((self.query, 0), (self.key, 1)):
            spare = HEAD - content - float((rows[:, self.one] ** 2).sum())
            if spare > 1:
                rows[MARKS[slot], self.one] += math.sqrt(spare)
        rows = slice(HEAD * self.number, HEAD * (self.number + 1))
        attention = self.attention
        for projection, written in (
            (attention.q_proj, self.query),
            (attention.k_proj, self.key),
            (attention.v_proj, self.value),
        ):
            projection.weight[rows] += written
        attention.o_proj.weight[:, rows] += self.output
