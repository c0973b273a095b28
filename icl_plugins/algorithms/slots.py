"""The slot table: first-order estimates of all ordered subsets of demonstrations, as sums of look-ups.

A prompt of k slots of T embeddings each was run once, at an anchor S0, with gradient G (k, T, h) of its
outcome with respect to the embeddings of the slots. To first order the outcome of any other ordered subset S
is f(S0) + sum_j <G_j, phi(S_j) - phi(S0_j)>, with phi(i) (T, h) the embeddings of candidate i padded to its
slot: a constant and one entry of a table A[j, i] = <G_j, phi(i)> for each slot (GradE, arXiv 2508.19999,
whose released code recomputes the inner products for every subset).
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from icl_plugins.errors import BudgetError, DataError, NonFiniteError


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

    def best(self) -> tuple[np.ndarray, float]:
        """Return the ordered subset (k,) with the least estimate of all, and the estimate.

        Exact, by linear assignment in O(n k^2). Raises BudgetError for fewer candidates than slots.
        """
        if self.table.shape[1] < self.slots:
            raise BudgetError(
                f"{self.slots} slots for {self.table.shape[1]} candidates",
                expected="as many candidates as slots at least",
                fix="lower shots, or add examples to the pool",
            )
        _, chosen = linear_sum_assignment(self.table)
        return chosen, float(self.outcomes(chosen[None])[0])

    def mean_scores(self) -> np.ndarray:
        """Return for each candidate (n,) the limit of GradRE's score, less what is the same for all.

        GradRE scores a candidate by the mean outcome of random subsets that hold it. Over all ordered
        subsets this mean is a constant plus (1 - (k - 1) / (n - 1)) times the candidate's mean over slots.
        """
        slots, candidates = self.table.shape
        scores: np.ndarray = (1 - (slots - 1) / max(candidates - 1, 1)) * self.table.mean(axis=0)
        return scores


def slot_table(
    gradients: np.ndarray, embeddings: np.ndarray, anchor: np.ndarray, outcome: float
) -> SlotTable:
    """Make the table of gradients (k, T, h), candidates (n, T, h) and the anchor's slots (k, T, h).

    outcome: f(S0), of the anchor. Gradients averaged over queries give the table of the mean outcome: one
    product, however many queries. Raises DataError for shapes that do not belong together, NonFiniteError.
    """
    parts = [np.asarray(part) for part in (gradients, embeddings, anchor)]
    shapes = [part.shape for part in parts]
    if any(len(shape) != 3 for shape in shapes) or len({shape[1:] for shape in shapes}) > 1:
        raise DataError(
            f"gradients, candidates and anchor of shapes {', '.join(map(str, shapes))}",
            expected="(k, T, h), (n, T, h) and (k, T, h)",
            fix="pad every example to its slot in the same way",
        )
    if shapes[0] != shapes[2]:
        raise DataError(
            f"gradients of {shapes[0][0]} slots and an anchor of {shapes[2][0]}",
            expected="one for each slot",
            fix="pass both from the same prompt",
        )
    flat_gradients, flat_embeddings, flat_anchor = (part.reshape(len(part), -1) for part in parts)
    table = (flat_gradients @ flat_embeddings.T).astype(np.float64)
    constant = outcome - float(np.einsum("kd,kd->", flat_gradients, flat_anchor, dtype=np.float64))
    if not (np.isfinite(table).all() and np.isfinite(constant)):
        raise NonFiniteError(
            "NaN or infinity in the gradients, the embeddings or the outcome",
            expected="finite numbers",
            fix='look at these examples, or load the model with dtype="float32"',
        )
    return SlotTable(table, constant)


def johnson_lindenstrauss(width: int, reduced: int, *, seed: int = 0) -> np.ndarray:
    """Return a random map (width, reduced) that keeps inner products in the mean: E <uR, vR> = <u, v>.

    The variance of <uR, vR> is (|u|^2 |v|^2 + <u, v>^2) / reduced.
    """
    return np.random.default_rng(seed).normal(scale=reduced**-0.5, size=(width, reduced))
