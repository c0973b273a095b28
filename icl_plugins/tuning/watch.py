"""Whether a run goes wrong, told by its losses: stage by stage, beyond what the drawn tasks explain."""

from collections.abc import Sequence

import numpy as np

from icl_plugins.tuning.stage import Stage

_WINDOW = 20  # steps over which losses are averaged
_WORSE = 1.0  # nats above the beginning
_SURE = 5.0  # standard errors: the steps of some tasks have higher losses than those of others


def of_stage(losses: Sequence[float], stages: Sequence[Stage]) -> np.ndarray:
    """Return the losses of the stage that the last of them belongs to: each has losses of its own height."""
    ends = np.cumsum([stage.steps for stage in stages])
    return np.array(losses[max(ends[ends < len(losses)], default=0) :])


def risen(losses: np.ndarray) -> tuple[float, float] | None:
    """Return the mean losses at first and at last where they rose by more than chance, else None."""
    if len(losses) < 2 * _WINDOW:
        return None
    first, last = losses[:_WINDOW], losses[-_WINDOW:]
    error = float(np.sqrt(2 * max(first.var(), last.var()) / _WINDOW))
    rose = last.mean() > first.mean() + _WORSE + _SURE * error
    return (float(first.mean()), float(last.mean())) if rose else None


def is_good(losses: np.ndarray) -> bool:
    """Whether nothing has risen yet; a rise is known some steps after it began."""
    return len(losses) < _WINDOW or float(losses[-_WINDOW:].mean() - losses[:_WINDOW].mean()) <= _WORSE
