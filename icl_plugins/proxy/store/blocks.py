"""One block of a gradient store: the gradients of every row at one checkpoint, in one or more shards."""

from collections.abc import Iterator, Sequence
from enum import IntEnum
from tempfile import TemporaryFile

import numpy as np
from numpy.typing import NDArray

from icl_plugins.proxy.store.disk import reserve
from icl_plugins.proxy.store.shards import Rows, Shard, Values, span


class RowStatus(IntEnum):
    """What a row of a block holds."""

    EMPTY = 0
    WRITTEN = 1
    NON_FINITE = 2
    SKIPPED = 3


class Block:
    """The shards of one block as if they were one array, whose rows are called slots.

    status: (slots,), as on disk; a shard without a file is empty. Slots given to the methods are distinct
    and in any order. OSErrors pass.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = shards
        self._starts = np.cumsum([0, *(shard.rows for shard in shards)])
        self.status = np.zeros(self._starts[-1], np.uint8)
        for start, shard in zip(self._starts, shards, strict=False):
            if shard.exists():
                self.status[start : start + shard.rows] = shard.status()

    def write(self, slots: Rows, values: Values, status: RowStatus) -> None:
        """Store values (len(slots), width); a row that is WRITTEN but not finite becomes NON_FINITE."""
        self.set_empty(slots[self.status[slots] != RowStatus.EMPTY])
        for shard, rows, chosen in self._by_shard(slots):
            with np.errstate(over="ignore"):  # float16 may overflow; the status tells
                data = np.ascontiguousarray(values[span(chosen)], shard.dtype)
            state = np.full(len(rows), status, np.uint8)
            if status == RowStatus.WRITTEN:
                state[~np.isfinite(data).all(axis=1)] = RowStatus.NON_FINITE
            shard.write(rows, data, state)
            self.status[slots[chosen]] = state

    def set_empty(self, slots: Rows) -> None:
        """Forget what slots hold."""
        for shard, rows, chosen in self._by_shard(slots):
            shard.set_empty(rows)
            self.status[slots[chosen]] = RowStatus.EMPTY

    def damaged(self, slots: Rows) -> NDArray[np.bool_]:
        """Compare slots that are not empty with their checksums; True where they differ."""
        found = np.zeros(len(slots), bool)
        for shard, rows, chosen in self._by_shard(slots):
            found[chosen] = shard.damaged(rows)
        return found

    def gather(self, slots: Rows) -> Values:
        """Map slots (len(slots), width) read-only: in place if they are one run of one shard, else copied.

        The copy is a temporary file without a name, so that memory stays bounded.
        """
        index = int(np.searchsorted(self._starts, slots[0], side="right")) - 1
        shard, start, end = self.shards[index], *self._starts[index : index + 2]
        if isinstance(span(slots), slice) and slots[-1] < end:
            return shard.values()[slots[0] - start : slots[-1] + 1 - start]
        folder = shard.path.parent
        with TemporaryFile(dir=folder) as file:
            reserve(file, len(slots) * shard.row_bytes, folder)
            copy = np.memmap(file, shard.dtype, mode="r+", shape=(len(slots), shard.width))
        for shard, rows, chosen in self._by_shard(slots):
            copy[span(chosen)] = shard.values()[span(rows)]
        copy.flags.writeable = False
        return copy

    def _by_shard(self, slots: Rows) -> Iterator[tuple[Shard, Rows, Rows]]:
        """Yield a shard, rows of it (ascending, few enough for memory) and where in ``slots`` they stand."""
        order = np.argsort(slots, kind="stable")
        bounds = np.searchsorted(slots[order], self._starts)
        for index, shard in enumerate(self.shards):
            own = order[bounds[index] : bounds[index + 1]]
            for first in range(0, len(own), shard.chunk_rows):
                chosen = own[first : first + shard.chunk_rows]
                yield shard, slots[chosen] - self._starts[index], chosen
