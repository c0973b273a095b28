"""Which rows of a pool may be chosen: shots, token budget, label quotas, must-include, exclude.

Everything is index based, so that every selector, whatever its method, obeys the same rules.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from icl_plugins.algorithms.checks import distinct_rows, token_costs, whole_number
from icl_plugins.algorithms.quotas import Quotas, quota_bounds
from icl_plugins.errors import BudgetError, SettingError


@dataclass(frozen=True, eq=False)
class Constraints:
    """What a selection must obey; made and checked by `resolve`.

    shots: the number of rows to choose, or None: as many as fit the budget. With a budget too it is an
    upper limit. costs: (N,) int64, tokens per row; max_cost: their largest sum. groups: (N,) int64, the
    label of each row as a number below G; quota_min, quota_max: (G,) int64, rows per label. include: rows
    that are chosen first, in this order; exclude: rows that are never chosen.
    """

    shots: int | None
    costs: np.ndarray | None
    max_cost: int | None
    groups: np.ndarray
    quota_min: np.ndarray
    quota_max: np.ndarray
    include: tuple[int, ...]
    exclude: tuple[int, ...]


class Feasible:
    """A selection in the making: which rows may still be picked, and which swaps keep it lawful.

    Starts with the included rows. A row may be picked when the rest can still be completed: what the
    quota minimums need, at its cheapest, stays reserved. A row that does not fit the rest of the budget is
    passed over, and a cheaper one may follow (skip-ahead). What may not be picked now never may later.
    """

    def __init__(self, constraints: Constraints) -> None:
        self.constraints = constraints
        self.indices: list[int] = []
        self.free = np.ones(len(constraints.groups), dtype=bool)
        self.free[list(constraints.exclude)] = False
        self.counts = np.zeros(len(constraints.quota_min), dtype=np.int64)
        self.spent = 0
        for row in constraints.include:
            self.take(row)

    def take(self, row: int) -> None:
        """Pick a row."""
        self.indices.append(row)
        self._count(row, 1)

    def swap(self, position: int, row: int) -> None:
        """Put a row in the place of the one at `position`."""
        self._count(self.indices[position], -1)
        self.indices[position] = row
        self._count(row, 1)

    def allowed(self) -> np.ndarray:
        """Return the (N,) bool mask of the rows that may be picked next; all False when complete."""
        mask = self.open()
        if self.constraints.max_cost is not None:
            mask &= self.spent + self.cost_of_completion() <= self.constraints.max_cost
        return mask

    def open(self) -> np.ndarray:
        """Return what `allowed` does, costs apart."""
        limits, missing = self.constraints, self.missing
        left = len(self.free) if limits.shots is None else limits.shots - len(self.indices)
        groups = (self.counts < limits.quota_max) & ((missing > 0) | (left > missing.sum()))
        mask: np.ndarray = self.free & groups[limits.groups]
        return mask

    def swappable(self) -> np.ndarray:
        """Return the (n, N) bool mask of the swaps (position out, row in) that keep every constraint."""
        limits, chosen = self.constraints, np.asarray(self.indices, dtype=np.int64)
        stays = np.arange(len(chosen)) < len(limits.include)
        mask: np.ndarray = ~stays[:, None] & self.free
        out, groups = limits.groups[chosen], limits.groups
        can_leave, can_enter = self.counts > limits.quota_min, self.counts < limits.quota_max
        if not (can_leave.all() and can_enter.all()):
            mask &= (out[:, None] == groups) | (can_leave[out][:, None] & can_enter[groups])
        if limits.max_cost is not None and limits.costs is not None:
            mask &= limits.costs <= limits.max_cost - self.spent + limits.costs[chosen][:, None]
        return mask

    @property
    def missing(self) -> np.ndarray:
        """(G,) rows per label that the quota minimums still need."""
        return np.maximum(self.constraints.quota_min - self.counts, 0)

    def cost_of_completion(self) -> np.ndarray:
        """Return the (N,) costs of each row with the cheapest rows that the minimums need beside it."""
        costs, groups, missing = self.constraints.costs, self.constraints.groups, self.missing
        if costs is None or not missing.any():
            return np.zeros_like(groups) if costs is None else costs
        rows = self._by_cost[self.free[self._by_cost]]
        starts = np.searchsorted(groups[rows], np.arange(len(missing) + 1))
        cost, reserved = costs.copy(), 0
        for group in np.flatnonzero(missing):
            members = rows[starts[group] : starts[group + 1]]
            cheapest = members[: missing[group]]
            # A row of this label takes the place of the dearest reserved one, or is itself reserved.
            cost[members] -= costs[cheapest[-1]]
            cost[cheapest] = 0
            reserved += int(costs[cheapest].sum())
        cost += reserved
        return cost

    def _count(self, row: int, change: int) -> None:
        self.free[row] = change < 0
        self.counts[self.constraints.groups[row]] += change
        if self.constraints.costs is not None:
            self.spent += change * int(self.constraints.costs[row])

    @cached_property
    def _by_cost(self) -> np.ndarray:
        order: np.ndarray = np.lexsort((np.asarray(self.constraints.costs), self.constraints.groups))
        return order


def take_in_order(ranking: Sequence[int] | np.ndarray, constraints: Constraints) -> tuple[int, ...]:
    """Walk a ranking of row indices, best first, and return those that fit; included rows come first.

    Raises SettingError when the ranking leaves out rows that the constraints need.
    """
    feasible = Feasible(constraints)
    ahead = np.asarray(ranking, dtype=np.int64)
    while True:
        allowed = feasible.allowed()
        hits = allowed[ahead]
        first = int(hits.argmax()) if hits.size else 0
        if not hits.size or not hits[first]:
            break
        feasible.take(int(ahead[first]))
        ahead = ahead[first + 1 :]
    if allowed.any():
        raise SettingError(
            f"a ranking of {len(ranking)} rows that ends after {len(feasible.indices)} picks",
            expected="every row that may be chosen in the ranking",
            fix="rank the whole pool",
        )
    return tuple(feasible.indices)


def resolve(
    pool_size: int,
    labels: Sequence[Hashable] | None,
    shots: int | None,
    *,
    costs: Sequence[int] | np.ndarray | None = None,
    max_cost: int | None = None,
    quotas: Quotas = None,
    include: Iterable[int] = (),
    exclude: Iterable[int] = (),
) -> Constraints:
    """Check the wishes against the pool and against each other.

    quotas: None; "proportional" (every label gets its share of the shots by largest remainder, equal
    remainders to the label first in sorted order; included rows count); an int, the least number of rows
    of each label; or a mapping from label to its exact number of rows, labels that are not named being
    free. Shares are of the rows that are not excluded.
    Raises SettingError for a malformed argument, BudgetError where the wishes cannot be met together.
    """
    if shots is None and max_cost is None:
        raise SettingError("neither shots nor a token budget", expected="one of them", fix="pass shots=64")
    shots = None if shots is None else whole_number("shots", shots, 1)
    max_cost = None if max_cost is None else whole_number("the token budget", max_cost, 1)
    include = distinct_rows("include", include, pool_size)
    exclude = distinct_rows("exclude", exclude, pool_size)
    both = sorted(set(include) & set(exclude))
    if both:
        raise BudgetError(
            f"rows {both[:5]} in include and in exclude", expected="one of them", fix="drop one"
        )
    free = np.ones(pool_size, dtype=bool)
    free[list(exclude)] = False
    _check_shots(shots, int(free.sum()), len(include), pool_size)
    counted = token_costs(costs, max_cost, pool_size)
    groups, low, high = quota_bounds(labels, quotas, shots, free, include)
    constraints = Constraints(shots, counted, max_cost, groups, low, high, include, exclude)
    _check_budget(constraints)
    return constraints


def _check_shots(shots: int | None, available: int, included: int, pool_size: int) -> None:
    if available == 0:
        raise BudgetError(
            f"{pool_size} rows, none of them left", expected="a row at least", fix="exclude less"
        )
    if shots is not None and not included <= shots <= available:
        raise BudgetError(
            f"shots={shots} from {available} rows that may be chosen, {included} of them included",
            expected=f"a number from {max(included, 1)} to {available}",
            fix="change shots, include less or exclude less",
        )


def _check_budget(constraints: Constraints) -> None:
    if constraints.costs is None or constraints.max_cost is None:
        return
    start = Feasible(constraints)
    least = start.spent
    if not start.indices or start.missing.any():
        least += int(start.cost_of_completion()[start.open()].min())
    if least > constraints.max_cost:
        raise BudgetError(
            f"a token budget of {constraints.max_cost}: included rows take {start.spent} tokens, with the "
            f"cheapest row and what the quotas need {least}",
            expected=f"{least} tokens at least",
            fix="raise the budget, or lower shots and quotas",
        )
