"""What the plots share: names at the ends of lines, axes of shots."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from icl_plugins.report.colours import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FEW_POWERS = 100  # an axis that spans less
_LINE_HEIGHT = 0.07  # of a name, as a share of the axes' height


def name_ends(axes: "Axes", ends: Sequence[tuple[float, str, str]]) -> None:
    """Write names to the right of the axes at (value, name, colour), apart from each other.

    After the limits of the axes are set. A name is in ink, behind a mark of its colour.
    """
    if not ends:
        return
    to_fraction = axes.transData + axes.transAxes.inverted()
    ends = sorted(ends, key=lambda end: end[0])
    wanted = [float(to_fraction.transform((1, value))[1]) for value, _, _ in ends]
    for place, (_, name, colour) in zip(spread(wanted, _LINE_HEIGHT), ends, strict=True):
        for offset, text, tint in ((4, "\N{BLACK SQUARE}", colour), (15, name, LIGHT["ink"])):
            axes.annotate(
                text,
                (1, place),
                (offset, 0),
                xycoords="axes fraction",
                textcoords="offset points",
                color=tint,
                fontsize=9,
                va="center",
            )


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return places for ascending wanted ones, at least a gap apart; at most 1 but for want of room."""
    places = list(wanted)
    for at in range(1, len(places)):
        places[at] = max(places[at], places[at - 1] + gap)
    limit = 1.0
    for at in reversed(range(len(places))):
        places[at] = min(places[at], limit)
        limit = places[at] - gap
    return places


def axis_of_shots(axes: "Axes", shots: Sequence[int]) -> None:
    """Make the x axis logarithmic, with the numbers of shots as ticks, at most eight."""
    distinct = sorted(set(shots))
    if distinct[0] < distinct[-1]:
        axes.set_xscale("log", base=2)
        step = -(-len(distinct) // 8)
        ticks = distinct[::-step][::-1]
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], minor=False)
        axes.set_xticks([], minor=True)
    else:
        axes.set_xticks(distinct)
    axes.set_xlabel("shots")


def plain_axes(axes: "Axes") -> None:
    """Leave the grid lines of the y axis only, and write the ticks of logarithmic axes as numbers.

    After the data are drawn: an axis of few powers of ten has ticks at 1, 2 and 5 times each.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.grid(visible=False, axis="x")
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < _FEW_POWERS * low else (1,)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
