"""The plots of a selection: its labels, its place in the pool, and what its objective is worth."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from icl_plugins.report.colours import LIGHT, SERIES
from icl_plugins.report.drawing import axis_of_shots, name_ends, plain_axes
from icl_plugins.report.markup import Table
from icl_plugins.report.plot import Plot, short
from icl_plugins.report.random_sets import label_range, objective_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from icl_plugins.report.features_map import FeatureMap
    from icl_plugins.selection import Selection

_MOST_ROWS = 20


def balance_plot(pool: Mapping[str, int], chosen: Mapping[str, int]) -> Plot:
    """Plot the share of each label in the selection, the pool and random sets of the same size.

    pool, chosen: label -> number of examples. Of many labels the most frequent are drawn; the table has all.
    """
    size, shots = sum(pool.values()), sum(chosen.values())
    labels = sorted(pool, key=lambda label: (-pool[label], label))
    ranges = {label: label_range(pool[label], size, shots) for label in labels}
    drawn = labels[:_MOST_ROWS]

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        places = np.arange(len(drawn))
        low, high = 100 / shots * np.array([ranges[label] for label in drawn]).T
        axes.barh(places, high - low, 0.62, low, color=LIGHT["band"], label="random sets, 95 %")
        shares = [100 * pool[label] / size for label in drawn]
        axes.plot(shares, places, "|", ms=13, mew=2, color=LIGHT["ink"], label="pool")
        shares = [100 * chosen.get(label, 0) / shots for label in drawn]
        axes.plot(shares, places, "D", ms=5.5, color=SERIES[0], label="selection", clip_on=False)
        axes.set_yticks(places, [short(label) for label in drawn])
        axes.set_ylim(len(drawn) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.set_xlabel("share of the examples (%)")
        axes.grid(visible=False, axis="y")
        figure.legend(
            loc="outside upper right", ncols=3, handletextpad=0.3, columnspacing=1, handlelength=1.2
        )

    table = Table(
        "Labels of the pool, the selection and random sets of its size",
        ("label", "pool", "pool, %", "selection", "selection, %", "random sets, 95 %"),
        tuple(
            (
                label,
                f"{pool[label]:,}",
                f"{100 * pool[label] / size:.1f}",
                f"{chosen.get(label, 0):,}",
                f"{100 * chosen.get(label, 0) / shots:.1f}",
                "{} to {}".format(*ranges[label]),
            )
            for label in labels
        ),
    )
    description = (
        f"Diamonds: share of each label among the {shots:,} demonstrations. Upright lines: its share in the "
        f"pool of {size:,}. Bars: where 95 % of random sets of {shots:,} lie."
    )
    if len(drawn) < len(labels):
        description += f" Drawn are the {len(drawn)} most frequent of {len(labels):,} labels."
    return Plot("labels", "Label balance", description, table, draw, (4.4, 1.0 + 0.22 * len(drawn)))


def objective_plot(selection: "Selection", random_range: tuple[float, float] | None = None) -> Plot:
    """Plot the objective of the first 1, 2, ... demonstrations, beside random sets where they are known.

    random_range: their central 95 %, as factors of the root mean square.
    """
    name = str(selection.details.get("objective_name") or "objective")
    shots = np.arange(1, len(selection) + 1)
    random = _random_objective(selection, random_range)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        trace = np.array(selection.objective)
        if "low" in random:
            axes.fill_between(shots, random["low"], random["high"], color=LIGHT["band"], lw=0)
        if random:
            axes.plot(shots, random["mean"], color=LIGHT["muted"], ls="--")
        axes.plot(shots, trace, color=SERIES[0], marker="o" if len(shots) == 1 else None)
        if trace.min() > 0:
            axes.set_yscale("log")
        axes.set_ylabel(name)
        plain_axes(axes)
        axis_of_shots(axes, _powers(len(shots)))
        ends = [(float(trace[-1]), "selection", SERIES[0])]
        if random and (random["mean"][-1] > 0 or trace.min() <= 0):
            ends.append((float(random["mean"][-1]), "random sets", LIGHT["muted"]))
        name_ends(axes, ends)

    series = {"selection": np.array(selection.objective)}
    series |= {f"random sets, {key}": values for key, values in random.items()}
    rows = tuple(
        (f"{k:,}", *(f"{values[k - 1]:.4g}" for values in series.values())) for k in _powers(len(shots))
    )
    description = f"Line: {name} of the first so many demonstrations (lower is better)."
    if random:
        description += " Dashed: root mean square over random sets, in closed form."
    if "low" in random:
        description += " Band: where about 95 % of random sets lie."
    table = Table(f"{name[:1].upper()}{name[1:]} against shots", ("shots", *series), rows)
    return Plot("objective", "Objective against shots", description, table, draw)


def _random_objective(selection: "Selection", factors: tuple[float, float] | None) -> dict[str, np.ndarray]:
    """Return J of random sets of 1, 2, ... rows: mean, and low and high where factors are given."""
    spread, rows = (selection.details.get(key) for key in ("random_spread", "random_rows"))
    if not isinstance(spread, float | int) or not isinstance(rows, int):
        return {}
    mean = np.array(objective_curve(spread, rows, range(1, len(selection) + 1)))
    low_high = {} if factors is None else {"low": mean * factors[0], "high": mean * factors[1]}
    return {"mean": mean, **low_high}


def _powers(last: int) -> list[int]:
    """Return 1, 2, 4, ... and the last."""
    return sorted({*(2**power for power in range(last.bit_length())), last})


def map_plot(selection: "Selection", found: "FeatureMap") -> Plot:
    """Plot the pool in the plane: points in the colour of their label, chosen ones as larger diamonds."""
    labels = np.array([selection.pool.labels[row] for row in found.rows], dtype=object)
    chosen = np.arange(len(found.rows)) < len(selection)
    by_count = [label for label, _ in sorted(Counter(labels).items(), key=lambda pair: (-pair[1], pair[0]))]
    shown = by_count[: len(SERIES)]
    groups = [(short(label), labels == label, colour) for label, colour in zip(shown, SERIES, strict=False)]
    if len(by_count) > len(shown):
        name = f"{len(by_count) - len(shown):,} other labels"
        groups.append((name, ~np.isin(labels, shown), LIGHT["other"]))

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.grid(visible=False)
        size = 4.0 if len(labels) <= 500 else 2.8
        handles = []
        for _, members, colour in reversed(groups):
            points = found.points[members & ~chosen]
            handles += axes.plot(*points.T, "o", ms=size, mew=0, color=colour, alpha=0.75)
        handles.reverse()
        diamond: dict[str, Any] = {
            "ms": 6.5 if len(selection) <= 128 else 4.5,
            "mec": LIGHT["ink"],
            "mew": 0.8,
        }
        for _, members, colour in reversed(groups):
            axes.plot(*found.points[members & chosen].T, "D", color=colour, **diamond)
        (mark,) = axes.plot([], [], "D", color="none", **diamond)
        for axis, number, share in zip("xy", ("first", "second"), found.explained, strict=True):
            getattr(axes, f"set_{axis}label")(f"{number} component, {share:.0%} of the variance")
        axes.set_aspect("equal", adjustable="datalim")
        axes.tick_params(length=0, labelbottom=False, labelleft=False)
        names = [name for name, _, _ in groups]
        figure.legend(
            [mark, *handles],
            ["chosen", *names],
            loc="outside lower left",
            ncols=2,
            columnspacing=1,
            fontsize=8,
            handletextpad=0.2,
            markerscale=1.5,
        )

    description = (
        f"Principal components of the {found.source}: near points are alike. Diamonds: the "
        f"{len(selection):,} demonstrations. Dots: {_others(selection, found)}."
    )
    rows = tuple(_place(label, found.points, labels == label, chosen) for label in by_count)
    columns = ("label", "points", "mean x", "mean y", "chosen", "mean x of chosen", "mean y of chosen")
    table = Table("Where the labels lie on the map", columns, rows)
    return Plot("map", "Map of the pool", description, table, draw, (4.4, 4.2 + 0.1 * len(groups)))


def _others(selection: "Selection", found: "FeatureMap") -> str:
    drawn, others = len(found.rows) - len(selection), found.available - len(selection)
    if drawn == others:
        return f"all {others:,} others"
    return f"{drawn:,} of the {others:,} others, drawn at random"


def _place(label: str, points: np.ndarray, members: np.ndarray, chosen: np.ndarray) -> tuple[str, ...]:
    cells: Sequence[str] = (label,)
    for group in (members, members & chosen):
        mean = points[group].mean(axis=0) if group.any() else ()
        cells = (*cells, f"{group.sum():,}", *(f"{value:.3g}" for value in mean), *("", "")[len(mean) :])
    return tuple(cells)
