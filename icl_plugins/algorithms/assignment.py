"""Linear assignment: the best candidate for every slot, within a token budget or near to what is there."""

from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment

from icl_plugins.errors import BudgetError

_HALVINGS = 30


def assign(
    costs: np.ndarray,
    allowed: np.ndarray | None = None,
    *,
    tokens: np.ndarray | None = None,
    most: int | None = None,
) -> np.ndarray:
    """Return the candidate (k,) of each slot, all different, with the least sum of costs (k, n).

    allowed: (k, n) bool, which may stand where. tokens (n,), most: the tokens of those that are chosen are
    `most` at most; their price is then raised until they are, which is exact but for what lies between two
    prices. Raises BudgetError where the slots cannot be filled.
    """
    if tokens is None or most is None:
        return _least(costs, allowed)
    chosen = _least(costs, allowed)
    if tokens[chosen].sum() <= most:
        return chosen
    cheapest = _least(np.broadcast_to(tokens.astype(np.float64), costs.shape), allowed)
    if tokens[cheapest].sum() > most:
        raise BudgetError(
            f"{len(costs)} slots whose cheapest candidates take {tokens[cheapest].sum()} tokens",
            expected=f"at most {most}",
            fix="raise the budget or lower shots",
        )
    return _priced(
        lambda price: _least(costs + price * tokens, allowed),
        lambda rows: bool(tokens[rows].sum() <= most),
        2 * len(costs) * np.ptp(costs) + 1.0,
        cheapest,
    )


def assign_near(
    costs: np.ndarray,
    incumbent: np.ndarray,
    changes: int,
    allowed: np.ndarray | None = None,
    *,
    tokens: np.ndarray | None = None,
    most: int | None = None,
) -> np.ndarray:
    """Return what `assign` does, with another candidate than the incumbent (k,) in at most `changes` slots.

    The incumbent is lawful itself, and what is returned costs no more. One change is exact; for more of them
    a price on every change is raised until there are no more, which is exact but for what lies between two
    prices.
    """
    single = _best_change(costs, incumbent, allowed, tokens, most)
    if changes == 1:
        return single
    stays = np.arange(costs.shape[1]) == incumbent[:, None]
    found = _priced(
        lambda price: assign(costs + price * ~stays, allowed, tokens=tokens, most=most),
        lambda rows: int((rows != incumbent).sum()) <= changes,
        2 * len(costs) * np.ptp(costs) + 1.0,
        incumbent,
    )
    slots = np.arange(len(costs))
    best = [incumbent, found] if changes < 1 else [incumbent, single, found]
    return min(best, key=lambda rows: float(costs[slots, rows].sum()))


def _best_change(
    costs: np.ndarray,
    incumbent: np.ndarray,
    allowed: np.ndarray | None,
    tokens: np.ndarray | None,
    most: int | None,
) -> np.ndarray:
    """Return the incumbent with the best candidate that is not there in the best slot for it."""
    gains = costs[np.arange(len(costs)), incumbent][:, None] - costs
    open_ = np.ones(costs.shape, dtype=bool) if allowed is None else allowed.copy()
    open_[:, incumbent] = False
    if tokens is not None and most is not None:
        open_ &= tokens[incumbent].sum() - tokens[incumbent][:, None] + tokens <= most
    gains = np.where(open_, gains, 0.0)
    slot, candidate = np.unravel_index(int(gains.argmax()), gains.shape)
    changed = incumbent.copy()
    if gains[slot, candidate] > 0:
        changed[slot] = candidate
    return changed


def _least(costs: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
    slots, candidates = costs.shape
    try:
        if candidates < slots:
            raise ValueError
        rows: np.ndarray = linear_sum_assignment(
            costs if allowed is None else np.where(allowed, costs, np.inf)
        )[1]
    except ValueError as error:
        raise BudgetError(
            f"{slots} slots for {candidates} candidates",
            expected="as many candidates as slots at least, and enough of each label",
            fix="lower shots, or add examples to the pool",
        ) from error
    return rows


def _priced(
    solve: Callable[[float], np.ndarray], lawful: Callable[[np.ndarray], bool], high: float, last: np.ndarray
) -> np.ndarray:
    """Return the lawful solution at the lowest price that is found between 0 and `high`; `last` if none."""
    found, low = solve(0.0), 0.0
    if lawful(found):
        return found
    found = last
    for _ in range(_HALVINGS):
        price = (low + high) / 2
        rows = solve(price)
        if lawful(rows):
            found, high = rows, price
        else:
            low = price
    return found
