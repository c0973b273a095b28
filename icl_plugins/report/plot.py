"""A plot: drawn once with matplotlib, shown in the page as SVG and written as SVG and PNG files."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_plugins.artefacts import atomic_write
from icl_plugins.errors import OptionalDependencyError
from icl_plugins.report.colours import LIGHT
from icl_plugins.report.markup import Markup, Table, element, readable, scrolling_table
from icl_plugins.report.svg import inline_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": LIGHT["muted"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": LIGHT["ink"],
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": LIGHT["paper"],
    "font.size": 10,
    "grid.color": LIGHT["line"],
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "icl-plugins",
    "text.color": LIGHT["ink"],
    "text.parse_math": False,  # a label may hold dollars
    "xtick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.color": LIGHT["muted"],
    "ytick.labelcolor": LIGHT["ink"],
}
_LONGEST_LABEL = 24


@dataclass(frozen=True)
class Plot:
    """A plot with all that stands for it where it cannot be seen.

    name: of its files. title, description: what it shows and how to read it. draw: puts it on a figure of
    size (width, height) inches. table: its data as text.
    """

    name: str
    title: str
    description: str
    table: Table
    draw: "Callable[[Figure], None]"
    size: tuple[float, float] = (4.4, 3.3)

    def markup(self) -> Markup:
        """Return the figure with its description and, folded, its data."""
        svg = inline_svg(self.file("svg"), self.name, self.title, self.description)
        data = element("details", element("summary", f"Data: {self.title}"), scrolling_table(self.table))
        heading = f"{self.name}-heading"
        caption = element("figcaption", element("h3", self.title, id=heading), element("p", self.description))
        return element("figure", caption, svg, data, class_="plot", aria_labelledby=heading)

    def save(self, folder: Path) -> None:
        """Write NAME.svg and NAME.png in light colours; raises ArtefactError."""
        for kind in ("svg", "png"):
            atomic_write(folder / f"{self.name}.{kind}", self.file(kind))

    def file(self, kind: str) -> bytes:
        """Return the plot as "svg" or "png" (200 dpi); equal plots give equal bytes."""
        with _styled(), warnings.catch_warnings():
            # A letter that matplotlib's font lacks is drawn as a box, and by the reader's own font in SVG.
            warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
            from matplotlib.figure import Figure

            figure = Figure(figsize=self.size, layout="constrained")
            self.draw(figure)
            buffer = io.BytesIO()
            metadata = {"Date": None, "Title": readable(self.title)} if kind == "svg" else None
            figure.savefig(buffer, format=kind, dpi=200, metadata=metadata)
        return buffer.getvalue()


def require_matplotlib() -> None:
    """Raise OptionalDependencyError with the pip line unless matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OptionalDependencyError(
            "a report without matplotlib installed",
            expected="the package matplotlib, which draws its plots",
            fix='pip install "icl-plugins[report]"',
        ) from error


def short(label: str) -> str:
    """Return a label on one line and of few letters, both ends kept, for the axis of a plot."""
    text = " ".join(readable(label).split())
    half = _LONGEST_LABEL // 2
    return text if len(text) <= _LONGEST_LABEL else f"{text[:half]}\N{HORIZONTAL ELLIPSIS}{text[-half + 1 :]}"


@contextmanager
def _styled() -> Iterator[None]:
    from matplotlib import rc_context, rcParamsDefault

    backend = {"backend", "backend_fallback"}  # the caller's business
    defaults: dict[Any, Any] = {key: value for key, value in rcParamsDefault.items() if key not in backend}
    with rc_context({**defaults, **_STYLE}):
        yield
