"""Which slots and files a gradient store has, and how it grows: shards first, the manifest last."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from icl_plugins.proxy.store.blocks import Block
from icl_plugins.proxy.store.disk import disk_errors
from icl_plugins.proxy.store.manifest import DTYPES, Manifest
from icl_plugins.proxy.store.shards import Rows, Shard


def match_slots(manifest: Manifest, names: Sequence[str]) -> tuple[Rows, list[str]]:
    """Return the slot of each row fingerprint, and those fingerprints that still need one.

    Equal fingerprints get slots of their own, in order; new ones are counted on from the last slot.
    """
    if " ".join(map(str, names)) == manifest.rows:  # ten times faster, and what nearly every run meets
        return np.arange(len(names)), []
    known = manifest.names()
    free: dict[str, list[int]] = {}
    for slot in reversed(range(len(known))):
        free.setdefault(known[slot], []).append(slot)
    slots: list[int] = []
    new: list[str] = []
    for name in names:
        if not free.get(name):
            free[name] = [len(known) + len(new)]
            new.append(name)
        slots.append(free[name].pop())
    return np.array(slots, np.int64), new


def open_blocks(folder: Path, manifest: Manifest) -> list[Block]:
    """Return the blocks of a store; raises CorruptStoreError for a shard that was cut or grew."""
    return [Block(_shards(folder, manifest, block)) for block in range(manifest.blocks)]


def grow(folder: Path, manifest: Manifest, names: Sequence[str]) -> None:
    """Add rows with these fingerprints, and make shards anew that were deleted; all or nothing.

    Room on the disk is taken now, so that a full disk is met before the work and not in its middle. Raises
    StoreError with needed and free bytes.
    """
    if not manifest.shards:
        manifest.write(folder)  # tells a new store from one that has lost its manifest
    grown = manifest.with_rows(names) if names else manifest
    lacking = [
        shard
        for block in range(grown.blocks)
        for generation, shard in enumerate(_shards(folder, grown, block))
        # What an interrupted call has left of a new generation may be of another size.
        if generation >= len(manifest.shards) or not shard.exists()
    ]
    with disk_errors(folder, sum(shard.size for shard in lacking)):
        try:
            for shard in lacking:
                shard.allocate()
        except BaseException:
            for shard in lacking:
                shard.path.unlink(missing_ok=True)
            raise
    if names:
        grown.write(folder)


def _shards(folder: Path, manifest: Manifest, block: int) -> list[Shard]:
    dtype = np.dtype(DTYPES[manifest.dtype])
    return [
        Shard(folder / f"shard-{generation:04d}-{block:04d}.bin", rows, manifest.width, dtype)
        for generation, rows in enumerate(manifest.shards)
    ]
