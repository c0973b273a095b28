"""The plots of a comparison: what each method is worth, what it gains over random, and what it costs."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from icl_plugins.evaluation.config import RANDOM
from icl_plugins.evaluation.table import HEADERS, texts
from icl_plugins.report.colours import LIGHT, SERIES
from icl_plugins.report.drawing import axis_of_shots, name_ends, plain_axes
from icl_plugins.report.markup import Table
from icl_plugins.report.plot import Plot, short

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from icl_plugins.evaluation.table import Row

ByMethod = Mapping[str, Sequence["Row"]]
Looks = Mapping[str, tuple[str, str]]

_MARKERS = "Dos^vPX<>"
_LEAST_SECONDS = 1e-3


def looks_of(methods: Iterable[str]) -> Looks:
    """Return the colour and marker of each method: grey for random, then the series, then grey again."""
    colours, markers = iter(SERIES), cycle(_MARKERS)
    return {
        method: (LIGHT["muted"], "o") if method == RANDOM else (next(colours, LIGHT["other"]), next(markers))
        for method in methods
    }


def value_plot(name: str, metric: str, methods: ByMethod, looks: Looks) -> Plot:
    """Plot the metric against shots: a line for each method, with 95 % intervals; that of random is a band.

    metric: its name. methods: the rows of each, by shots. looks: see `looks_of`.
    """

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for at, (method, rows) in enumerate(methods.items()):
            colour, marker = looks[method]
            shots = np.array([row.shots for row in rows])
            mean, low, high = (100 * np.array([_bounds(row) for row in rows])).T
            if method == RANDOM:
                axes.fill_between(shots, low, high, color=LIGHT["band"], lw=0)
                axes.plot(shots, mean, color=colour, ls="--", marker=marker, ms=4)
                continue
            beside = shots * 2 ** (0.06 * (at - len(methods) / 2))  # so that no interval hides another
            axes.vlines(beside, low, high, color=colour, lw=1)
            axes.plot(beside, mean, color=colour, marker=marker, ms=4.5)
        axes.set_ylabel(f"{metric} (points)")
        plain_axes(axes)
        axis_of_shots(axes, [round(row.shots) for rows in methods.values() for row in rows])
        ends = {method: 100 * rows[-1].mean.mean for method, rows in methods.items()}
        name_ends(axes, [(end, short(method), looks[method][0]) for method, end in ends.items()])

    description = (
        f"The {metric} of each method in points (hundredths). Upright lines, and for random the band: 95 % "
        "intervals over items and seeds."
    )
    table = _table(f"{metric} in points, with 95 % intervals", methods, ("mean",))
    return Plot(f"{name}-value", f"{_capital(metric)} against shots", description, table, draw, (4.4, 3.8))


def gain_plot(name: str, methods: ByMethod, looks: Looks) -> Plot:
    """Plot the paired differences of each method against random, with 95 % intervals (a forest plot)."""
    lines: list[tuple[str, Row | None]] = []
    for method, rows in methods.items():
        gains = [row for row in rows if row.gain is not None]
        lines += [(method, None), *((method, row) for row in gains)] if gains else []

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for place, (method, row) in enumerate(lines):
            if row is None or row.gain is None:
                continue
            colour, marker = looks[method]
            axes.hlines(place, 100 * row.gain.low, 100 * row.gain.high, color=colour, lw=1.6)
            axes.plot(100 * row.gain.mean, place, marker, ms=5, color=colour)
        axes.axvline(0, color=LIGHT["ink"], lw=1)
        axes.set_yticks(range(len(lines)), [texts(row)[0] if row else short(method) for method, row in lines])
        for (_, row), tick in zip(lines, axes.yaxis.get_major_ticks(), strict=True):
            if row is None:
                tick.label1.set_fontweight("bold")
                tick.tick1line.set_visible(False)
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("gain over random (points)")

    description = (
        "For each method and number of shots, the difference to random on the same items in points "
        "(hundredths), with its 95 % interval over items and seeds. Right of the upright line is better."
    )
    shown = {method: [row for row in rows if row.gain is not None] for method, rows in methods.items()}
    table = _table("Gain over random in points, with 95 % intervals", shown, ("gain over random", "p"))
    return Plot(
        f"{name}-gain", "Gain over random", description, table, draw, (4.4, 0.9 + 0.19 * max(4, len(lines)))
    )


def label_kl_plot(methods: ByMethod, looks: Looks) -> Plot:
    """Plot the divergence of the labels chosen from those of the pool against shots, for each method."""

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for method, rows in methods.items():
            colour, marker = looks[method]
            line = "--" if method == RANDOM else "-"
            shots, kl = zip(*((row.shots, row.label_kl) for row in rows), strict=True)
            axes.plot(shots, kl, color=colour, marker=marker, ms=4.5, ls=line)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("label KL (nats)")
        plain_axes(axes)
        axis_of_shots(axes, [round(row.shots) for rows in methods.values() for row in rows])
        ends = {method: rows[-1].label_kl for method, rows in methods.items()}
        name_ends(axes, [(end, short(method), looks[method][0]) for method, end in ends.items()])

    description = (
        "How far the labels of the demonstrations are from those of the pool: KL(selection || pool) in nats, "
        "mean of the runs. 0 is the pool's own balance."
    )
    table = _table("Label KL in nats", methods, ("label KL",))
    return Plot("label-kl", "Label KL against shots", description, table, draw)


def time_plot(methods: ByMethod) -> Plot:
    """Plot the seconds that choosing and the target take, for each method at its most shots."""
    last = {method: rows[-1] for method, rows in methods.items()}

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        places = range(len(last))
        for name, field, marker, colour in (
            ("choosing", "select_seconds", "D", SERIES[0]),
            ("answers of the target", "target_seconds", "o", SERIES[1]),
        ):
            seconds = [max(getattr(row, field), _LEAST_SECONDS) for row in last.values()]
            axes.plot(seconds, places, marker, color=colour, ms=5.5, label=name)
        axes.set_xscale("log")
        plain_axes(axes)
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.set_yticks(places, [short(method) for method in last])
        axes.set_ylim(len(last) - 0.4, -0.6)
        axes.set_xlabel("seconds, mean of the runs")
        figure.legend(loc="outside upper right", ncols=2, handletextpad=0.1, columnspacing=1)

    description = (
        "Seconds of choosing, all of the proxy's work in it, and of the target's answers, for each method "
        f"at its most shots. Less than {_LEAST_SECONDS} s is drawn as {_LEAST_SECONDS} s."
    )
    table = _table("Seconds and cost of each method", methods, ("choosing s", "target s", "cost USD"))
    return Plot("time", "Time of each method", description, table, draw, (4.4, 1.1 + 0.25 * len(last)))


def _bounds(row: "Row") -> tuple[float, float, float]:
    return row.mean.mean, row.mean.low, row.mean.high


def _table(caption: str, methods: ByMethod, columns: Sequence[str]) -> Table:
    """Return some columns of the comparison's own table."""
    places = [HEADERS.index(name) for name in ("method", "shots", *columns)]
    lines = [texts(row) for rows in methods.values() for row in rows]
    rows = tuple(tuple(line[place] for place in places) for line in lines)
    return Table(_capital(caption), ("method", "shots", *columns), rows)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
