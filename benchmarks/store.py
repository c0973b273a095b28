"""B7 and B8, the gradient store: bandwidth, size, opening, reading, and what a kill costs.

Writing: raw writes (one sync each) and calls of the store in turns, into files reserved beforehand; median
call. Opening: stores of 10 GB with all rows written; fastest of the runs. Resuming: a forked driver that
needs 20 ms per batch is killed at 10, 50 and 90 % of its rows. Processor times stand beside wall times, since
other work on the machine slows only the latter.
Run: python benchmarks/store.py [folder on the disk to measure]
"""

import hashlib
import os
import resource
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from icl_plugins.proxy.store import GradientStore, RowStatus, shards

WIDE = 16_384  # k = 4 prefix embeddings of a model with h = 4096: 64 KiB per row
RUNS = 5
BATCH_SECONDS = 0.02


def fingerprints(rows: int) -> list[str]:
    return [hashlib.sha256(b"%d" % row).hexdigest() for row in range(rows)]


def open_store(folder: Path, names: list[str], blocks: int, width: int) -> GradientStore:
    return GradientStore.open(
        folder, fingerprint={"weights": "0" * 64}, row_fingerprints=names, blocks=blocks, width=width
    )


def clocks() -> np.ndarray:
    """Wall and processor time in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def writing(folder: Path, megabytes: int, calls: int = 40) -> None:
    rows = megabytes * 16
    values = np.random.default_rng(0).standard_normal((rows, WIDE), np.float32)
    raw, ours = [], []
    with (
        open(folder / "raw.bin", "wb", buffering=0) as file,
        open_store(folder / "store", fingerprints(calls * rows), 1, WIDE) as store,
    ):
        os.posix_fallocate(file.fileno(), 0, calls * values.nbytes)
        for call in range(calls):
            start = clocks()
            file.write(values.data.cast("B"))
            os.fdatasync(file.fileno())
            middle = clocks()
            store.write(0, np.arange(call * rows, (call + 1) * rows), values)
            raw.append(middle - start)
            ours.append(clocks() - middle)
    (raw_wall, raw_processor), (wall, processor) = np.median(raw, axis=0), np.median(ours, axis=0)
    print(f"append {megabytes} MiB a call: raw {values.nbytes / raw_wall / 1e6:.0f} MB/s, ", end="")
    print(f"store {values.nbytes / wall / 1e6:.0f} MB/s, {raw_wall / wall:.0%} (goal 80 %); ", end="")
    print(f"processor {1000 * raw_processor:.1f} and {1000 * processor:.1f} ms a call")


def opening(folder: Path, rows: int, blocks: int, width: int) -> None:
    names, seconds = fingerprints(rows), []
    written = np.array([(0, RowStatus.WRITTEN)] * rows, shards._RECORD)
    with open_store(folder, names, blocks, width) as store:
        for block in store._blocks:  # opening reads no values, so that the records are enough
            with block.shards[0]._open() as file:
                block.shards[0]._write_records(file, np.arange(rows), written)
    for _ in range(RUNS):
        start = clocks()
        store = open_store(folder, names, blocks, width)
        seconds.append(clocks() - start)
        assert store.complete
    wall, processor = 1000 * np.min(seconds, axis=0)
    data, size = rows * blocks * width * 4, sum(file.stat().st_size for file in folder.iterdir())
    print(f"open {data / 1e9:.1f} GB ({rows} rows, {blocks} blocks, width {width}): ", end="")
    print(f"{wall:.0f} ms, processor {processor:.0f} ms (goal 50); ", end="")
    print(f"size {size / data:.4f} of the values (goal 1.01)")


def reading(folder: Path, rows: int = 8192) -> None:
    names = fingerprints(rows)
    with open_store(folder, names, 1, WIDE) as store:
        store.write(0, np.arange(rows), np.broadcast_to(np.float32(1), (rows, WIDE)))
    with open_store(folder, names, 1, WIDE) as store:
        start = clocks()
        store.features(0)
        wall, processor = rows * WIDE * 4 / (clocks() - start) / 1e9
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"first read of 512 MiB with its checksums: {wall:.2f} GB/s, processor {processor:.2f} GB/s; ", end=""
    )
    print(f"largest resident size of writing and reading it {memory:.0f} MiB")


def drive(folder: Path, progress: int | None = None) -> None:
    """Compute what is missing, 32 rows a batch, as a proxy would that needs BATCH_SECONDS for each."""
    with open_store(folder, fingerprints(3200), 1, 1024) as store:
        missing = store.missing(0)
        for rows in np.split(missing, range(32, len(missing), 32)):
            time.sleep(BATCH_SECONDS)
            store.write(0, rows, np.repeat(rows[:, None], 1024, axis=1).astype(np.float32))
            if progress is not None:
                os.write(progress, b".")


def killed(folder: Path, batches: int) -> None:
    """Kill a run in the batch after these, and finish it with another."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        drive(folder, writer)
        os._exit(0)
    for _ in range(batches):
        os.read(reader, 1)
    time.sleep(BATCH_SECONDS / 2)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    drive(folder)


def resuming(folder: Path, percent: int) -> None:
    ratios = []
    for run in range(RUNS):
        whole, pieces = folder / f"whole-{run}", folder / f"pieces-{run}"
        start = time.perf_counter()
        drive(whole)
        middle = time.perf_counter()
        killed(pieces, percent)  # there are 100 batches
        ratios.append((time.perf_counter() - middle - BATCH_SECONDS) / (middle - start))
        name = "shard-0000-0000.bin"
        assert (whole / name).read_bytes() == (pieces / name).read_bytes(), "a resumed store differs"
    print(f"killed at {percent} %: {statistics.median(ratios):.3f} of uninterrupted, less one batch ", end="")
    print("(goal 1.05); bitwise equal")


def main(parent: str | None = None) -> None:
    for step, arguments in (
        (reading, ()),
        *((writing, (megabytes,)) for megabytes in (1, 4, 16)),
        *((opening, shape) for shape in ((16_384, 10, WIDE), (230_000, 11, 1024))),
        *((resuming, (percent,)) for percent in (10, 50, 90)),
    ):
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            step(Path(folder), *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
