"""Greedy picks and best swaps over a kernel, within constraints."""

from collections.abc import Callable

import numpy as np

from icl_plugins.algorithms.constraints import Feasible
from icl_plugins.algorithms.kernels import TIE, Kernel

Tell = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """Tell nobody."""


def greedy(kernel: Kernel, feasible: Feasible, shots: int | None = None, tell: Tell = silent) -> None:
    """Pick rows until the selection is complete, each the best one beside those before it.

    tell: hears ("greedy", picked, shots) where the number of shots is known.
    """
    kernel.clear()
    for row in feasible.indices:
        kernel.add(row)
    while (allowed := feasible.allowed()).any():
        row = kernel.pick(allowed)
        feasible.take(row)
        kernel.add(row)
        if shots is not None:
            tell("greedy", len(feasible.indices), shots)


def refine(
    kernel: Kernel, feasible: Feasible, swaps: int, rtol: float, tell: Tell = silent
) -> tuple[int, bool]:
    """Make the best swaps until none helps; return how many, and whether none helps any more.

    tell: hears ("swaps", accepted, swaps), at the end with the number that was needed.
    """
    gram = kernel.rows(np.asarray(feasible.indices, dtype=np.int64))
    for accepted in range(swaps + 1):
        swap = best_swap(gram, kernel.squared_norms, feasible, rtol)
        if swap is None or accepted == swaps:
            break
        feasible.swap(*swap)
        gram[swap[0]] = kernel.rows(np.asarray([swap[1]]))[0]
        tell("swaps", accepted + 1, swaps)
    if swap is None:
        tell("swaps", accepted, accepted)
    return accepted, swap is None


def best_swap(
    gram: np.ndarray, squared_norms: np.ndarray, feasible: Feasible, rtol: float
) -> tuple[int, int] | None:
    """Return (position out, row in) of the swap that lowers J^2 most, None when none does by enough.

    gram: (n, N) rows of the Gram matrix of the chosen rows.
    """
    chosen = np.asarray(feasible.indices, dtype=np.int64)
    products = gram.sum(axis=0)
    change = gram * -2.0
    change += squared_norms + 2 * products
    change += (squared_norms[chosen] - 2 * products[chosen])[:, None]
    change[~feasible.swappable()] = np.inf
    position, row = np.unravel_index(change.argmin(), change.shape)
    least = change[position, row]
    size = np.sqrt(squared_norms[chosen[position]]) + np.sqrt(squared_norms[row])
    rounding = TIE * size * (size + np.sqrt(squared_norms[chosen].sum()))
    # Below the rounding of the sums a fall is not real, and swaps could go round in circles.
    if not -least > max(rtol * products[chosen].sum(), rounding):
        return None
    tied = change <= least + rounding
    row = tied.any(axis=0).argmax()
    return int(tied[:, row].argmax()), int(row)
