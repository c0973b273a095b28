"""The offset table: first-order estimates where demonstrations of any lengths simply follow each other.

Without slots a demonstration begins where the ones in front of it end. The estimate is still a sum of
look-ups: of each demonstration at its offset, A[o, i] = sum_t <G_{o + t}, phi(i)_t>, and of the query at the
offset that is left for it. As in GradE (arXiv 2508.19999), whose gradients are then of tokens that mostly
have nothing to do with what stands in their place in another prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icl_plugins.errors import DataError, NonFiniteError


@dataclass(frozen=True, eq=False)
class OffsetTable:
    """Estimates of outcomes; lower is better where the outcome is a loss.

    table: (L + 1, n) float64, what candidate i adds that begins at offset o; tail: (L + 1,), what the queries
    add. Beyond L tokens nothing adds. lengths: (n,) tokens. constant: the outcome of an empty prompt.
    """

    table: np.ndarray
    tail: np.ndarray
    lengths: np.ndarray
    constant: float

    def outcomes(self, subsets: np.ndarray) -> np.ndarray:
        """Return the estimated outcomes (m,) of ordered subsets (m, k), whatever k.

        Raises DataError for rows that are not there.
        """
        rows = np.asarray(subsets)
        if rows.ndim != 2 or (rows.size and not 0 <= rows.min() <= rows.max() < len(self.lengths)):
            raise DataError(
                f"subsets of shape {rows.shape}",
                expected=f"(m, k) whole numbers from 0 to {len(self.lengths) - 1}",
                fix="pass rows of candidates",
            )
        last = len(self.tail) - 1
        offsets = np.zeros(len(subsets), dtype=np.int64)
        found = np.full(len(subsets), self.constant)
        for candidates in rows.T:
            found += self.table[offsets, candidates]
            offsets = np.minimum(offsets + self.lengths[candidates], last)
        found += self.tail[offsets]
        return found


def offset_table(
    gradient: np.ndarray,
    tokens: Sequence[np.ndarray],
    embeddings: np.ndarray,
    tail: np.ndarray,
    constant: float,
) -> OffsetTable:
    """Make the table of the mean gradient (L, h) and candidates of any lengths, rows of embeddings (V, h).

    tail: (L + 1,), see `tails`. constant: the outcome at the anchor less the inner product of each query's
    gradient with its anchor. Raises DataError for shapes that do not belong together, NonFiniteError naming
    candidates.
    """
    length = len(gradient)
    if tail.shape != (length + 1,) or gradient.shape[1:] != embeddings.shape[1:]:
        raise DataError(
            f"a gradient of shape {gradient.shape}, embeddings of {embeddings.shape}, tails of {tail.shape}",
            expected="(L, h), (V, h) and (L + 1,)",
            fix="pass what belongs to the same prompts",
        )
    products = gradient @ embeddings.T
    table = np.stack([_along(products[:, ids]) for ids in tokens], axis=1)
    if not (np.isfinite(table).all() and np.isfinite(tail).all() and np.isfinite(constant)):
        bad = np.flatnonzero(~np.isfinite(table).all(axis=0))[:5].tolist()
        raise NonFiniteError(
            f"NaN or infinity in the gradients, the embeddings or the outcome (candidates {bad})",
            expected="finite numbers",
            fix='look at these examples, or load the model with dtype="float32"',
        )
    return OffsetTable(table, tail, np.array([len(ids) for ids in tokens]), constant)


def tails(gradient: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return what a query (T, h) adds at each offset (L + 1,) of its own gradient (L, h)."""
    return _along(gradient @ query.T)


def _along(products: np.ndarray) -> np.ndarray:
    """Return sum_t products[o + t, t] for each offset o from 0 to L of (L, T); 0 beyond the end."""
    length, width = products.shape
    padded = np.zeros((length + width, width))
    padded[:length] = products
    found = np.zeros(length + 1)
    for place in range(width):
        found += padded[place : place + length + 1, place]
    return found
