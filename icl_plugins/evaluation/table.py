"""The table of a comparison: each method at each number of shots, on each data set and over all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from icl_plugins.evaluation.config import CONTROLS, RANDOM
from icl_plugins.evaluation.results import Comparison, Evaluation, Run
from icl_plugins.evaluation.statistics import Difference, Interval, average_difference, average_interval

Key = tuple[str, int | None, str]  # data set, shots asked for, method
Cell = tuple[int | None, str]
Groups = dict[Key, list[Run]]


@dataclass(frozen=True)
class Row:
    """A method at a number of shots; of several data sets, means over them.

    asked: None for as many as fit. mean: of the metrics, with its interval over items and seeds. gain: over
    random on the same items; None for random. shots, tokens, label_kl, select_seconds, target_seconds, cost:
    means of the runs. unparsable, failed: shares of the answers.
    """

    datasets: tuple[str, ...]
    asked: int | None
    method: str
    mean: Interval
    gain: Difference | None
    shots: float
    tokens: float
    label_kl: float
    select_seconds: float
    target_seconds: float
    cost: float | None
    unparsable: float
    failed: float


def rows(comparison: Comparison) -> tuple[Row, ...]:
    """Return a row for each data set, number of shots and method, in the order of the runs."""
    groups = _groups(comparison)
    places = dict.fromkeys((data, asked) for data, asked, _ in groups)
    return tuple(_row([key], groups) for place in places for key in groups if key[:2] == place)


def averages(comparison: Comparison) -> tuple[Row, ...]:
    """Return a row for each number of shots and method, over the data sets that have both it and random.

    The data sets are not drawn at random: the intervals hold for these.
    """
    groups = _groups(comparison)
    found = [_shared(groups, cell, RANDOM) for cell in _cells(groups)]
    return tuple(_row(keys, groups) for keys in found if keys)


def gains(comparison: Comparison) -> dict[Cell, dict[str, Difference]]:
    """Return, for each method that is no control, its gains over the controls on the data sets of both.

    What the gradients themselves bring is the gain over the best of the controls.
    """
    groups = _groups(comparison)
    return {
        cell: {
            control: _gain_over(control, keys, groups)
            for control in CONTROLS
            if (keys := _shared(groups, cell, control))
        }
        for cell in _cells(groups)
        if cell[1] not in CONTROLS
    }


def _groups(comparison: Comparison) -> Groups:
    groups: Groups = {}
    for run in comparison.runs:
        groups.setdefault((run.data, run.asked, run.method), []).append(run)
    return groups


def _cells(groups: Groups) -> list[Cell]:
    """Return the numbers of shots and methods, by number of shots, in the order of the runs."""
    cells = dict.fromkeys((asked, method) for _, asked, method in groups)
    order = list(dict.fromkeys(asked for asked, _ in cells))
    return sorted(cells, key=lambda cell: order.index(cell[0]))


def _shared(groups: Groups, cell: Cell, control: str) -> list[Key]:
    """Return the keys of a cell on the data sets where the control has run too."""
    return [key for key in groups if key[1:] == cell and (key[0], cell[0], control) in groups]


def _gain_over(control: str, keys: Sequence[Key], groups: Groups) -> Difference:
    return average_difference(
        [(_evaluations(groups[key]), _evaluations(groups[key[0], key[1], control])) for key in keys]
    )


def _evaluations(runs: Sequence[Run]) -> list[Evaluation]:
    return [run.evaluation for run in runs]


def _row(keys: Sequence[Key], groups: Groups) -> Row:
    _, asked, method = keys[0]
    known = method != RANDOM and all((data, asked, RANDOM) in groups for data, _, _ in keys)

    def mean(value: Callable[[Run], float]) -> float:
        return fmean(fmean(map(value, groups[key])) for key in keys)

    costs = [run.evaluation.cost for key in keys for run in groups[key]]
    return Row(
        datasets=tuple(data for data, _, _ in keys),
        asked=asked,
        method=method,
        mean=average_interval([_evaluations(groups[key]) for key in keys]),
        gain=_gain_over(RANDOM, keys, groups) if known else None,
        shots=mean(lambda run: run.shots),
        tokens=mean(lambda run: run.tokens),
        label_kl=mean(lambda run: run.label_kl),
        select_seconds=mean(lambda run: run.select_seconds),
        target_seconds=mean(lambda run: run.evaluation.seconds),
        cost=None if None in costs else mean(lambda run: run.evaluation.cost or 0.0),
        unparsable=mean(lambda run: run.evaluation.unparsable / len(run.evaluation.golds)),
        failed=mean(lambda run: len(run.evaluation.errors) / len(run.evaluation.golds)),
    )


HEADERS = (
    "shots",
    "method",
    "mean",
    "gain over random",
    "p",
    "label KL",
    "prompt tokens",
    "choosing s",
    "target s",
    "cost USD",
    "unparsable",
)


def texts(row: Row) -> tuple[str, ...]:
    """Return the columns of HEADERS; metrics in points (hundredths), intervals in brackets."""
    chosen = "" if row.shots == row.asked else f" ({row.shots:,.0f})"
    failed = f", {row.failed:.1%} failed" if row.failed else ""
    return (
        shots_text(row.asked) + chosen,
        row.method,
        f"{100 * row.mean.mean:.1f} [{100 * row.mean.low:.1f}, {100 * row.mean.high:.1f}]",
        gain_text(row.gain),
        "" if row.gain is None else "< 0.001" if row.gain.p < 0.001 else f"{row.gain.p:.3f}",
        f"{row.label_kl:.4f}",
        f"{row.tokens:,.0f}",
        f"{row.select_seconds:,.1f}",
        f"{row.target_seconds:,.1f}",
        "" if row.cost is None else f"{row.cost:,.4f}",
        f"{row.unparsable:.1%}{failed}",
    )


def shots_text(asked: int | None) -> str:
    """Return a number of shots; None is as many as fit."""
    return "max" if asked is None else f"{asked:,}"


def gain_text(gain: Difference | None) -> str:
    """Return a difference with its interval, in points; nothing for None."""
    if gain is None:
        return ""
    return f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def marked(row: Row, datasets: int) -> tuple[str, ...]:
    """Return the columns, and behind the method how many data sets it has where it lacks some."""
    shots, method, *others = texts(row)
    some = "" if len(row.datasets) == datasets else f" ({len(row.datasets)} of {datasets} data sets)"
    return (shots, method + some, *others)
