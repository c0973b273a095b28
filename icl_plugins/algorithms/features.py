"""The features of a pool, read tile by tile: scaled and centred on the fly, never copied whole."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from icl_plugins.algorithms.arrays import as_features, native, refuse_non_finite, release
from icl_plugins.errors import DataError

# Large enough that calls cost little, small enough that a tile in float64 (4 MB) stays in the cache between
# its conversion and the product. The columns bound the rounding of a product: see FeatureKernel.
TILE_ROWS, TILE_COLUMNS = 512, 1024


@dataclass(frozen=True, eq=False)
class Features:
    """(N, d) features as blocks (N, d_e) side by side, one per checkpoint, with their scales.

    The feature of row i is row_scale[i] * [block_scale[e] * blocks[e][i] for each e]. blocks: arrays in
    memory or on disk (np.memmap), float16, float32 or float64; block_scale: (E,) float64; row_scale: (N,)
    float64; rows: which rows of the blocks are the pool, (N,) int64, or None: all of them.
    """

    blocks: tuple[np.ndarray, ...]
    block_scale: np.ndarray
    row_scale: np.ndarray | None = None
    rows: np.ndarray | None = None

    @classmethod
    def of(cls, features: Any) -> "Features":
        """Wrap one (N, d) array or tensor, or a sequence of blocks (N, d_e), without a copy.

        Tensors of another device and bfloat16 tensors are copied. Raises DataError for anything that is not
        floating point of two dimensions, for no rows, no columns, and for blocks of unequal numbers of rows.
        """
        if isinstance(features, Features):
            return features
        blocks = features if isinstance(features, Sequence) else (features,)
        arrays = tuple(as_features(block) for block in blocks)
        if len({len(array) for array in arrays}) != 1:
            raise DataError(
                f"blocks of {[len(array) for array in arrays][:20]} rows",
                expected="one block at least, all with the same rows",
                fix="pass one block for each checkpoint, made from the same pool",
            )
        return cls(arrays, np.ones(len(arrays)))

    def __len__(self) -> int:
        """Return N."""
        return len(self.blocks[0]) if self.rows is None else len(self.rows)

    @property
    def widths(self) -> tuple[int, ...]:
        """The width d_e of each block."""
        return tuple(block.shape[1] for block in self.blocks)

    @property
    def roundoff(self) -> float:
        """The unit roundoff of a product computed at the precision of the blocks: 2**-24 or 2**-53."""
        return 2.0**-53 if all(block.dtype.itemsize == 8 for block in self.blocks) else 2.0**-24

    def take(self, rows: np.ndarray) -> "Features":
        """Return the features of some rows, in that order, without a copy."""
        chosen = np.arange(len(self))[rows]
        return replace(
            self,
            rows=chosen if self.rows is None else self.rows[chosen],
            row_scale=None if self.row_scale is None else self.row_scale[chosen],
        )

    def scaled(self, factor: float) -> "Features":
        """Return the features times a factor, without a copy."""
        return replace(self, block_scale=self.block_scale * factor)

    def tile(self, block: int, rows: slice | np.ndarray, columns: slice) -> np.ndarray:
        """Return a tile of a block as stored, but native and float16 as float32; not to be written to."""
        return native(self.blocks[block][rows if self.rows is None else self.rows[rows], columns])

    def tiles(self, block: int, rows: slice) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (columns, tile) over some rows of a block as stored."""
        for columns in self.columns(block):
            yield columns, self.tile(block, rows, columns)
        release(self.blocks[block])

    def spans(self) -> Iterator[slice]:
        """Yield the row ranges that are read together."""
        for start in range(0, len(self), TILE_ROWS):
            yield slice(start, min(start + TILE_ROWS, len(self)))

    def columns(self, block: int) -> Iterator[slice]:
        """Yield the column ranges of a block that are read together."""
        for start in range(0, self.blocks[block].shape[1], TILE_COLUMNS):
            yield slice(start, min(start + TILE_COLUMNS, self.blocks[block].shape[1]))

    def centred_tiles(
        self, block: int, rows: slice, target: np.ndarray
    ) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (columns, tile) over some rows of a block: scaled, less its target (d_e,), float64.

        A tile is overwritten by the next.
        """
        buffer = np.empty((rows.stop - rows.start, TILE_COLUMNS))
        for columns in self.columns(block):
            tile = buffer[:, : columns.stop - columns.start]
            self.centre(block, rows, columns, target[columns], out=tile)
            yield columns, tile
        release(self.blocks[block])

    def centre(
        self, block: int, rows: slice | np.ndarray, columns: slice, target: np.ndarray, out: np.ndarray
    ) -> None:
        """Write some rows and columns, scaled and less their part of the target, to a float64 array."""
        np.copyto(out, self.tile(block, rows, columns))
        if self.row_scale is not None:
            out *= self.row_scale[rows, None]
        if self.block_scale[block] != 1:
            out *= self.block_scale[block]
        out -= target

    def centred(self, rows: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return some rows less the target: (len(rows), d) float64."""
        result = np.empty((len(rows), sum(self.widths)))
        for (block, centre), (_, out) in zip(self.parts(target), self.parts(result), strict=True):
            self.centre(block, rows, slice(None), centre, out)
            release(self.blocks[block])
        return result

    def parts(self, array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the number of each block and the view of its columns in an (..., d) array."""
        start = 0
        for block, width in enumerate(self.widths):
            yield block, array[..., start : start + width]
            start += width

    def largest(self) -> np.ndarray:
        """Return the largest magnitude of each block as stored, (E,) float64.

        Raises NonFiniteError naming the rows that hold NaN or infinity.
        """
        peaks = np.zeros((len(self.blocks), len(self)))
        for block in range(len(self.blocks)):
            for rows in self.spans():
                for _, tile in self.tiles(block, rows):
                    # NaN wins in maximum and minimum, so one pass finds it as well.
                    peak = np.maximum(tile.max(axis=1), -tile.min(axis=1))
                    np.maximum(peaks[block, rows], peak, out=peaks[block, rows])
        refuse_non_finite(peaks.T)
        result: np.ndarray = peaks.max(axis=1)
        return result

    def mean(self) -> np.ndarray:
        """Return the mean of the rows, (d,) float64."""
        weights = np.ones(len(self)) if self.row_scale is None else self.row_scale
        total = np.zeros(sum(self.widths))
        for block, sums in self.parts(total):
            for rows in self.spans():
                for columns, tile in self.tiles(block, rows):
                    sums[columns] += weights[rows] @ tile.astype(np.float64)
            sums *= self.block_scale[block] / len(self)
        return total


def gram_matrix(features: Features, target: np.ndarray) -> np.ndarray:
    """Return the (N, N) float64 Gram matrix of the features less the target (d,)."""
    gram = np.zeros((len(features), len(features)))
    buffer = np.empty((len(features), TILE_COLUMNS))
    for block, centre in features.parts(target):
        for columns in features.columns(block):
            strip = buffer[:, : columns.stop - columns.start]
            for rows in features.spans():
                features.centre(block, rows, columns, centre[columns], out=strip[rows])
                release(features.blocks[block])
            # A matrix times its own transpose: BLAS computes one triangle and mirrors it.
            gram += strip @ strip.T
    return gram
