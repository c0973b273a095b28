"""A gradient store that keeps nothing: for a pool that is used once and fits in memory."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np
import psutil
from numpy.typing import NDArray

from icl_plugins.errors import StoreError
from icl_plugins.proxy.store.blocks import RowStatus


class MemoryStore:
    """Blocks of N rows by ``width`` float32 numbers, with the methods of GradientStore.

    Raises StoreError before anything is computed if they would take more than nine tenths of free memory.
    """

    def __init__(self, rows: int, blocks: int, width: int) -> None:
        needed, free = 4 * rows * blocks * width, psutil.virtual_memory().available
        if needed > 0.9 * free:
            raise StoreError(
                f"{rows} examples x {blocks} checkpoints x {width} numbers take {needed / 1e9:.1f} GB",
                expected=f"at most nine tenths of the {free / 1e9:.1f} GB of memory that are free",
                fix="name a folder as store (--store), so that they stay on the disk; or take fewer epochs",
            )
        self.status = np.zeros((blocks, rows), dtype=np.uint8)
        self._values = [np.full((rows, width), np.nan, dtype=np.float32) for _ in range(blocks)]

    def missing(self, block: int) -> NDArray[np.int64]:
        """Return the rows of a block that are still to be computed."""
        return np.flatnonzero(self.status[block] == RowStatus.EMPTY)

    def write(self, block: int, rows: Sequence[int], values: NDArray[np.float32]) -> None:
        """Keep the values of some rows, those that are not finite with status NON_FINITE."""
        self._values[block][rows] = values
        finite = np.isfinite(values).all(axis=1)
        self.status[block, rows] = np.where(finite, RowStatus.WRITTEN, RowStatus.NON_FINITE)

    def mark_skipped(self, rows: Sequence[int]) -> None:
        """Mark rows as left out on purpose; their features stay NaN."""
        self.status[:, rows] = RowStatus.SKIPPED

    def features(self, block: int) -> NDArray[np.float32]:
        """Return a block (N, width)."""
        return self._values[block]

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to close."""
