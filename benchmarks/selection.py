"""Selection by gradient matching against the published loop, restated from its definition (B2, B3, B4).

    python benchmarks/selection.py --quick         less than a minute
    python benchmarks/selection.py                 N 2000, d 16384, n 128: minutes, mostly the published loop
    python benchmarks/selection.py --large FOLDER  N 50000, d 45000, from a 4.5 GB file made in FOLDER

Times are CPU seconds of this process, least of several, A and B in turns; set OMP_NUM_THREADS to fix the
threads. A wrong answer ends the run with exit code 1 before any ratio is printed.
"""

import argparse
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from published_selection import published_greedy, published_swap

from icl_plugins.algorithms.constraints import Feasible, resolve
from icl_plugins.algorithms.features import Features
from icl_plugins.algorithms.kernels import FeatureKernel, GramKernel
from icl_plugins.algorithms.matching import Match, centered_gram, match, match_gram
from icl_plugins.algorithms.search import best_swap, greedy

QUICK, FULL, LARGE = (600, 4096, 48), (2000, 16_384, 128), (50_000, 45_000, 64)


def heavy_tailed(rows: int, width: int, seed: int = 2, rank: int = 64) -> np.ndarray:
    """Low-rank rows of heavy-tailed sizes, as gradients are; on isotropic rows swaps hardly ever fire."""
    rng = np.random.default_rng(seed)
    sizes = rng.standard_t(1.5, (rows, rank)).astype(np.float32)
    basis = rng.standard_normal((rank, width), dtype=np.float32)
    return sizes @ basis + 0.3 * rng.standard_normal((rows, width), dtype=np.float32)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def least(function: Callable[[], Any], times: int = 5) -> float:
    return min(timed(function)[0] for _ in range(times))


def check(right: bool, what: str) -> None:
    print(f"{'ok  ' if right else 'WRONG'} {what}", flush=True)
    if not right:
        sys.exit(1)


def machine() -> None:
    square = torch.rand(2048, 2048)
    wide, vector = np.ones((1024, 65_536), np.float32), np.ones(65_536, np.float32)
    target = np.empty_like(wide)
    flops = 2 * 2048**3
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next(line.split(":")[1].strip() for line in lines if "model name" in line)
    usable = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"
    print(f"{model}, {usable}, {torch.get_num_threads()} torch threads")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}")
    print(f"GEMM {flops / least(lambda: square @ square) / 1e9:.0f} GFLOP/s float32, ", end="")
    double = square.double()
    print(f"{flops / least(lambda: double @ double) / 1e9:.0f} float64; ", end="")
    print(f"stream {2 * wide.nbytes / least(lambda: np.copyto(target, wide)) / 1e9:.1f} GB/s copy, ", end="")
    print(f"{wide.nbytes / least(lambda: wide @ vector) / 1e9:.1f} GB/s GEMV", flush=True)


@dataclass
class Published:
    """A whole run of the published loop, and the CPU seconds of its parts."""

    picks: list[int]
    swaps: list[tuple[int, int]]
    greedy_seconds: float
    round_seconds: list[float]  # one more than swaps: the last round finds none

    @classmethod
    def run(cls, features: torch.Tensor, shots: int) -> "Published":
        seconds, picks = timed(lambda: published_greedy(features, shots))
        run = cls(picks, [], seconds, [])
        while True:
            seconds, swap = timed(lambda: published_swap(features, run.chosen))
            run.round_seconds.append(seconds)
            if swap is None:
                return run
            run.swaps.append(swap)

    @property
    def chosen(self) -> list[int]:
        chosen = list(self.picks)
        for position, row in self.swaps:
            chosen[position] = row
        return chosen


def swap_iteration(features: Features, picks: list[int]) -> Callable[[], Any]:
    """One iteration as `match` makes it: find the best swap, then the kernel row of the row that came in."""
    kernel = FeatureKernel(features, features.mean(), features.largest())
    gram = kernel.rows(np.array(picks))
    feasible = Feasible(resolve(len(features), None, len(picks), include=()))
    for row in picks:
        feasible.take(row)

    def iterate() -> tuple[int, int] | None:
        swap = best_swap(gram, kernel.squared_norms, feasible, 1e-6)
        kernel.rows(np.array([swap[1] if swap else 0]))
        return swap

    return iterate


