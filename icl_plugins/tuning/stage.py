"""A stage of a run: its steps, and what its rows are made of."""

from dataclasses import dataclass
from typing import Literal

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.errors import SettingError
from icl_plugins.selectors._settings import check_choice, check_real


@dataclass(frozen=True)
class Stage:
    """So many steps, and how the rows of their batches are drawn.

    steps: of the optimiser. rows: of a batch on one device. context: tokens of a row. tasks: names of those
    that take part, None for all. temperature: a task is drawn in proportion to its number of examples to this
    power: 0 all alike, 1 by size. shots: the number of examples of a sequence is drawn from 1 to what fits,
    "uniform" or "log"-uniform, or "full" takes all that fit. zero_shot: share of the sequences with one
    example, behind nothing. plain: share of plain text. other_names: share of the sequences of classes that
    get other names; unseen: weight of the answers that show an invented name first, which nothing foretells.
    classes: from and to how many classes a sequence shows, each as often as the others; None shows them as
    the data has them. pack: whether the room behind a sequence is filled with others.
    """

    steps: int = 300
    rows: int = 4
    context: int = 2048
    tasks: tuple[str, ...] | None = None
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
        if self.classes is not None and not (
            len(self.classes) == 2 and 2 <= self.classes[0] <= self.classes[1]
        ):
            raise SettingError(
                f"classes={self.classes!r}", expected="(from, to), from 2 on", fix="pass two numbers"
            )
