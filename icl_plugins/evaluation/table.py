"""The table of a comparison: each method at each number of shots, on each data set and over all of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from icl_plugins.evaluation.config import RANDOM
from icl_plugins.evaluation.results import Comparison, Run
from icl_plugins.evaluation.statistics import Difference, Interval, average_difference, average_interval

Key = tuple[str, int | None, str]  # data set, shots asked for, method


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
    shots = dict.fromkeys((data, asked) for data, asked, _ in groups)
    return tuple(_row([key], groups) for place in shots for key in groups if (key[0], key[1]) == place)


def averages(comparison: Comparison) -> tuple[Row, ...]:
    """Return a row for each number of shots and method, over the data sets that have both it and random.

    The data sets are not drawn at random: the intervals hold for these.
    """
    groups = _groups(comparison)
    cells = dict.fromkeys((asked, method) for _, asked, method in groups)
    order = list(dict.fromkeys(asked for asked, _ in cells))
    found = []
    for asked, method in sorted(cells, key=lambda cell: order.index(cell[0])):
        keys = [key for key in groups if key[1:] == (asked, method) and (key[0], asked, RANDOM) in groups]
        if keys:
            found.append(_row(keys, groups))
    return tuple(found)


def _groups(comparison: Comparison) -> dict[Key, list[Run]]:
    groups: dict[Key, list[Run]] = {}
    for run in comparison.runs:
        groups.setdefault((run.data, run.asked, run.method), []).append(run)
    return groups


def _row(keys: Sequence[Key], groups: dict[Key, list[Run]]) -> Row:
    _, asked, method = keys[0]
    samples = [[run.evaluation for run in groups[key]] for key in keys]
    random = [groups.get((data, asked, RANDOM)) for data, _, _ in keys]
    pairs = [
        (sample, [run.evaluation for run in control])
        for sample, control in zip(samples, random, strict=True)
        if control
    ]

    def mean(value: Callable[[Run], float]) -> float:
        return fmean(fmean(map(value, groups[key])) for key in keys)

    costs = [run.evaluation.cost for key in keys for run in groups[key]]
    return Row(
        datasets=tuple(data for data, _, _ in keys),
        asked=asked,
        method=method,
        mean=average_interval(samples),
        gain=average_difference(pairs) if pairs and method != RANDOM else None,
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
    asked = f"{row.asked:,}" if row.asked else "max"
    chosen = "" if row.shots == row.asked else f" ({row.shots:,.0f})"
    failed = f", {row.failed:.1%} failed" if row.failed else ""
    return (
        asked + chosen,
        row.method,
        f"{100 * row.mean.mean:.1f} [{100 * row.mean.low:.1f}, {100 * row.mean.high:.1f}]",
        _gain(row.gain),
        "" if row.gain is None else "< 0.001" if row.gain.p < 0.001 else f"{row.gain.p:.3f}",
        f"{row.label_kl:.4f}",
        f"{row.tokens:,.0f}",
        f"{row.select_seconds:,.1f}",
        f"{row.target_seconds:,.1f}",
        "" if row.cost is None else f"{row.cost:,.4f}",
        f"{row.unparsable:.1%}{failed}",
    )


def _gain(gain: Difference | None) -> str:
    if gain is None:
        return ""
    return f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


_LEGEND = """\
Means in points (hundredths of the metric) with 95 % intervals over items and seeds; gain: over random on the
same items; p: of each line by itself. Shots, label KL (selection against pool, nats), tokens of the prompt
with the longest query, seconds and cost are means of the runs. Choosing has all of the proxy's work in it,
also where runs share it.
"""


def markdown(comparison: Comparison) -> str:
    """Return the averages, then a table for each data set, then the notes."""
    by_data: dict[str, list[Row]] = {}
    for row in rows(comparison):
        by_data.setdefault(row.datasets[0], []).append(row)
    parts = ["# Comparison", _LEGEND]
    if len(by_data) > 1:
        parts += [f"## Average of {len(by_data)} data sets", _table(averages(comparison), len(by_data))]
    for data, found in by_data.items():
        parts += [f"## {data}", _table(found, 1)]
    if comparison.notes:
        parts += ["## Notes", "\n".join(f"- {' '.join(note.split())}" for note in comparison.notes)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _table(found: Iterable[Row], datasets: int) -> str:
    lines = [
        HEADERS,
        ["---", "---", *["---:"] * (len(HEADERS) - 2)],
        *(marked(row, datasets) for row in found),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def marked(row: Row, datasets: int) -> tuple[str, ...]:
    """Return the columns, and behind the method how many data sets it has where it lacks some."""
    shots, method, *others = texts(row)
    some = "" if len(row.datasets) == datasets else f" ({len(row.datasets)} of {datasets} data sets)"
    return (shots, method + some, *others)
