"""Error analysis: which labels are mistaken for which, and which items flip between two prompts."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from icl_plugins.errors import SettingError
from icl_plugins.evaluation.results import Evaluation


@dataclass(frozen=True)
class Confusion:
    """Counts (G, P) of golds against predictions; the last prediction is None: unparsed or failed.

    golds: the labels that occur as golds, sorted. predictions: these and, behind them, labels that were
    predicted only, then None.
    """

    golds: tuple[str, ...]
    predictions: tuple[str | None, ...]
    counts: tuple[tuple[int, ...], ...]

    def mistakes(self) -> tuple[tuple[str, str | None, int], ...]:
        """Return (gold, prediction, count) of what went wrong, most frequent first."""
        wrong = (
            (gold, prediction, count)
            for gold, row in zip(self.golds, self.counts, strict=True)
            for prediction, count in zip(self.predictions, row, strict=True)
            if count and prediction != gold
        )
        return tuple(sorted(wrong, key=lambda mistake: -mistake[2]))


@dataclass(frozen=True)
class Flips:
    """Items whose value rose (fixed) or fell (broken) between two prompts, or stayed.

    What stayed is right where the value is at least 1, else wrong. All four are items in ascending order.
    """

    fixed: tuple[int, ...]
    broken: tuple[int, ...]
    both_right: tuple[int, ...]
    both_wrong: tuple[int, ...]


def confusion(evaluation: Evaluation) -> Confusion:
    """Count which golds were answered by which predictions."""
    golds = tuple(sorted(set(evaluation.golds)))
    others = sorted({one for one in evaluation.predictions if one is not None} - set(golds))
    predictions = (*golds, *others, None)
    pairs = Counter(zip(evaluation.golds, evaluation.predictions, strict=True))
    counts = tuple(tuple(pairs[gold, prediction] for prediction in predictions) for gold in golds)
    return Confusion(golds, predictions, counts)


def flips(before: Evaluation, after: Evaluation) -> Flips:
    """Compare two evaluations of the same items item by item; raises SettingError for other items."""
    if (before.golds, before.metric, before.dropped_rows) != (after.golds, after.metric, after.dropped_rows):
        raise SettingError(
            "two evaluations of different items or metrics",
            expected="the same items in the same order, by the same metric",
            fix="evaluate both prompts on the same items",
        )
    pairs = tuple(enumerate(zip(before.values, after.values, strict=True)))
    return Flips(
        fixed=tuple(item for item, (old, new) in pairs if old < new),
        broken=tuple(item for item, (old, new) in pairs if old > new),
        both_right=tuple(item for item, (old, new) in pairs if old == new >= 1),
        both_wrong=tuple(item for item, (old, new) in pairs if old == new < 1),
    )


def mean_mistakes(evaluations: Sequence[Evaluation]) -> dict[tuple[str, str | None], float]:
    """Return (gold, prediction) -> how often that went wrong in an evaluation on average, frequent first.

    Wrong is a value below 1. A prediction of None: unparsed or failed.
    """
    totals = Counter[tuple[str, str | None]]()
    for one in evaluations:
        answered = zip(one.golds, one.predictions, one.values, strict=True)
        totals.update((gold, prediction) for gold, prediction, value in answered if value < 1)
    return {pair: count / len(evaluations) for pair, count in totals.most_common()}


def mean_flips(
    before: Sequence[Evaluation], after: Sequence[Evaluation]
) -> tuple[float, float, float, float]:
    """Return how many items were fixed, broken, right both times and wrong both times: means over all pairs.

    Raises SettingError for evaluations of other items.
    """
    pairs = [flips(old, new) for old, new in product(before, after)]

    def mean(parts: Iterable[Sequence[int]]) -> float:
        return sum(map(len, parts)) / len(pairs)

    return (
        mean(pair.fixed for pair in pairs),
        mean(pair.broken for pair in pairs),
        mean(pair.both_right for pair in pairs),
        mean(pair.both_wrong for pair in pairs),
    )
