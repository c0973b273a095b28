"""What items ask for: the choices of each, and its own answer, checked before anything is asked."""

from collections.abc import Sequence
from typing import cast

from icl_plugins.errors import DataError, SettingError
from icl_plugins.evaluation.answers import stripped
from icl_plugins.evaluation.metrics import Metric
from icl_plugins.examples import Pool

Choices = Sequence[str] | Sequence[Sequence[str]]
Labels = tuple[str, ...]


def labels_of(choices: Choices | None, items: int) -> list[Labels]:
    """Return the choices of each item; empty where none are known. Raises SettingError for what is none."""
    if choices is None:
        return [()] * items
    lists = [choices] * items if _are_texts(choices) else choices
    if isinstance(choices, str) or len(lists) != items or not all(map(_are_texts, lists)):
        raise SettingError(
            f"choices={choices!r:.80} for {items} items",
            expected="a list of texts, or one such list for each item",
            fix="pass label_choices(pool) or item_choices(items)",
        )
    return [tuple(map(str, own)) for own in lists]


def _are_texts(values: object) -> bool:
    listed = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
    return listed and all(isinstance(value, str) for value in cast(Sequence[object], values))


def golds_of(items: Pool, rows: Sequence[int], labels: Sequence[Labels], metric: Metric) -> tuple[str, ...]:
    """Return the answers of these rows as the metric compares them; labels: the choices of each row.

    Raises DataError for answers that the metric cannot read, and where no answer is one of its choices.
    """
    answers = [items.answers[row] for row in rows]
    golds = [answer.strip() if labels[0] else metric.read(answer) or "" for answer in answers]
    unread = [row for row, gold in zip(rows, golds, strict=True) if not gold]
    if unread:
        raise DataError(
            f"{len(unread)} items whose own answer {metric.name} cannot read: {some_items(unread)}",
            expected="answers that the metric is made for",
            fix="choose another metric, or correct the items",
        )
    if labels[0] and unreachable(golds, labels) == len(golds):
        raise DataError(
            f"no item has one of its choices as answer, such as {golds[0]!r:.80}",
            expected=f"answers such as {labels[0][0].strip()!r:.80}",
            fix="pass label_choices(pool) or item_choices(items)",
        )
    return tuple(golds)


def unreachable(golds: Sequence[str], labels: Sequence[Labels]) -> int:
    """Count golds that are none of their choices."""
    return sum(bool(own) and gold not in stripped(own) for gold, own in zip(golds, labels, strict=True))


def some_items(rows: Sequence[int]) -> str:
    """Name the first five rows."""
    return ", ".join(f"item {row}" for row in rows[:5]) + (", ..." if len(rows) > 5 else "")
