"""A comparison as Markdown."""

from collections.abc import Iterable, Sequence

from icl_plugins.evaluation.config import CONTROLS
from icl_plugins.evaluation.error_table import FLIP_HEADERS, ErrorTable, error_tables
from icl_plugins.evaluation.results import Comparison
from icl_plugins.evaluation.table import (
    HEADERS,
    Row,
    averages,
    gain_text,
    gains,
    marked,
    rows,
    shots_text,
    texts,
)

_LONGEST = 60  # characters of an answer
_LEGEND = """\
Means in points (hundredths of the metric) with 95 % intervals over items and seeds; gain: over random on the
same items; p: of each line by itself. Shots, label KL (selection against pool, nats), tokens of the prompt
with the longest query, seconds and cost are means of the runs. Choosing has all of the proxy's work in it,
also where runs share it.
"""


def markdown(comparison: Comparison) -> str:
    """Return averages, gains over the controls, a table and the errors for each data set, and the notes."""
    by_data: dict[str, list[Row]] = {}
    for row in rows(comparison):
        by_data.setdefault(row.datasets[0], []).append(row)
    parts = ["# Comparison", _LEGEND]
    if len(by_data) > 1:
        lines = [marked(row, len(by_data)) for row in averages(comparison)]
        parts += [f"## Average of {len(by_data)} data sets", _table(HEADERS, lines)]
    over = [
        (shots_text(asked), method, *(gain_text(found.get(control)) for control in CONTROLS))
        for (asked, method), found in gains(comparison).items()
    ]
    if over:
        parts += ["## Gain over each control", _table(("shots", "method", *CONTROLS), over)]
    for data, found in by_data.items():
        parts += [f"## {data}", _table(HEADERS, [texts(row) for row in found])]
    parts += [_errors(one) for one in error_tables(comparison)]
    if comparison.notes:
        parts += ["## Notes", "\n".join(f"- {' '.join(note.split())}" for note in comparison.notes)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _errors(found: ErrorTable) -> str:
    parts = [f"## Errors on {found.data}, {found.shots} shots", "Numbers of items, means over the seeds."]
    if found.flips:
        parts += ["Against random, item by item:", _table(FLIP_HEADERS, found.flips, texts=1)]
    if found.mistakes:
        headers = ("right answer", "answered", *found.methods)
        lines = [(_cell(gold), _cell(answer), *counts) for gold, answer, *counts in found.mistakes]
        parts += ["The most frequent mistakes:", _table(headers, lines)]
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    """Return text of data as the cell of a table, shortened."""
    plain = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`")
    return plain if len(plain) <= _LONGEST else plain[: _LONGEST - 1] + "…"


def _table(headers: Sequence[str], lines: Iterable[Sequence[str]], texts: int = 2) -> str:
    """Return a table whose first columns, so many, are texts, and the others numbers."""
    rule = [*["---"] * texts, *["---:"] * (len(headers) - texts)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, rule, *lines))
