"""Inner products of centred features u, from the features themselves or from their Gram matrix.

Both kernels answer the same questions for matching, with the same picks: which row brings the sum of the
chosen ones nearest to zero, and what are the rows of the Gram matrix.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from icl_plugins.algorithms.features import TILE_COLUMNS, Features

# Scores that differ by less than this, relative to the norms they come from, count as equal: float64 sums
# of the same numbers in another order differ by about 1e-15, and the lower index must win such a tie.
TIE = 1e-12


class Kernel(Protocol):
    """What matching needs to know of the centred features."""

    squared_norms: np.ndarray

    def clear(self) -> None:
        """Forget the chosen rows."""

    def add(self, row: int) -> None:
        """Add a row to the chosen ones."""

    def pick(self, allowed: np.ndarray) -> int:
        """Return the allowed row that brings the sum of the chosen ones nearest to zero; ties: the lowest."""

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Return rows of the Gram matrix, (len(indices), N) float64."""

    def lengths(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the norms of the sums of the first 1..n rows, and of the sum of all but each one."""


@dataclass(eq=False)
class GramKernel:
    """Inner products read from the (N, N) float64 Gram matrix of centred features."""

    gram: np.ndarray
    products: np.ndarray = field(init=False)
    squared_norms: np.ndarray = field(init=False)
    spread: float = 0.0

    def __post_init__(self) -> None:
        """Start with nothing chosen."""
        self.squared_norms = self.gram.diagonal().copy()
        self.clear()

    def clear(self) -> None:
        """Forget the chosen rows."""
        self.products = np.zeros(len(self.gram))
        self.spread = 0.0

    def add(self, row: int) -> None:
        """Add a row to the chosen ones: one row of the matrix."""
        self.products += self.gram[row]
        self.spread += float(self.squared_norms[row])

    def pick(self, allowed: np.ndarray) -> int:
        """Return the allowed row that brings the sum nearest to zero."""
        rows = np.flatnonzero(allowed)
        scores = self.squared_norms[rows] + 2 * self.products[rows]
        return lowest_of_best(rows, scores, self.squared_norms[rows], self.spread)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Return rows of the matrix, copied."""
        rows: np.ndarray = self.gram[indices]
        return rows

    def lengths(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return prefix norms and leave-one-out norms; rounding limits them to about 1e-8 of a row's norm."""
        block = self.gram[np.ix_(indices, indices)]
        prefix = block.cumsum(axis=0).cumsum(axis=1).diagonal()
        without = prefix[-1] - 2 * block.sum(axis=0) + block.diagonal()
        return np.sqrt(np.maximum(prefix, 0)), np.sqrt(np.maximum(without, 0))


@dataclass(eq=False)
class FeatureKernel:
    """Inner products computed from the features, one pass over them for each question."""

    features: Features
    target: np.ndarray
    peaks: np.ndarray
    squared_norms: np.ndarray = field(init=False)
    total: np.ndarray = field(init=False)
    spread: float = 0.0

    def __post_init__(self) -> None:
        """Compute the squared norms; nothing is chosen yet."""
        self.clear()
        self.squared_norms = np.zeros(len(self.features))
        for block, centre in self.features.parts(self.target):
            for span in self.features.spans():
                for _, tile in self.features.centred_tiles(block, span, centre):
                    self.squared_norms[span] += np.einsum("ij,ij->i", tile, tile)

    def clear(self) -> None:
        """Forget the chosen rows."""
        self.total = np.zeros_like(self.target)
        self.spread = 0.0

    def add(self, row: int) -> None:
        """Add a row to the chosen ones."""
        self.total += self._centred(np.asarray([row]))[0]
        self.spread += float(self.squared_norms[row])

    def pick(self, allowed: np.ndarray) -> int:
        """Return the allowed row that brings the sum nearest to zero.

        One product at the precision of the data bounds every score from both sides; the rows whose bounds
        overlap with the best are then scored in float64, so the pick is that of float64 throughout.
        """
        rows = np.flatnonzero(allowed)
        products, errors = self._approximate_products()
        scores = self.squared_norms[rows] + 2 * products[rows]
        close = rows[scores - 2 * errors[rows] <= (scores + 2 * errors[rows]).min()]
        if len(close) == 1:
            return int(close[0])
        exact = np.empty(len(close))
        for start in range(0, len(close), 64):
            batch = close[start : start + 64]
            exact[start : start + 64] = self.squared_norms[batch] + 2 * (self._centred(batch) @ self.total)
        return lowest_of_best(close, exact, self.squared_norms[close], self.spread)

    def rows(self, indices: np.ndarray) -> np.ndarray:
        """Return rows of the Gram matrix by one float64 product with all features."""
        chosen = self._centred(indices)
        result = np.zeros((len(indices), len(self.features)))
        for (block, centre), (_, ours) in zip(
            self.features.parts(self.target), self.features.parts(chosen), strict=True
        ):
            for span in self.features.spans():
                for columns, tile in self.features.centred_tiles(block, span, centre):
                    result[:, span] += ours[:, columns] @ tile.T
        return result

    def lengths(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return prefix norms and leave-one-out norms, from the sums themselves."""
        total = np.zeros_like(self.target)
        prefix, without = np.empty(len(indices)), np.empty(len(indices))
        for position, row in enumerate(indices):
            total += self._centred(row[None])[0]
            prefix[position] = np.linalg.norm(total)
        for position, row in enumerate(indices):
            without[position] = np.linalg.norm(total - self._centred(row[None])[0])
        return prefix, without

    def _centred(self, rows: np.ndarray) -> np.ndarray:
        return self.features.centred(rows, self.target)

    def _approximate_products(self) -> tuple[np.ndarray, np.ndarray]:
        """Return <u, total> for all rows, (N,), and a bound on the error of each.

        A sum of at most 1024 products, in any order, is off by less than 1024 roundoffs of the product of
        the norms; tiles are added in float64.
        """
        features = self.features
        products = np.zeros(len(features))
        if not self.total.any():
            return products, TIE * self.squared_norms
        for block, ours in features.parts(self.total):
            vector, unit = _safe_vector(ours * features.block_scale[block], float(self.peaks[block]))
            vector = vector.astype(np.float64 if features.blocks[block].dtype.itemsize == 8 else np.float32)
            for span in features.spans():
                partial = np.zeros(span.stop - span.start)
                for columns, tile in features.tiles(block, span):
                    partial += tile @ vector[columns]
                products[span] += partial * unit
        if features.row_scale is not None:
            products *= features.row_scale
        products -= self.target @ self.total
        norms = np.sqrt(self.squared_norms) + np.linalg.norm(self.target)
        errors = 1.01 * (TILE_COLUMNS + 2) * features.roundoff * norms * np.linalg.norm(self.total)
        return products, errors + TIE * self.squared_norms


def lowest_of_best(rows: np.ndarray, scores: np.ndarray, squared_norms: np.ndarray, spread: float) -> int:
    """Return the lowest of the rows whose score is the least up to rounding."""
    best = int(scores.argmin())
    size = float(squared_norms[best])
    return int(rows[scores <= scores[best] + TIE * (size + np.sqrt(size * spread))].min())


def _safe_vector(vector: np.ndarray, peak: float) -> tuple[np.ndarray, float]:
    """Return (vector / unit, unit), unit a power of two that keeps products with up to `peak` in range."""
    largest = float(np.abs(vector).max())
    if largest == 0 or peak == 0:
        return vector, 1.0
    # Within 2**+-126 for the vector and 2**60 for its products, float32 neither overflows nor vanishes.
    exponent = min(int(60 - np.frexp(peak)[1]), 126) - int(np.frexp(largest)[1])
    return np.ldexp(vector, exponent), float(np.ldexp(1.0, -exponent))
