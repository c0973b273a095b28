"""What is known of words before training: vectors from co-occurrence (PPMI, then SVD), and counts."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor


@dataclass(frozen=True)
class Words:
    """What is known of the tokens before training.

    vectors: (V, >= 94) by co-occurrence. counts: (V,). newlines, cues: tokens that end a line; that stand in
    front of names. bos: the first token of a text.
    """

    vectors: Tensor
    counts: Tensor
    newlines: tuple[int, ...]
    cues: tuple[int, ...]
    bos: int = 0

    @property
    def weights(self) -> Tensor:
        """How much a token counts where words are gathered, (V,): SIF (Arora et al. 2017)."""
        return 1e-4 / (1e-4 + self.counts / self.counts.sum())


def ppmi_vectors(streams: list[np.ndarray], vocabulary: int, width: int, window: int = 8) -> Tensor:
    """Return (vocabulary, width) vectors with unit rows; tokens never seen stay zero.

    Counts are weighted 1/distance; context distribution smoothed with exponent 0.75
    (Levy, Goldberg and Dagan 2015, section 3); singular values enter with exponent 0.5.
    """
    flat = np.concatenate([np.append(s, np.full(window, -1)) for s in streams])
    counts = sparse.csr_matrix((vocabulary, vocabulary))
    for distance in range(1, window + 1):
        a, b = flat[:-distance], flat[distance:]
        ok = (a >= 0) & (b >= 0)
        weight = np.full(ok.sum(), 1.0 / distance)
        counts = counts + sparse.csr_matrix((weight, (a[ok], b[ok])), shape=counts.shape)
    counts = (counts + counts.T).tocoo()
    row = np.asarray(counts.sum(1)).ravel()
    context = row**0.75 / (row**0.75).sum()
    pmi = np.log(counts.data / (row[counts.row] * context[counts.col]))
    keep = pmi > 0
    dense = torch.zeros(vocabulary, vocabulary)
    dense[counts.row[keep], counts.col[keep]] = torch.from_numpy(pmi[keep]).float()
    u, s, _ = torch.svd_lowrank(dense, q=width + 16, niter=3)
    vectors = u[:, :width] * s[:width].sqrt()
    return vectors / vectors.norm(dim=1, keepdim=True).clamp_min(1e-9)
