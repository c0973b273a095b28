"""Slots: demonstrations of one fixed width, as embeddings that a gradient can be taken of.

Tokens stand at the right end of their slot, so that answers compare with answers. What is left of them is a
pad: nobody sees it, and it keeps its place, so that what stands in a slot never moves what follows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


@dataclass(frozen=True, eq=False)
class Slots:
    """What stands in k slots of T tokens.

    embeddings: (k, T, h) on the model's device, 0 where a pad stands. shown: (k, T) bool, False for pads.
    """

    embeddings: Tensor
    shown: Tensor

    def __add__(self, other: "Slots") -> "Slots":
        """Return the slots of both, one after the other."""
        embeddings = torch.cat([self.embeddings, other.embeddings], dim=-3)
        return Slots(embeddings, torch.cat([self.shown, other.shown], dim=-2))

    @classmethod
    def stack(cls, each: "Sequence[Slots]") -> "Slots":
        """Return slots (Q, k, T) for each of Q queries by itself."""
        return cls(torch.stack([one.embeddings for one in each]), torch.stack([one.shown for one in each]))


@dataclass(frozen=True, eq=False)
class SlotTexts:
    """Texts as slots of one width T, each at the right end of its slot.

    ids: (n, T) int64, numbers of the rows of `embeddings`, -1 for a pad. embeddings: (V, h), of the V tokens
    that occur, on the model's device and in its dtype; vocabulary: (V,) the tokens themselves.
    """

    ids: np.ndarray
    embeddings: Tensor
    vocabulary: np.ndarray

    @classmethod
    def of(cls, proxy: "Proxy", tokens: Sequence[Sequence[int]], width: int) -> "SlotTexts":
        """Make slots of tokens; of more than `width` the first ones go."""
        padded = np.full((len(tokens), width), -1, dtype=np.int64)
        for row, one in enumerate(tokens):
            kept = one[max(0, len(one) - width) :]
            padded[row, width - len(kept) :] = kept
        vocabulary, places = np.unique(padded, return_inverse=True)
        pads = int(vocabulary[:1].tolist() == [-1])
        with torch.no_grad():
            used = torch.tensor(vocabulary[pads:], device=proxy.device)
            embeddings = proxy.model.get_input_embeddings()(used)
        return cls(places.reshape(padded.shape) - pads, embeddings, vocabulary[pads:])

    @property
    def tokens(self) -> list[np.ndarray]:
        """The texts without pads, as numbers of the rows of `embeddings`."""
        return [row[row >= 0] for row in self.ids]

    def at(self, rows: Sequence[int] | np.ndarray) -> Slots:
        """Return the texts of some rows, in that order: a real subset."""
        ids = torch.tensor(self.ids[np.asarray(rows, dtype=np.int64)], device=self.embeddings.device)
        return Slots(self.embeddings[ids] * (ids >= 0)[..., None], ids >= 0)

    def mean(self, slots: int, rows: Sequence[int] | np.ndarray) -> Slots:
        """Return the mean embedding of the rows in every slot, shown where half of them have a token."""
        ids = self.ids[np.asarray(rows, dtype=np.int64)]
        counts = np.stack(
            [np.bincount(column[column >= 0], minlength=len(self.embeddings)) for column in ids.T]
        )
        shares = torch.tensor(counts / np.maximum(counts.sum(1, keepdims=True), 1))
        means = shares.to(self.embeddings) @ self.embeddings
        shown = torch.tensor((ids >= 0).mean(0) >= 0.5, device=self.embeddings.device)
        return Slots((means * shown[:, None]).expand(slots, -1, -1), shown.expand(slots, -1))
