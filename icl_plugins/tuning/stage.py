"""A stage of a run: its steps, and what its rows are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.errors import SettingError
from icl_plugins.selectors._settings import check_choice, check_real
from icl_plugins.tuning.tasks import Task


@dataclass(frozen=True)
class Stage:
    """So many steps, and how the rows of their batches are drawn.

    steps: of the optimiser. rows: of a batch on one device. context: tokens of a row. tasks: names or kinds
    of those that take part, and the share of each; None is all of them as one kind. temperature: of a kind, a
    task is drawn in proportion to its number of examples to this power: 0 all alike, 1 by size. shots: the
    number of examples of a sequence is drawn from 1 to what fits, "uniform" or "log"-uniform, or "full" takes
    all that fit. zero_shot: share of the sequences with one example, behind nothing. plain: share of plain
    text. other_names: share of the sequences of classes that get other names; unseen: weight of the answers
    that show another name first, which nothing foretells. classes: from and to how many classes a sequence
    shows, each as often as the others; None shows them as the data has them. pack: whether the room behind a
    sequence is filled with others.
    """

    steps: int = 300
    rows: int = 4
    context: int = 2048
    tasks: Mapping[str, float] | None = None
    temperature: float = 0.5
    shots: Literal["uniform", "log", "full"] = "uniform"
    zero_shot: float = 0.1
    plain: float = 0.0
    other_names: float = 0.0
    unseen: float = 0.1
    classes: tuple[int, ...] | None = None
    pack: bool = True

    def __post_init__(self) -> None:
        """Check all of it."""
        whole_number("steps", self.steps, 1)
        whole_number("rows", self.rows, 1)
        whole_number("context", self.context, 8)
        check_real("temperature", self.temperature, at_most=1.0)
        check_choice("shots", self.shots, ("uniform", "log", "full"))
        for name in ("zero_shot", "plain", "other_names", "unseen"):
            check_real(name, getattr(self, name), at_most=1.0)
        if self.zero_shot + self.plain > 1:
            got = f"zero_shot={self.zero_shot} and plain={self.plain}"
            raise SettingError(got, expected="shares that sum up to 1 at most", fix="lower one of them")
        self._check_tasks()
        if self.classes is not None:
            self._check_classes()

    def odds(self, tasks: Sequence[Task]) -> np.ndarray:
        """Return (T,): how likely each task is drawn, 0 for those that take no part."""
        sizes = np.array([len(task.pool) for task in tasks], dtype=float) ** self.temperature
        shares = {None: 1.0} if self.tasks is None else self.tasks
        odds = np.zeros(len(tasks))
        for name, share in shares.items():
            part = sizes * [name in (None, task.name, task.kind) for task in tasks]
            odds += share * part / part.sum()
        odds /= odds.sum()
        return odds

    def _check_tasks(self) -> None:
        if self.tasks is None:
            return
        if not isinstance(self.tasks, Mapping) or not self.tasks:
            raise SettingError(
                f"tasks={self.tasks!r}", expected="names with their shares", fix='pass {"name": 1.0}'
            )
        for name, share in self.tasks.items():
            check_real(f"tasks[{name!r}]", share, positive=True)

    def _check_classes(self) -> None:
        bounds = self.classes or ()
        if len(bounds) != 2 or not 2 <= whole_number("classes", bounds[0], 2) <= bounds[1]:
            raise SettingError(
                f"classes={bounds!r}", expected="(from, to), from 2 on", fix="pass two numbers"
            )
        whole_number("classes", bounds[1], 2)
