"""One file of a gradient store: a fixed number of rows, each with its checksum and its status.

Layout, little-endian: values (rows, width), then a record per row of its crc32 and its status, uint32 each.
The size follows from the shape alone, so a file that was cut or grew is known at once.
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from icl_plugins.errors import CorruptStoreError
from icl_plugins.proxy.store.disk import regular_file_size, reserve

Values = NDArray[np.floating[Any]]
Rows = NDArray[np.int64]

_RECORD = np.dtype([("checksum", "<u4"), ("status", "<u4")])  # 8 bytes: never across two disk sectors
_CHUNK_BYTES = 16 << 20
_sync = getattr(os, "fdatasync", os.fsync)  # files never change their size


@dataclass(frozen=True)
class Shard:
    """The rows of one block that were added to a store together; opens its file anew for each call."""

    path: Path
    rows: int
    width: int
    dtype: np.dtype[Any]

    @property
    def row_bytes(self) -> int:
        """Bytes of the values of one row."""
        return self.width * self.dtype.itemsize

    @property
    def chunk_rows(self) -> int:
        """Rows to hold in memory at a time."""
        return max(1, _CHUNK_BYTES // self.row_bytes)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.rows * (self.row_bytes + _RECORD.itemsize)

    def exists(self) -> bool:
        """Return whether the file is there; raises CorruptStoreError when it has another size or kind."""
        size = regular_file_size(self.path)
        if size not in (None, self.size):
            raise CorruptStoreError(
                f"{self.path} has {size} bytes",
                expected=f"{self.size} bytes",
                fix="delete this file; its rows are then computed again",
            )
        return size is not None

    def allocate(self) -> None:
        """Create the file, every row empty and its room on the disk reserved; under its name when whole."""
        unfinished = self.path.with_suffix(".part")
        unfinished.unlink(missing_ok=True)
        try:
            with open(unfinished, "xb") as file:
                reserve(file, self.size, self.path.parent)
                os.fsync(file.fileno())
            os.replace(unfinished, self.path)
        finally:
            unfinished.unlink(missing_ok=True)

    def values(self) -> Values:
        """Map the values (rows, width) from the file, read-only."""
        return np.memmap(self.path, self.dtype, mode="r", shape=(self.rows, self.width))

    def status(self) -> NDArray[np.uint8]:
        """Read the status (rows,)."""
        return self._records()["status"].astype(np.uint8)

    def write(self, rows: Rows, values: Values, status: NDArray[np.uint8]) -> None:
        """Store rows (ascending, distinct) that are empty so far; on the disk on return.

        values: (rows, width), contiguous and of this dtype. The records, which vouch for them, are written
        only when the values are on the disk: a kill or power cut at any byte leaves no row half written.
        """
        records = np.zeros(len(rows), _RECORD)
        records["checksum"], records["status"] = self._checksums(rows, values, status), status
        with self._open() as file:
            for run in _runs(rows):
                _write_at(file, rows[run][0] * self.row_bytes, values[run])
            _sync(file.fileno())
            self._write_records(file, rows, records)
            _sync(file.fileno())

    def set_empty(self, rows: Rows) -> None:
        """Make rows (ascending, distinct) empty, on the disk on return."""
        records = self._records()[rows]
        records["status"] = 0  # the checksum stays: half of this write must not look like damage
        with self._open() as file:
            self._write_records(file, rows, records)
            _sync(file.fileno())

    def damaged(self, rows: Rows) -> NDArray[np.bool_]:
        """Compare rows that are not empty with their checksums; True where they differ."""
        records = self._records()[rows]
        found = self._checksums(rows, self.values()[span(rows)], records["status"])
        differ: NDArray[np.bool_] = records["checksum"] != found
        return differ

    def _open(self) -> BinaryIO:
        return open(self.path, "r+b", buffering=0)

    def _records(self) -> NDArray[Any]:
        return np.fromfile(self.path, _RECORD, offset=self.rows * self.row_bytes)

    def _write_records(self, file: BinaryIO, rows: Rows, records: NDArray[Any]) -> None:
        start = self.rows * self.row_bytes
        for run in _runs(rows):
            _write_at(file, start + rows[run][0] * _RECORD.itemsize, records[run])

    def _checksums(
        self, rows: Rows, values: Values, status: NDArray[np.unsignedinteger]
    ) -> NDArray[np.uint32]:
        # Seeded with place and status, so that a row at a wrong place or a flipped status is noticed too.
        seeds = zlib.crc32(self.path.name.encode()) + 4 * rows + status
        checksums = [zlib.crc32(row, seed) for row, seed in zip(values, seeds.tolist(), strict=True)]
        return np.array(checksums, np.uint32)


def span(rows: Rows) -> Rows | slice:
    """Return rows as a slice where they are one ascending run, since indexing by it copies nothing."""
    return slice(rows[0], rows[-1] + 1) if len(rows) and (np.diff(rows) == 1).all() else rows


def _runs(rows: Rows) -> Iterator[slice]:
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1), len(rows)]
    starts = [0, *ends[:-1]]
    return (slice(start, end) for start, end in zip(starts, ends, strict=True))


def _write_at(file: BinaryIO, offset: int, data: NDArray[Any]) -> None:
    file.seek(int(offset))
    rest = data.data.cast("B")
    while rest:
        rest = rest[file.write(rest) :]