def compare(rows: int, width: int, shots: int) -> None:
    print(f"\nN {rows}, d {width}, n {shots}, float32", flush=True)
    features = heavy_tailed(rows, width)
    tensor, gram = torch.from_numpy(features), centered_gram(features)
    theirs, ours = [], []
    for _ in range(2):
        ours.append(timed(lambda: match(features, shots, swaps=0))[0])
        theirs.append(timed(lambda: published_greedy(tensor, shots))[0])
    published = Published.run(tensor, shots)
    theirs.append(published.greedy_seconds)
    ours += [timed(lambda: match(features, shots, swaps=0))[0] for _ in range(3)]
    picked, found = match(features, shots, swaps=0), match(features, shots)
    iterate = swap_iteration(Features.of(features), published.picks)

    check(picked.indices.tolist() == published.picks, "greedy: the published picks, in order")
    check(found.indices.tolist() == published.chosen, "greedy and swaps: the published set, in order")
    check(found.swaps == len(published.swaps) > 0, f"the published number of swaps, {found.swaps}")
    check(iterate() == published.swaps[0], "first swap: the published one")
    check(match_gram(gram, shots).indices.tolist() == published.chosen, "from the Gram matrix: the same")

    ready = least(lambda: greedy(GramKernel(gram), Feasible(resolve(rows, None, shots))))
    whole = least(lambda: match(features, shots))
    print("\n| | published loop | ours | ratio |\n|---|---|---|---|")
    report("B2 greedy", min(theirs), min(ours))
    report("B2 greedy on a ready Gram matrix", min(theirs), ready)
    report("B3 one swap iteration", min(published.round_seconds), least(iterate))
    everything = published.greedy_seconds + sum(published.round_seconds)
    report(f"B4 greedy and {found.swaps} swaps, end to end", everything, whole)
    objectives = (found.random_objective, picked.trace[-1], found.trace[-1])
    print("\nJ: random {:.4g}, greedy {:.4g}, greedy and swaps {:.4g}".format(*objectives))
    print(f"greedy reads {shots * features.nbytes / min(ours) / 1e9:.1f} GB/s, all its other work included")


def report(name: str, theirs: float, ours: float) -> None:
    print(f"| {name} | {theirs:.3g} s | {ours:.3g} s | {theirs / ours:.0f}x |", flush=True)


def large(folder: str, dtype: str) -> None:
    rows, width, shots = LARGE
    with tempfile.NamedTemporaryFile(dir=folder, suffix=".features") as file:
        write(file.name, rows, width, np.dtype(dtype))
        features = np.memmap(file.name, dtype, "r", shape=(rows, width))
        print(
            f"\nN {rows}, d {width}, n {shots}, {dtype}: {features.nbytes / 1e9:.1f} GB on disk", flush=True
        )
        wall = time.perf_counter()
        seconds, found = timed(lambda: match(features, shots))
        wall, peak = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        verify(features, found)
        check(peak < 8, f"peak memory {peak:.2f} GB, below 8 GB")
        print(f"{seconds:.0f} s CPU, {wall:.0f} s wall, {found.swaps} swaps, converged {found.converged}")
        print(f"J: random {found.random_objective:.4g}, matched {found.trace[-1]:.4g}")


def write(path: str, rows: int, width: int, dtype: np.dtype) -> None:
    """Write the rows in parts; a hundredth of the size of the others, since float16 ends at 65504."""
    rng = np.random.default_rng(0)
    basis = 0.01 * rng.standard_normal((64, width), dtype=np.float32)
    noise = 0.003 * rng.standard_normal((500, width), dtype=np.float32)
    with open(path, "wb") as file:
        for _ in range(0, rows, 500):
            part = rng.standard_t(1.5, (500, 64)).astype(np.float32) @ basis
            part += np.roll(noise, rng.integers(width), axis=1)
            torch.from_numpy(part).to(getattr(torch, dtype.name)).numpy().tofile(file)


def verify(features: np.memmap, found: Match) -> None:
    """Hold the result against float64 scores of all rows: some greedy picks, and that no swap helps."""
    blocks = [slice(start, start + 250) for start in range(0, len(features), 250)]
    mean = sum(np.array(features[block], dtype=np.float64).sum(axis=0) for block in blocks) / len(features)
    picks = match(features, 8, swaps=0).indices  # greedy picks are nested
    sums = np.array([(features[picks[:step]].astype(np.float64) - mean).sum(axis=0) for step in range(8)])
    chosen = features[found.indices].astype(np.float64) - mean
    squares, toward_sums, gram = np.empty(len(features)), [], []
    for block in blocks:
        centred = np.array(features[block], dtype=np.float64) - mean
        squares[block] = (centred**2).sum(axis=1)
        toward_sums.append(sums @ centred.T)
        gram.append(chosen @ centred.T)
    for step, products in enumerate(np.hstack(toward_sums)):
        scores = squares + 2 * products
        scores[picks[:step]] = np.inf
        check(
            int(scores.argmin()) == picks[step], f"greedy pick {step + 1} is the best of all rows in float64"
        )
    table = np.hstack(gram)
    total = table.sum(axis=0)
    own = squares[found.indices] - 2 * total[found.indices]
    change = own[:, None] + squares + 2 * total - 2 * table
    change[:, found.indices] = np.inf
    square = float(total[found.indices].sum())
    check(change.min() > -1.01e-6 * square, "no swap lowers J^2 by more than 1e-6")
    check(bool(np.isclose(np.sqrt(square) / len(chosen), found.trace[-1], rtol=1e-6)), "J, recomputed")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help=f"only (N, d, n) = {QUICK}")
    parser.add_argument("--large", metavar="FOLDER", help=f"only (N, d, n) = {LARGE}, from a file in FOLDER")
    parser.add_argument(
        "--dtype", choices=["float16", "float32"], default="float16", help="of the large file"
    )
    options = parser.parse_args()
    machine()
    if options.large:
        large(options.large, options.dtype)
    else:
        compare(*(QUICK if options.quick else FULL))


if __name__ == "__main__":
    main()
