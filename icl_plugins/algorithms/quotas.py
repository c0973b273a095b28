"""Label quotas: how many rows of each label a selection must and may hold."""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.errors import BudgetError, SettingError

Quotas = str | int | Mapping[str, int] | None


def quota_bounds(
    labels: Sequence[Hashable] | None,
    quotas: Quotas,
    shots: int | None,
    free: np.ndarray,
    include: tuple[int, ...],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the label numbers (N,) of the rows and the least and largest number of rows (G,) of each label.

    quotas as in `constraints.resolve`; free: (N,) bool, the rows that are not excluded.
    """
    size = len(free)
    if quotas is None:
        return np.zeros(size, dtype=np.int64), np.zeros(1, dtype=np.int64), np.full(1, size, dtype=np.int64)
    if labels is None or len(labels) != size:
        raise SettingError(
            f"quotas for {size} rows with {'no' if labels is None else len(labels)} labels",
            expected="one label for each row",
            fix="give the pool labels, or leave quotas out",
        )
    names = {name: number for number, name in enumerate(sorted(set(labels), key=str))}
    groups = np.asarray([names[label] for label in labels], dtype=np.int64)
    rows = np.bincount(groups[free], minlength=len(names))
    included = np.bincount(groups[list(include)], minlength=len(names))
    if isinstance(quotas, str):
        low = high = _proportional(quotas, shots, rows, included)
    else:
        low, high = np.zeros_like(rows), np.full_like(rows, size)
        _fill(quotas, names, low, high)
    _check(shots, names, low, np.minimum(rows, high), included)
    return groups, low, high


def _fill(
    quotas: int | Mapping[str, int], names: dict[Hashable, int], low: np.ndarray, high: np.ndarray
) -> None:
    if not isinstance(quotas, Mapping):
        low[:] = whole_number("quotas", quotas, 0)
        return
    unknown = [label for label in quotas if label not in names]
    if unknown:
        raise SettingError(
            f"quotas for unknown labels {unknown[:5]!r}",
            expected=f"labels of the pool, such as {list(names)[:5]!r}",
            fix="correct the labels",
        )
    for label, number in quotas.items():
        low[names[label]] = high[names[label]] = whole_number(f"the quota of {label!r}", number, 0)


def _proportional(quotas: str, shots: int | None, rows: np.ndarray, included: np.ndarray) -> np.ndarray:
    if quotas != "proportional" or shots is None:
        raise SettingError(
            f"quotas={quotas!r} with shots={shots}",
            expected='"proportional" with a number of shots, a whole number, or a mapping',
            fix="pass one of them",
        )
    seats, shared = included.copy(), np.ones(len(rows), dtype=bool)
    while True:
        left = shots - int(seats[~shared].sum())
        seats[shared] = _largest_remainder(rows[shared], left)
        short = shared & (seats < included)
        if not short.any():
            return seats
        # More rows of this label are included than its share: it keeps those, the others share what is left.
        seats[short] = included[short]
        shared &= ~short


def _largest_remainder(weights: np.ndarray, seats: int) -> np.ndarray:
    shares, remainders = np.divmod(weights * seats, max(int(weights.sum()), 1))
    shares[np.argsort(-remainders, kind="stable")[: seats - int(shares.sum())]] += 1
    return shares


def _check(
    shots: int | None, names: dict[Hashable, int], low: np.ndarray, most: np.ndarray, included: np.ndarray
) -> None:
    for label, number in names.items():
        if not max(low[number], included[number]) <= most[number]:
            raise BudgetError(
                f"label {label!r}: quota of at least {low[number]} rows, {included[number]} included, and "
                f"{most[number]} that the quota and exclude leave",
                expected="no more included or asked for than there may be",
                fix="change the quota, include or exclude",
            )
    least, largest = max(int(np.maximum(low, included).sum()), 1), int(most.sum())
    if not least <= (largest if shots is None else shots) <= largest:
        raise BudgetError(
            f"quotas that leave room for {largest} rows and ask for {least}, and shots={shots}",
            expected="shots in that range, or None with a token budget",
            fix="change shots or the quotas",
        )
