"""The order of the demonstrations: permutations of positions, from labels, losses and distances."""

import heapq
from bisect import bisect_left
from collections.abc import Hashable, Sequence

import numpy as np

from icl_plugins.algorithms.features import Features
from icl_plugins.errors import NonFiniteError


def ascending(values: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """Order by values (n,), lowest first, ties by lowest row -> positions (n,).

    rows (n,): of the pool, one for each value; raises NonFiniteError naming those whose value is not finite.
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise NonFiniteError(
            f"{bad.size} values that are NaN or infinite, rows {[rows[at] for at in bad[:5]]}",
            expected="a finite value for every demonstration",
            fix='look at these examples, or load the proxy with dtype="float32"',
        )
    # The last bits depend on the batch; without them ties are ties.
    rounded = np.round(values / (np.abs(values).max() or 1.0), 6)
    return np.lexsort((np.asarray(rows), rounded))


def interleaved(labels: Sequence[Hashable]) -> np.ndarray:
    """Spread labels (n,) as evenly as can be -> positions (n,); within a label the given order stays.

    After t of n demonstrations a label that has c of them should have come t c / n times. The largest
    deviation from that, over all t and labels, is the least possible, and below 1 (Tijdeman 1980). By
    bisection of the deviation and earliest due dates (Steiner and Yeomans, Management Science 39, 1993).
    """
    copies: dict[Hashable, list[int]] = {}
    for position, label in enumerate(labels):
        copies.setdefault(label, []).append(position)
    groups = list(copies.values())
    # Deviations are multiples of 1/n; with a bound of (n - 1)/n there always is an order.
    bound = bisect_left(range(len(labels) - 1), True, key=lambda bound: _within(groups, bound) is not None)
    return np.asarray(_within(groups, bound), dtype=np.int64)


def _within(groups: Sequence[Sequence[int]], bound: int) -> list[int] | None:
    """Return the order with the earliest due dates whose deviations are at most bound / n, None if none."""
    size = sum(map(len, groups))
    released: list[list[tuple[int, int]]] = [[] for _ in range(size + 1)]
    for positions in groups:
        share = len(positions)
        for copy, position in enumerate(positions):
            earliest = -((bound - (copy + 1) * size) // share)  # ceil of ((copy + 1) n - bound) / share
            due = (copy * size + bound) // share + 1
            released[max(earliest, 1)].append((due, position))
    order: list[int] = []
    waiting: list[tuple[int, int]] = []
    for time in range(1, size + 1):
        for job in released[time]:
            heapq.heappush(waiting, job)
        if not waiting or waiting[0][0] < time:
            return None
        order.append(heapq.heappop(waiting)[1])
    return order


def permutations(size: int, number: int, seed: int) -> list[np.ndarray]:
    """Return so many orders -> positions (n,) each: the given one, then seeded permutations."""
    generator = np.random.default_rng(seed)
    return [np.arange(size), *(generator.permutation(size) for _ in range(number - 1))]


def distances_to_mean(features: Features, rows: Sequence[int]) -> np.ndarray:
    """Return the Euclidean distances (n,) of some rows from the mean of all."""
    mean = features.mean()
    return np.array([np.linalg.norm(features.centred(np.array([row]), mean)) for row in rows])
