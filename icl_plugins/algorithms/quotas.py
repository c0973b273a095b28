"""Label quotas: how many rows of each label a selection must and may hold."""

import operator
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from icl_plugins.errors import SettingError

Quotas = str | int | Mapping[str, int] | None


def whole_number(name: str, value: object, least: int) -> int:
    """Return `value` as an int; numpy's ints pass, SettingError for bool, float and what is too small."""
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < least:
        raise SettingError(f"{name}={value!r}", expected=f"a whole number >= {least}", fix="pass one")
    return number


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
    low, high = np.zeros(len(names), dtype=np.int64), np.full(len(names), size, dtype=np.int64)
    if isinstance(quotas, str):
        low = high = _proportional(quotas, shots, groups, free, include)
    elif isinstance(quotas, Mapping):
        unknown = [label for label in quotas if label not in names]
        if unknown:
            raise SettingError(
                f"quotas for unknown labels {unknown[:5]!r}",
                expected=f"labels of the pool, such as {list(names)[:5]!r}",
                fix="correct the labels",
            )
        for label, number in quotas.items():
            low[names[label]] = high[names[label]] = whole_number(f"the quota of {label!r}", number, 0)
    else:
        low[:] = whole_number("quotas", quotas, 0)
    return groups, low, high


def _proportional(
    quotas: str, shots: int | None, groups: np.ndarray, free: np.ndarray, include: tuple[int, ...]
) -> np.ndarray:
    if quotas != "proportional":
        raise SettingError(
            f"quotas={quotas!r}",
            expected='"proportional", a whole number or a mapping',
            fix="pass one of them",
        )
    if shots is None:
        raise SettingError('quotas="proportional" without shots', expected="shots", fix="pass shots as well")
    size = int(groups.max()) + 1
    rows = np.bincount(groups[free], minlength=size)
    included = np.bincount(groups[list(include)], minlength=size)
    seats = included.copy()
    settled = np.zeros(size, dtype=bool)
    while True:
        seats[~settled] = _largest_remainder(np.where(settled, 0, rows), shots - int(seats[settled].sum()))[
            ~settled
        ]
        short = ~settled & (seats < included)
        if not short.any():
            return seats
        # More rows of this label are included than its share: it keeps those, the others share what is left.
        seats[short] = included[short]
        settled |= short


def _largest_remainder(weights: np.ndarray, seats: int) -> np.ndarray:
    total = int(weights.sum())
    if total == 0:
        return np.zeros_like(weights)
    shares, remainders = np.divmod(weights * seats, total)
    shares[np.argsort(-remainders, kind="stable")[: seats - int(shares.sum())]] += 1
    return shares
