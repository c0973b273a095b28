"""A task answered behind more and more random demonstrations: what is right, and how likely it was."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.artefacts import fingerprint
from icl_plugins.errors import DataError, SettingError, TooLongError
from icl_plugins.tuning.tasks import Task

if TYPE_CHECKING:
    from icl_plugins.evaluation.local import LocalTarget
    from icl_plugins.proxy.model import Proxy

SHOTS = (0, 1, 4, 16, 64)
_MOST_CHOICES = 64


@dataclass(frozen=True)
class Answered:
    """A task's items, answered behind each draw of demonstrations: what its curve is the mean of.

    shots: the numbers that fit. right: of each a (draws, items) bool, None for free answers. nats: of each
    (draws, items), of the right answer. Behind nothing there is one draw: all are the same. asked:
    fingerprint of items and draws.
    """

    task: str
    asked: str
    shots: tuple[int, ...]
    right: tuple[np.ndarray, ...] | None
    nats: tuple[np.ndarray, ...]
    chance: float | None
    majority: float | None
    items: int
    draws: int


def answered(
    proxy: "Proxy",
    task: Task,
    shots: Sequence[int] = SHOTS,
    *,
    items: int = 64,
    draws: int = 4,
    seed: int = 0,
) -> Answered:
    """Measure a task at every number of shots that fits the model's context and leaves the items over.

    Items and demonstrations are drawn from the task's pool, apart from each other, the same for every model;
    each draw of demonstrations meets every item. The answer is the one of the highest log-probability,
    summed over its tokens, among the task's answers, where there are at most 64. Raises SettingError for
    numbers that cannot be, DataError where the pool is too small.
    """
    for name, value in (("items", items), ("draws", draws)):
        whole_number(name, value, 1)
    asked, orders = drawn_rows(task, items, draws, seed)
    known = [count for count in sorted(set(shots)) if count <= len(orders[0])]
    if not known or min(known) < 0:
        raise SettingError(
            f"shots={tuple(shots)!r} of {len(orders[0])} examples",
            expected=f"numbers from 0 to {len(orders[0])}",
            fix="pass smaller ones, or fewer items",
        )
    from icl_plugins.evaluation.local import LocalTarget

    target = LocalTarget(proxy)
    choices = tuple(dict.fromkeys(task.pool.answers))
    free = len(choices) > _MOST_CHOICES or len(choices) > len(task.pool) / 2
    right, nats = [], []
    for count in known:
        drawn = [order[:count] for order in (orders if count else orders[:1])]
        found = [_answers(target, task, rows, asked, None if free else choices) for rows in drawn]
        if any(one is None for one in found):
            if count == known[0]:
                raise TooLongError(
                    f"task {task.name!r}: an item does not fit the context behind {count} examples",
                    expected="items that fit, to be measured on",
                    fix="leave the longest out, or measure another task",
                )
            break
        right.append(np.array([one[0] for one in found if one is not None]))
        nats.append(np.array([one[1] for one in found if one is not None]))
    gold = [task.pool.answers[row] for row in asked]
    return Answered(
        task.name,
        fingerprint(task.fingerprint, repr((asked, orders))),
        tuple(known[: len(nats)]),
        None if free else tuple(right),
        tuple(nats),
        None if free else 1 / len(choices),
        None if free else max(map(gold.count, set(gold))) / len(gold),
        len(asked),
        draws,
    )


def check_size(task: Task, items: int = 64) -> None:
    """Raise DataError for a task with too few examples to measure on."""
    if len(task.pool) < 2 * min(items, 8):
        raise DataError(
            f"task {task.name!r} has {len(task.pool)} examples to measure on",
            expected="at least 16, or twice the items",
            fix="give more examples, or leave the task out of validation",
        )


def drawn_rows(task: Task, items: int, draws: int, seed: int) -> tuple[list[int], list[list[int]]]:
    """Return the rows that are asked, and of each draw all others in the order in which they are shown.

    Raises DataError where the pool is too small.
    """
    check_size(task, items)
    order = np.random.default_rng([seed, 0]).permutation(len(task.pool))
    items = min(items, len(order) // 2)
    rng = np.random.default_rng([seed, 1])
    return order[:items].tolist(), [rng.permutation(order[items:]).tolist() for _ in range(draws)]


def _answers(
    target: "LocalTarget", task: Task, shown: list[int], asked: list[int], choices: tuple[str, ...] | None
) -> tuple[np.ndarray | None, np.ndarray] | None:
    """Return whether each item is right (None for free answers) and its nats; None where one does not fit."""
    from icl_plugins.prompt import ManyShotPrompt

    pool = task.pool
    demonstrations = tuple((pool.questions[row], pool.answers[row]) for row in shown)
    prompt = ManyShotPrompt(pool.template, demonstrations, tuple(pool.examples[row] for row in shown))
    requests = [prompt.messages(pool.examples[row], "single") for row in asked]
    own = [[pool.answers[row]] for row in asked]
    try:
        answers = target.score(requests, own if choices is None else [choices] * len(asked))
    except TooLongError:
        return None
    scores = np.array([answer.scores for answer in answers])
    if choices is None:
        return None, -scores[:, 0]
    right = np.array([choices.index(answer) for (answer,) in own])
    return scores.argmax(1) == right, -scores[np.arange(len(asked)), right]
