"""The errors of a comparison: which labels each method mistakes for which, and which items flip."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from icl_plugins.evaluation.analysis import mean_flips, mean_mistakes
from icl_plugins.evaluation.config import RANDOM
from icl_plugins.evaluation.results import Comparison, Evaluation
from icl_plugins.evaluation.table import shots_text

FLIP_HEADERS = ("method", "fixed", "broken", "right in both", "wrong in both")
_MOST_MISTAKES = 12


@dataclass(frozen=True)
class ErrorTable:
    """The errors on one data set with the most shots; all numbers are of items, means over the seeds.

    flips: a line (method, fixed, broken, right in both, wrong in both) for each method, against random on the
    same items. mistakes: lines (gold, prediction, a number for each of `methods`), the most frequent first;
    none where most golds are texts of their own.
    """

    data: str
    shots: str
    methods: tuple[str, ...]
    flips: tuple[tuple[str, ...], ...]
    mistakes: tuple[tuple[str, ...], ...]


def error_tables(comparison: Comparison) -> Iterator[ErrorTable]:
    """Yield the errors on each data set."""
    for data in dict.fromkeys(run.data for run in comparison.runs):
        runs = [run for run in comparison.runs if run.data == data]
        asked = max((run.asked for run in runs), key=lambda shots: float("inf") if shots is None else shots)
        methods: dict[str, list[Evaluation]] = {}
        for run in (run for run in runs if run.asked == asked):
            methods.setdefault(run.method, []).append(run.evaluation)
        yield ErrorTable(data, shots_text(asked), tuple(methods), _flips(methods), _mistakes(methods))


def _flips(methods: dict[str, list[Evaluation]]) -> tuple[tuple[str, ...], ...]:
    others = [method for method in methods if method != RANDOM and RANDOM in methods]
    return tuple(
        (method, *(f"{count:.1f}" for count in mean_flips(methods[RANDOM], methods[method])))
        for method in others
    )


def _mistakes(methods: dict[str, list[Evaluation]]) -> tuple[tuple[str, ...], ...]:
    golds = next(iter(methods.values()))[0].golds
    if 2 * len(set(golds)) > len(golds):
        return ()
    counts = {method: mean_mistakes(evaluations) for method, evaluations in methods.items()}
    total = Counter[tuple[str, str | None]]()
    for one in counts.values():
        total.update(one)
    return tuple(
        (gold, prediction or "(none)", *(f"{one.get((gold, prediction), 0):.1f}" for one in counts.values()))
        for (gold, prediction), _ in total.most_common(_MOST_MISTAKES)
    )
