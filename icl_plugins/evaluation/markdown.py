"""A comparison as Markdown."""

from collections.abc import Iterable, Sequence

from icl_plugins.evaluation.config import CONTROLS
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

_LEGEND = """\
Means in points (hundredths of the metric) with 95 % intervals over items and seeds; gain: over random on the
same items; p: of each line by itself. Shots, label KL (selection against pool, nats), tokens of the prompt
with the longest query, seconds and cost are means of the runs. Choosing has all of the proxy's work in it,
also where runs share it.
"""


def markdown(comparison: Comparison) -> str:
    """Return averages, gains over the controls, a table for each data set, and the notes."""
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
    if comparison.notes:
        parts += ["## Notes", "\n".join(f"- {' '.join(note.split())}" for note in comparison.notes)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _table(headers: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---", "---", *["---:"] * (len(headers) - 2)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headers, rule, *lines))
