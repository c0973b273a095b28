"""A task to learn: its examples, the templates they may be written in, whether its answers are classes."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from icl_plugins.artefacts import fingerprint
from icl_plugins.errors import DataError, SettingError
from icl_plugins.examples import Pool
from icl_plugins.selectors._settings import check_real
from icl_plugins.template import Template


@dataclass(frozen=True)
class Task:
    """One task to learn in context.

    templates: further ways to write its examples; one is drawn for each sequence. classes: whether its
    answers name classes, so that other words may stand for them and a sequence may show a part of them; the
    answer's template then has exactly one field. weight: of the losses of its answers. kind: a name for
    several tasks, by which a stage may draw them.

    Raises DataError for fewer than two examples (nothing could be shown in front of the other), TemplateError
    for a template that does not suit them, SettingError for values that cannot be.
    """

    name: str
    pool: Pool = field(repr=False)
    templates: tuple[Template, ...] = ()
    classes: bool = False
    weight: float = 1.0
    kind: str = ""

    def __post_init__(self) -> None:
        """Check the number of examples, every template on every example, and the answers of classes."""
        check_real(f"{self.name}: weight", self.weight, positive=True)
        if len(self.pool) < 2:
            raise DataError(
                f"task {self.name!r} has one example",
                expected="at least two: one to show and one to answer",
                fix="add examples, or leave the task out",
            )
        for template in self.templates:
            if template.places != self.pool.template.places:
                Pool(self.pool.examples, template)  # renders and checks every example
        if self.classes:
            self._check_classes()

    @property
    def ways(self) -> tuple[Template, ...]:
        """All templates, the pool's own first."""
        return (self.pool.template, *self.templates)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the classes as the data has them, in order of first appearance."""
        return tuple(dict.fromkeys(self._values))

    @cached_property
    def rows_of(self) -> dict[str, np.ndarray]:
        """The rows of each class."""
        rows = defaultdict(list)
        for row, name in enumerate(self._values):
            rows[name].append(row)
        return {name: np.array(found) for name, found in rows.items()}

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of all that the task can show."""
        ways = [part for way in self.templates for part in (way.question, way.answer, way.separator)]
        return fingerprint(
            self.name, self.pool.fingerprint, *ways, repr((self.classes, self.weight, self.kind))
        )

    @cached_property
    def _values(self) -> tuple[str, ...]:
        return tuple(self.pool.template.answer_values(example)[0] for example in self.pool)

    def _check_classes(self) -> None:
        for template in self.ways:
            places = len(template.answer_values(self.pool.examples[0]))
            if places != 1:
                raise SettingError(
                    f"task {self.name!r} has classes, and {places} fields in the answer {template.answer!r}",
                    expected="exactly one field, the name of the class",
                    fix="change the answer's template, or set classes to false",
                )
        if len(self.names) < 2:
            raise DataError(
                f"task {self.name!r} has one class, {self.names[0]!r:.40}",
                expected="at least two classes",
                fix="add examples of others, or set classes to false",
            )


def listed(name: str, tasks: Iterable[Task]) -> list[Task]:
    """Return the tasks as a list; raises SettingError for what is none."""
    found = [] if isinstance(tasks, Task) else list(tasks)
    if isinstance(tasks, Task) or not all(isinstance(task, Task) for task in found):
        raise SettingError(f"{name}: {tasks!r:.60}", expected="a list of Task", fix=f"pass {name} as a list")
    return found


def check_tasks(tasks: Sequence[Task]) -> None:
    """Raise SettingError unless there are tasks, each of a name of its own."""
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        raise SettingError(
            f"tasks: {f'{twice[0]!r} twice' if twice else 'none'}",
            expected="at least one task, each of its own name",
            fix="correct the tasks",
        )
