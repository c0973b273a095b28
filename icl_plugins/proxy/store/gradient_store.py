"""The gradient store: per-example gradients on disk, computed once, resumed after any interruption.

A folder with ``manifest.json`` (what it was made from, which rows it holds; written last), ``writer.lock``
and ``shard-GGGG-BBBB.bin``, one file per block B and generation G of rows: the first pool is generation 0,
and rows that are added later make the next one, so that no file ever changes its size.

Rows are found by their fingerprint, not by their place: they may be added to a pool, removed from it or
reordered, and only those that the store has never seen are computed.
"""

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icl_plugins.errors import CorruptStoreError, DataError, SettingError, StoreError
from icl_plugins.proxy.store.blocks import Block, RowStatus
from icl_plugins.proxy.store.disk import disk_errors
from icl_plugins.proxy.store.layout import grow, match_slots, open_blocks
from icl_plugins.proxy.store.locking import WriterLock
from icl_plugins.proxy.store.manifest import Manifest
from icl_plugins.proxy.store.shards import Rows, Values


class GradientStore:
    """The gradients of one pool: ``blocks`` arrays (one per checkpoint) of N rows by ``width`` numbers.

    Made by ``open``. Rows are indices into the pool that was given there. A store with something left to
    compute is locked for this object until ``close``; a complete one may be read by many at once.
    """

    def __init__(self, folder: Path, wanted: Manifest, names: Sequence[str]) -> None:
        self._folder, self._wanted, self._names = folder, wanted, names
        self._lock: WriterLock | None = None
        self._features: dict[int, Values] = {}  # verified, by block
        self._read()

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        fingerprint: Mapping[str, str],
        row_fingerprints: Sequence[str],
        blocks: int,
        width: int,
        dtype: str = "float32",
    ) -> Self:
        """Create, resume or extend the store in the folder ``path``.

        fingerprint: name of a component (weights, tokenizer, template, prefix, settings, ...) -> its hash,
        for all that a gradient depends on besides its row; where it depends on the whole pool, that is one
        more component. row_fingerprints: sha256 of each row's content, in the pool's order. width: numbers
        per row, k * h. dtype: "float32" or "float16".

        Raises StaleStoreError naming the components that differ, CorruptStoreError, StoreLockedError,
        StoreError (disk full, no permission, newer schema), DataError (no rows) and SettingError.
        """
        if not row_fingerprints:
            raise DataError("a pool of no examples", expected="at least one", fix="check where it comes from")
        folder = Path(path)
        with disk_errors(folder):
            store = cls(folder, Manifest(fingerprint, blocks, width, dtype), row_fingerprints)
            if store._new or not store.complete:
                store._begin_writing()
        return store

    @staticmethod
    def remove_if_empty(path: str | Path) -> bool:
        """Remove a store that holds no row; return whether there is none at the path on return.

        Raises StoreLockedError while another process writes to it, CorruptStoreError and StoreError.
        """
        folder = Path(path)
        with disk_errors(folder):
            if Manifest.read(folder) is None:
                return True
            lock = WriterLock(folder / "writer.lock")
            try:
                manifest = Manifest.read(folder)
                if manifest is not None:
                    if any(block.status.any() for block in open_blocks(folder, manifest)):
                        return False
                    manifest.remove(folder)
            finally:
                lock.release()
        return True

    @property
    def status(self) -> NDArray[np.uint8]:
        """The RowStatus of every row at every block, (blocks, N)."""
        return np.stack([block.status[self._slots] for block in self._blocks])

    @property
    def complete(self) -> bool:
        """Whether no row of any block is empty."""
        return all(block.status[self._slots].all() for block in self._blocks)

    def missing(self, block: int) -> Rows:
        """Return the rows of a block that are still to be computed, ascending."""
        return np.flatnonzero(self._block(block).status[self._slots] == RowStatus.EMPTY)

    def write(self, block: int, rows: ArrayLike, values: ArrayLike) -> Rows:
        """Store values (len(rows), width) of distinct rows, replacing what was there; on the disk on return.

        Returns the rows that are not finite in the store's dtype (float16 ends at 65504): they are kept as
        they are, with status NON_FINITE. Raises SettingError for wrong shapes or rows, StoreLockedError, and
        StoreError when the disk fails: every row is then whole or empty.
        """
        rows, values = self._valid_rows(rows), np.asarray(values)
        if values.shape != (len(rows), self._wanted.width) or values.dtype.kind != "f":
            raise SettingError(
                f"values of shape {values.shape} and dtype {values.dtype}",
                expected=f"floating-point numbers of shape {(len(rows), self._wanted.width)}",
                fix="give one gradient per row",
            )
        self._put(block, rows, values, RowStatus.WRITTEN)
        return rows[np.equal(self._block(block).status[self._slots[rows]], RowStatus.NON_FINITE)]

    def mark_skipped(self, rows: ArrayLike) -> None:
        """Mark rows as left out on purpose, at every block; their features read as NaN, never as zero."""
        rows = self._valid_rows(rows)
        for block, status in enumerate(self.status):
            changed = rows[status[rows] != RowStatus.SKIPPED]
            nothing = np.broadcast_to(np.float32(np.nan), (len(changed), self._wanted.width))
            self._put(block, changed, nothing, RowStatus.SKIPPED)

    def features(self, block: int) -> Values:
        """Return a block (N, width), read-only and mapped from the disk; the status says which rows are NaN.

        The first call verifies every checksum. Rows whose order in the pool is not that in the store are
        copied to a temporary file, else there is no copy. Raises StoreError when rows are missing, and
        CorruptStoreError naming the rows that do not match their checksums.
        """
        missing = self.missing(block)
        if len(missing):
            raise StoreError(
                f"block {block} of {self._folder} lacks {len(missing)} rows, first {missing[:5].tolist()}",
                expected="every row written or skipped",
                fix="compute the rows that missing() returns",
            )
        if block not in self._features:
            damaged = self._damaged(block)
            if len(damaged):
                raise CorruptStoreError(
                    f"block {block} of {self._folder}: {len(damaged)} rows, first {damaged[:5].tolist()}, "
                    "do not match their checksums",
                    expected="rows as they were written",
                    fix=f"delete shard-*-{block:04d}.bin or call repair(): only lost rows are computed again",
                )
            with disk_errors(self._folder):
                self._features[block] = self._block(block).gather(self._slots)
        return self._features[block]

    def repair(self) -> dict[int, Rows]:
        """Read the whole store, mark damaged rows as empty (hence missing), and return them by block.

        Raises StoreLockedError when there is something to repair and another process is writing.
        """
        damaged = {block: self._damaged(block) for block in range(self._wanted.blocks)}
        damaged = {block: rows for block, rows in damaged.items() if len(rows)}
        for block, rows in damaged.items():
            with disk_errors(self._folder):
                self._begin_writing()
                self._block(block).set_empty(self._slots[rows])
        return damaged

    def close(self) -> None:
        """Let another process write; what ``features`` returned stays readable."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""
        self.close()

    def _read(self) -> None:
        """Take over what is on the disk; ``_new`` are the rows that it has no slot for."""
        stored = Manifest.read(self._folder)
        if stored is not None:
            stored.require(self._wanted, self._folder)
        self._manifest = stored or self._wanted
        self._slots, self._new = match_slots(self._manifest, self._names)
        self._blocks = open_blocks(self._folder, self._manifest)

    def _begin_writing(self) -> None:
        if self._lock is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = WriterLock(self._folder / "writer.lock")
        try:
            self._read()  # another writer may have been at work until now
            grow(self._folder, self._manifest, self._new)
            self._read()
        except BaseException:
            self.close()
            raise

    def _put(self, block: int, rows: Rows, values: Values, status: RowStatus) -> None:
        if not len(rows):
            return
        with disk_errors(self._folder, values.nbytes):
            self._begin_writing()
            self._block(block).write(self._slots[rows], values, status)
        self._features.pop(block, None)

    def _damaged(self, block: int) -> Rows:
        filled = np.flatnonzero(self._block(block).status[self._slots])
        with disk_errors(self._folder):
            return filled[self._block(block).damaged(self._slots[filled])]

    def _block(self, block: int) -> Block:
        if not 0 <= operator.index(block) < len(self._blocks):
            raise SettingError(
                f"block {block}", expected=f"0 to {len(self._blocks) - 1}", fix="count checkpoints from 0"
            )
        return self._blocks[block]

    def _valid_rows(self, rows: ArrayLike) -> Rows:
        found = np.asarray(rows)
        if found.size == 0:
            return np.empty(0, np.int64)
        inside = found.dtype.kind in "iu" and ((found >= 0) & (found < len(self._slots))).all()
        if found.ndim != 1 or not inside or len(np.unique(found)) < len(found):
            raise SettingError(
                f"rows {found.ravel()[:5].tolist()}... of shape {found.shape}",
                expected=f"distinct row numbers from 0 to {len(self._slots) - 1}",
                fix="use the rows that missing() returns",
            )
        return found.astype(np.int64)
