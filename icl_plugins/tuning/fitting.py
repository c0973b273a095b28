"""What of the tasks fits a context: every example's tokens counted once, before anything is trained."""

from dataclasses import replace
from typing import Literal

import numpy as np

from icl_plugins.errors import DataError, TooLongError
from icl_plugins.proxy.encoding import TextEncoder
from icl_plugins.tuning.tasks import Task

Counts = np.ndarray  # (N,) tokens of each example of a task, its separator included
_LONGEST = 64  # examples of which the tokens are counted in the further templates too


def count_tokens(task: Task, encoder: TextEncoder) -> Counts:
    """Return (N,) tokens of every example with its separator; of further templates by the longest examples.

    Raises DataError naming task and rows for answers without a token.
    """
    counts = _count(task, task.pool.template.separator, encoder)
    longest = np.argsort(-counts, kind="stable")[:_LONGEST]
    some = replace(task, pool=task.pool.subset(longest.tolist()), templates=(), classes=False)
    more = 0
    for template in task.templates:
        pool = replace(some.pool, template=template)
        written = _count(replace(some, pool=pool), template.separator, encoder)
        more = max(more, int((written - counts[longest]).max()))
    return counts + more


def fitting(
    task: Task, counts: Counts, room: int, on_too_long: Literal["error", "skip"]
) -> tuple[Task, Counts, int]:
    """Return the task and its counts without the examples that do not fit, and how many those are.

    Raises TooLongError naming task and rows, unless they may be skipped and at least two are left.
    """
    rows = np.flatnonzero(counts > room)
    if not len(rows):
        return task, counts, 0
    fit = np.flatnonzero(counts <= room)
    if on_too_long == "error" or len(fit) < 2:
        first = ", ".join(f"{row} ({counts[row]:,})" for row in rows[:5].tolist())
        raise TooLongError(
            f"task {task.name!r}: {len(rows)} of {len(task.pool)} examples have more than {room:,} tokens: "
            f"rows {first}" + ", ..." * (len(rows) > 5),
            expected="examples that fit the context whole, at least two of a task",
            fix="raise context, shorten them, leave the task out, or set on_too_long to skip",
        )
    return replace(task, pool=task.pool.subset(fit.tolist())), counts[fit], len(rows)


def _count(task: Task, separator: str, encoder: TextEncoder) -> Counts:
    try:
        encoder.demonstrations(task.pool.questions, task.pool.answers)
    except DataError as error:
        got = f"task {task.name!r}: {error.got}"
        raise type(error)(got, expected=error.expected, fix=error.fix) from error
    return np.array(encoder.count([text + separator for text in task.pool.texts]))
