"""What tuning took away: tasks that were not trained on, plain text, tasks that were trained on before."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icl_plugins.errors import SettingError
from icl_plugins.evaluation.statistics import Interval, mean_interval
from icl_plugins.tuning.answered import SHOTS, Answered, answered, check_size
from icl_plugins.tuning.curves import Curve, curve_of
from icl_plugins.tuning.plain_text import TextChange, text_change
from icl_plugins.tuning.tasks import Task, check_tasks

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


@dataclass(frozen=True)
class Change:
    """Tuned minus base at one number of shots, on the same items and draws, over which the intervals are.

    accuracy: None for free answers. nats: of the right answer; more is worse.
    """

    shots: int
    accuracy: Interval | None
    nats: Interval


@dataclass(frozen=True)
class TaskChange:
    """A task that was not trained on: its curves before and after, and the difference of each point."""

    before: Curve
    after: Curve
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Forgetting:
    """tasks: as they were given. text: neutral text."""

    tasks: tuple[TaskChange, ...]
    text: TextChange


def forgetting(
    base: "Proxy",
    tuned: "Proxy",
    *,
    tasks: Sequence[Task],
    text: Sequence[str],
    shots: Sequence[int] = SHOTS,
    items: int = 64,
    draws: int = 4,
    seed: int = 0,
) -> Forgetting:
    """Compare a tuned model with its base on tasks and documents that were not trained on.

    shots, items, draws, seed: as in `answered`; text: as in `text_change`. A model that was not touched
    changes by exactly 0. Raises SettingError for models with different tokenizers and for numbers that cannot
    be, DataError for no text and tasks with too few examples.
    """
    check_tasks(tasks)
    for task in tasks:
        check_size(task, items)
    changed = text_change(base, tuned, text)  # first: it refuses models that cannot be compared

    def compared(task: Task) -> TaskChange:
        before, after = (
            answered(proxy, task, shots, items=items, draws=draws, seed=seed) for proxy in (base, tuned)
        )
        return TaskChange(curve_of(before), curve_of(after), changes(before, after))

    return Forgetting(tuple(map(compared, tasks)), changed)


def changes(before: Answered, after: Answered) -> tuple[Change, ...]:
    """Return after minus before at every number of shots that both have, paired by item and draw.

    Raises SettingError unless both are of the same task, items and draws.
    """
    if before.asked != after.asked:
        raise SettingError(
            f"answers to {before.task!r} and to {after.task!r}, of different items or draws",
            expected="the same task, items and draws before and after",
            fix="measure both with the same arguments",
        )
    found = []
    for shots in (one for one in before.shots if one in after.shots):
        old, new = before.shots.index(shots), after.shots.index(shots)
        accuracy = None
        if before.right is not None and after.right is not None:
            accuracy = mean_interval(after.right[new].astype(float) - before.right[old])
        found.append(Change(shots, accuracy, mean_interval(after.nats[new] - before.nats[old])))
    return tuple(found)


def backward_transfer(after_each: Sequence[Sequence[float]] | np.ndarray) -> float:
    """Return what later tasks did to earlier ones, the mean over all tasks; below 0 they were forgotten.

    after_each: (T, T), row i after task i was trained, column j the accuracy on task j. The mean over j of
    the last row minus the diagonal, to which the last task adds 0; nothing else is read. Raises SettingError
    for another shape, fewer than two tasks, and values that are not numbers.
    """
    values = np.asarray(after_each, dtype=float)
    square = values.ndim == 2 and values.shape[0] == values.shape[1] >= 2
    change = values[-1] - np.diagonal(values) if square else np.array(math.nan)
    if not np.isfinite(change).all():
        raise SettingError(
            f"accuracies of shape {values.shape}" + ", not all of them numbers" * square,
            expected="(tasks, tasks), at least two, with numbers on the diagonal and in the last row",
            fix="measure each task right after its training, and all of them at the end",
        )
    return float(change.mean())
