"""The report of a comparison."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from icl_plugins.artefacts import canonical_json
from icl_plugins.errors import SettingError
from icl_plugins.evaluation.config import CONTROLS, RANDOM
from icl_plugins.evaluation.error_table import FLIP_HEADERS, ErrorTable, error_tables
from icl_plugins.evaluation.table import HEADERS, averages, gain_text, gains, marked, shots_text
from icl_plugins.evaluation.table import rows as rows_of
from icl_plugins.report.comparison_plots import (
    Looks,
    gain_plot,
    label_kl_plot,
    looks_of,
    time_plot,
    value_plot,
)
from icl_plugins.report.markup import Markup, Table, element, joined, scrolling_table
from icl_plugins.report.page import Report, Section
from icl_plugins.report.plot import require_matplotlib

if TYPE_CHECKING:
    from icl_plugins.evaluation.results import Comparison
    from icl_plugins.evaluation.table import Row


def comparison_report(comparison: "Comparison") -> Report:
    """Report a comparison: the metric against shots, gain over random, label KL, time, tables and errors.

    Means over all data sets come first, then each data set; everything with 95 % intervals. Raises
    OptionalDependencyError without matplotlib, SettingError for a comparison without runs.
    """
    require_matplotlib()
    if not comparison.runs:
        raise SettingError(
            "a comparison without runs",
            expected="one run at least",
            fix="read the comparison's notes, which say why none could be made",
        )
    by_data: dict[str, list[Row]] = {}
    for row in rows_of(comparison):
        by_data.setdefault(row.datasets[0], []).append(row)
    metrics = {run.data: run.evaluation.metric for run in comparison.runs}
    looks = looks_of(dict.fromkeys(run.method for run in comparison.runs))  # the same in every section
    # without random on any data set there is no average to speak of
    over_all = averages(comparison)
    sections = []
    if len(by_data) > 1 and over_all:
        metric = " and ".join(sorted(set(metrics.values())))
        heading = f"Average of {len(by_data)} data sets"
        sections.append(_section("average", heading, metric, over_all, len(by_data), looks))
    sections += _over_controls(comparison)
    for number, (data, rows) in enumerate(by_data.items(), 1):
        sections.append(_section(f"data-{number}{_slug(data)}", data, metrics[data], rows, 1, looks))
    sections += [_errors(number, found) for number, found in enumerate(error_tables(comparison), 1)]
    if over_all:
        methods = _by_method(over_all)
        plots = (label_kl_plot(methods, looks), time_plot(methods))
        sections.append(Section("labels-and-time", "Labels and time", plots))
    if comparison.notes:
        notes = element("ul", *(element("li", note) for note in comparison.notes))
        sections.append(Section("notes", "Notes", (), notes))
    sections.append(Section("made", "How it was made", (), _config(comparison)))
    count = len({run.method for run in comparison.runs})
    title = f"Comparison of {_number(count, 'method')} on {_number(len(by_data), 'data set')}"
    return Report(title, _facts(comparison), tuple(sections))


def _section(
    name: str, heading: str, metric: str, rows: "Sequence[Row]", datasets: int, looks: Looks
) -> Section:
    methods = _by_method(rows)
    plots = [value_plot(name, metric, methods, looks)]
    if any(row.gain is not None for row in rows):
        plots.append(gain_plot(name, methods, looks))
    table = Table(
        f"{heading}: {metric} in points with 95 % intervals, means of the runs",
        ("method", "shots", *HEADERS[2:]),
        tuple((method, shots, *others) for shots, method, *others in (marked(row, datasets) for row in rows)),
    )
    return Section(name, heading, tuple(plots), scrolling_table(table))


def _over_controls(comparison: "Comparison") -> list[Section]:
    """Return the gains over each control, which show what of a gain the gradients themselves bring."""
    controls = tuple(CONTROLS)
    rows = tuple(
        (method, shots_text(asked), *(gain_text(over.get(control)) for control in controls))
        for (asked, method), over in gains(comparison).items()
    )
    caption = "In points with 95 % intervals, on the data sets that have both"
    table = Table(caption, ("method", "shots", *controls), rows)
    return [Section("controls", "Gain over each control", (), scrolling_table(table))] if rows else []


def _errors(number: int, found: ErrorTable) -> Section:
    """Return what flips against random, and the most frequent mistakes."""
    tables = []
    if found.flips:
        caption = "Items that are right or wrong where they were not with random; means over the seeds"
        tables.append(Table(caption, FLIP_HEADERS, found.flips))
    if found.mistakes:
        columns = ("right answer", "answered", *found.methods)
        tables.append(
            Table("The most frequent mistakes: items, means over the seeds", columns, found.mistakes)
        )
    heading = f"Errors on {found.data}, {found.shots} shots"
    return Section(f"errors-{number}{_slug(found.data)}", heading, (), joined(map(scrolling_table, tables)))


def _by_method(rows: "Sequence[Row]") -> "dict[str, list[Row]]":
    """Return the rows of each method by shots, random first."""
    methods: dict[str, list[Row]] = {RANDOM: []}
    for row in sorted(rows, key=lambda row: row.shots):
        methods.setdefault(row.method, [])
    for row in sorted(rows, key=lambda row: row.shots):
        methods[row.method].append(row)
    return {method: found for method, found in methods.items() if found}


def _facts(comparison: "Comparison") -> dict[str, str]:
    runs = comparison.runs
    items = {run.data: len(run.evaluation.golds) for run in runs}
    seeds: dict[str, set[int]] = {}
    for run in runs:
        seeds.setdefault(run.method, set()).add(run.seed)
    asked = sorted({run.asked for run in runs if run.asked is not None})
    shots = [*map(str, asked), *(["max"] if any(run.asked is None for run in runs) else [])]
    return {
        "Target": ", ".join(sorted({run.evaluation.target for run in runs})),
        "Shots": ", ".join(shots),
        "Seeds": _span(list(map(len, seeds.values()))),
        "Items of a data set": _span(list(items.values())),
        "Runs": f"{len(runs):,}",
    }


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _config(comparison: "Comparison") -> Markup:
    rows = tuple((key, canonical_json(value)) for key, value in sorted(comparison.config.items()))
    return scrolling_table(Table("The config as read", ("key", "value"), rows))


def _slug(name: str) -> str:
    return "".join(f"-{part}" for part in re.findall("[a-z0-9]+", name.lower()))[:40]


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"
