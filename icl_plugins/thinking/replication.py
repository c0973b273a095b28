"""The published protocol of deep thinking, for replication only: T is chosen on the items that judge it.

What is measured this way is never below plain in-context learning, and above it by luck alone; how far tells
`null_of_best`. For use, T is chosen on held-out demonstrations: `thinking.choosing`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.errors import SettingError
from icl_plugins.selectors._settings import check_choice, check_seed


@dataclass(frozen=True)
class BestSteps:
    """steps: T. accuracy: with T steps, in [0, 1]. gain: accuracy less that of one step, never negative."""

    steps: int
    accuracy: float
    gain: float


@dataclass(frozen=True)
class Null:
    """gain: of the best T where no step helps, on average. p: how often it is then as high as measured."""

    gain: float
    p: float


def best_steps_on_evaluation_set(right: np.ndarray) -> BestSteps:
    """Choose T as the published code does: the best on the evaluation set, the later of equal ones.

    right: (N, T) bool, whether each item was answered rightly after 1..T steps. Raises SettingError.
    """
    correct = _checked(right).sum(axis=0)
    at = len(correct) - 1 - int(correct[::-1].argmax())
    size = len(right)
    return BestSteps(at + 1, float(correct[at] / size), float((correct[at] - correct[0]) / size))


def null_of_best(
    right: np.ndarray, *, steps: Literal["together", "apart"] = "together", draws: int = 10_000, seed: int = 0
) -> Null:
    """Simulate what choosing the best T gains where no number of steps is better than one.

    The null hypothesis: where an item's answer differs from that after one step, it is as likely to have
    become right as wrong. steps: "together" exchanges gained and lost of an item at all steps at once (the
    paired permutation test of the highest gain), so that steps stay as alike as they are; "apart" draws each
    step by itself, with as many changes as were measured: more than chance gives where steps are alike.

    right: (N, T) bool as above. Raises SettingError.
    """
    correct = _checked(right)
    check_choice("steps", steps, ("together", "apart"))
    whole_number("draws", draws, 1)
    check_seed(seed)
    rng = np.random.default_rng(seed)
    changed = correct.astype(np.int64) - correct[:, :1]
    if steps == "apart":
        gains = _walks(rng, np.abs(changed).sum(axis=0), draws)
    else:  # items that changed alike are exchanged by one draw of how many
        kinds, counts = np.unique(changed, axis=0, return_counts=True)
        gains = _walks(rng, counts, draws) @ kinds
    best = gains.max(axis=1)  # one step is among them: not below 0
    as_high = int((best >= changed.sum(axis=0).max()).sum())
    return Null(float(best.mean() / len(correct)), (1 + as_high) / (1 + draws))


def _walks(rng: np.random.Generator, counts: np.ndarray, draws: int) -> np.ndarray:
    """Return (draws, len(counts)) sums of so many signs each."""
    sums: np.ndarray = 2 * rng.binomial(counts, 0.5, size=(draws, len(counts))) - counts
    return sums


def _checked(right: np.ndarray) -> np.ndarray:
    if not isinstance(right, np.ndarray) or right.dtype != np.bool_ or right.ndim != 2 or not right.size:
        shape = f"shape {np.shape(right)}" if isinstance(right, np.ndarray) else type(right).__name__
        kind = f" of {right.dtype}" if isinstance(right, np.ndarray) else ""
        raise SettingError(
            f"right: {shape}{kind}",
            expected="(N, T) bool, N items after 1..T steps",
            fix="pass whether each item was answered rightly",
        )
    return right
