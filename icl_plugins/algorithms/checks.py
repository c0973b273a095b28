"""Checks of arguments that several algorithms take."""

import operator
from collections.abc import Iterable, Sequence

import numpy as np

from icl_plugins.errors import SettingError


def whole_number(name: str, value: object, least: int) -> int:
    """Return `value` as an int; numpy's ints pass, SettingError for bool, float and what is too small."""
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or number < least:
        raise SettingError(f"{name}={value!r}", expected=f"a whole number >= {least}", fix="pass one")
    return number


def distinct_rows(name: str, rows: Iterable[int], pool_size: int) -> tuple[int, ...]:
    """Return row indices in their order; SettingError for one that is twice there or not in the pool."""
    indices = tuple(whole_number(f"a row of {name}", row, 0) for row in rows)
    beyond = [row for row in indices if row >= pool_size]
    if beyond:
        raise SettingError(
            f"rows {beyond[:5]} in {name}", expected=f"indices below {pool_size}", fix="correct the indices"
        )
    if len(set(indices)) < len(indices):
        raise SettingError(f"a row twice in {name}", expected="each row once", fix="drop the repetition")
    return indices


def token_costs(
    costs: Sequence[int] | np.ndarray | None, max_cost: int | None, pool_size: int
) -> np.ndarray | None:
    """Return the costs of the rows as (N,) int64, or None without any; SettingError if malformed."""
    if costs is None:
        if max_cost is not None:
            raise SettingError(
                "a token budget without costs", expected="the tokens of every row", fix="pass costs"
            )
        return None
    counted = np.asarray(costs)
    if counted.shape != (pool_size,) or counted.dtype.kind not in "iu" or counted.min() < 0:
        raise SettingError(
            f"costs of shape {counted.shape} and type {counted.dtype}",
            expected=f"({pool_size},) whole numbers, none negative",
            fix="count the tokens of every row",
        )
    return counted.astype(np.int64)
