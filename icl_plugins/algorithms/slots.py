"""The slot table: first-order estimates of all ordered subsets of demonstrations, as sums of look-ups.

A prompt of k slots of T embeddings each was run once, at an anchor S0, with gradient G (k, T, h) of its
outcome with respect to the embeddings of the slots. To first order the outcome of any other ordered subset S
is f(S0) + sum_j <G_j, phi(S_j) - phi(S0_j)>, with phi(i) (T, h) the embeddings of candidate i padded to its
slot: a constant and one entry of a table A[j, i] = <G_j, phi(i)> for each slot (GradE, arXiv 2508.19999,
whose released code recomputes the inner products for every subset).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icl_plugins.algorithms.assignment import assign
from icl_plugins.errors import DataError, NonFiniteError


@dataclass(frozen=True, eq=False)
class SlotTable:
    """Estimates of outcomes; lower is better where the outcome is a loss.

    table: (k, n) float64, what candidate i adds in slot j. constant: the outcome of slots that add nothing.
    """

    table: np.ndarray
    constant: float

    @property
    def slots(self) -> int:
        """The number k of slots."""
        return int(self.table.shape[0])

    def outcomes(self, subsets: np.ndarray) -> np.ndarray:
        """Return the estimated outcomes (m,) of ordered subsets (m, k), rows of candidates by slot.

        Raises DataError for another shape or rows that are not there.
        """
        rows = np.asarray(subsets)
        inside = rows.ndim == 2 and rows.shape[1] == self.slots and rows.dtype.kind in "iu"
        if not inside or (rows.size and not 0 <= rows.min() <= rows.max() < self.table.shape[1]):
            raise DataError(
                f"subsets of shape {rows.shape} for a table of shape {self.table.shape}",
                expected=f"(m, {self.slots}) whole numbers from 0 to {self.table.shape[1] - 1}",
                fix="pass one candidate for each slot",
            )
        found = np.full(len(rows), self.constant)
        for slot, candidates in enumerate(rows.T):
            found += self.table[slot, candidates]
        return found

    def best(self, allowed: np.ndarray | None = None) -> tuple[np.ndarray, float]:
        """Return the ordered subset (k,) with the least estimate of all, and the estimate.

        allowed: (k, n) bool, which candidates may stand in which slot. Exact, by linear assignment in
        O(n k^2). Raises BudgetError where the slots cannot be filled.
        """
        chosen = assign(self.table, allowed)
        return chosen, float(self.outcomes(chosen[None])[0])

    def mean_scores(self, allowed: np.ndarray | None = None) -> np.ndarray:
        """Return the mean of each candidate (n,) over the slots that it is allowed in; if in none, over all.

        GradRE scores a candidate by the mean outcome of random subsets that hold it. Over all ordered
        subsets this is a constant plus (1 - (k - 1) / (n - 1)) times this mean: the same ranking.
        """
        if allowed is None:
            return np.asarray(self.table.mean(axis=0))
        open_ = allowed | ~allowed.any(axis=0)
        return np.asarray(np.where(open_, self.table, 0.0).sum(axis=0) / open_.sum(axis=0))


def slot_table(
    gradients: np.ndarray,
    ids: np.ndarray,
    embeddings: np.ndarray,
    anchor: np.ndarray,
    outcome: float,
    *,
    block: int = 1 << 26,
) -> SlotTable:
    """Make the table of gradients and anchor (k, T, h) and candidates, given as tokens.

    ids: (n, T) rows of embeddings (V, h), -1 for a pad, which adds nothing. outcome: f(S0), of the anchor.
    Gradients averaged over queries give the table of the mean outcome, however many queries there are.
    One product G E^T, then look-ups: what is held beside the table is about `block` numbers,
    or what one slot takes.
    Raises DataError for shapes that do not belong together, NonFiniteError.
    """
    gradients, ids, embeddings, anchor = map(np.asarray, (gradients, ids, embeddings, anchor))
    _check_shapes(gradients, ids, embeddings, anchor)
    slots, width, _ = gradients.shape
    table = np.zeros((slots, len(ids)))
    step = max(1, block // (width * (len(embeddings) + 1)))
    for first in range(0, slots, step):
        part = gradients[first : first + step]
        products = np.zeros((width, len(embeddings) + 1, len(part)), dtype=gradients.dtype)  # the last: a pad
        np.matmul(embeddings, part.transpose(1, 2, 0), out=products[:, :-1])
        for place in range(width):
            table[first : first + step] += products[place][ids[:, place]].T
    constant = outcome - float(np.einsum("kth,kth->", gradients, anchor, dtype=np.float64))
    if not (np.isfinite(table).all() and np.isfinite(constant)):
        raise NonFiniteError(
            "NaN or infinity in the gradients, the embeddings or the outcome",
            expected="finite numbers",
            fix='look at these examples, or load the model with dtype="float32"',
        )
    return SlotTable(table, constant)


def mean_table(tables: Sequence[SlotTable]) -> SlotTable:
    """Return the mean of tables around several anchors: the mean of their estimates, since all are sums."""
    mean: np.ndarray = np.mean([table.table for table in tables], axis=0)
    return SlotTable(mean, float(np.mean([table.constant for table in tables])))


def _check_shapes(gradients: np.ndarray, ids: np.ndarray, embeddings: np.ndarray, anchor: np.ndarray) -> None:
    shapes = f"{gradients.shape}, {ids.shape}, {embeddings.shape} and {anchor.shape}"
    together = (
        gradients.ndim == 3
        and gradients.shape == anchor.shape
        and (ids.ndim, embeddings.ndim) == (2, 2)
        and gradients.shape[1:] == (ids.shape[1], embeddings.shape[1])
    )
    if not together or (ids.size and not -1 <= ids.min() <= ids.max() < len(embeddings)):
        raise DataError(
            f"gradients, tokens, embeddings and anchor of shapes {shapes}",
            expected="(k, T, h), (n, T) with numbers from -1 to V - 1, (V, h) and (k, T, h)",
            fix="pad every example to its slot in the same way",
        )


def johnson_lindenstrauss(width: int, reduced: int, *, seed: int = 0) -> np.ndarray:
    """Return a random map (width, reduced) that keeps inner products in the mean: E <uR, vR> = <u, v>.

    The variance of <uR, vR> is (|u|^2 |v|^2 + <u, v>^2) / reduced.
    """
    return np.random.default_rng(seed).normal(scale=reduced**-0.5, size=(width, reduced))
