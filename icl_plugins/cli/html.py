"""`icl-plugins report`, and the page that `select` writes on request."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from icl_plugins.cli.inputs import check_writable
from icl_plugins.cli.options import Json, PlotsFolder
from icl_plugins.cli.outcome import Result, as_json_text
from icl_plugins.cli.target import cost_text
from icl_plugins.errors import SettingError

if TYPE_CHECKING:
    from icl_plugins.report import Report
    from icl_plugins.selection import Selection, Selector

EPILOG = """[bold]Examples[/bold]

icl-plugins report runs/first/comparison.json --out comparison.html

icl-plugins report prompt.json --out prompt.html

icl-plugins report state --out state.html

icl-plugins select sample:banking77 --shots 64 --out prompt.json --report report.html --plots plots

A prompt.json does not hold the pool: only select can show the choice beside it.
"""

Saved = Annotated[
    Path,
    Argument(
        metavar="FILE",
        help="A comparison.json of compare, a prompt.json of select, or the folder of a state of think.",
    ),
]
Out = Annotated[
    Path,
    Option("--out", "-o", metavar="FILE", rich_help_panel="Output", help="The HTML page; replaced if there."),
]


def report(file: Saved, out: Out, plots: PlotsFolder = None, as_json: Json = False) -> Result:
    """Make a saved comparison, prompt or state into one HTML page to look at."""
    from icl_plugins.cli.report import summary
    from icl_plugins.report.plot import require_matplotlib

    require_matplotlib()
    check_writable("--out", out, file)
    made = _read(file)
    if plots is not None and not made.plots:
        raise SettingError(
            f"--plots {str(plots)!r} for {str(file)!r}, which has none",
            expected="a comparison or a state of several steps; a prompt does not hold the pool to be shown",
            fix="leave out --plots, or give it to select",
        )
    _write(made, out, plots)
    if as_json:
        return as_json_text({"out": str(out), "plots": None if plots is None else str(plots)})
    return summary(("written", str(out)), ("plots", "" if plots is None else str(plots)))


def _read(file: Path) -> "Report":
    """Read by content; what is no JSON of a known kind is refused as a prompt."""
    from icl_plugins.evaluation.results import Comparison
    from icl_plugins.prompt import ManyShotPrompt
    from icl_plugins.report import comparison_report, prompt_report, state_report

    if file.is_dir():
        return state_report(file)
    try:
        kind = json.loads(file.read_bytes()).get("kind")
    except (OSError, ValueError, AttributeError, RecursionError):
        kind = None
    if kind == "icl_plugins.Comparison":
        return comparison_report(Comparison.load(file))
    return prompt_report(ManyShotPrompt.load(file))


def _write(made: "Report", out: Path | None, plots: Path | None) -> None:
    if out is not None:
        made.save(out)
    if plots is not None:
        made.save_plots(plots)


@dataclass(frozen=True)
class Asked:
    """What `select` is asked for besides the prompt: a page, a folder of plots, or neither."""

    page: Path | None
    plots: Path | None

    @property
    def anything(self) -> bool:
        """Whether there is anything to write."""
        return self.page is not None or self.plots is not None

    def check(self, *others: Path) -> None:
        """Refuse before the work what could not be made after it; others: what the page must not replace."""
        if not self.anything:
            return
        from icl_plugins.report.page import make_folder
        from icl_plugins.report.plot import require_matplotlib

        require_matplotlib()
        if self.page is not None:
            check_writable("--report", self.page, *others)
        if self.plots is not None:
            make_folder(self.plots)

    @contextmanager
    def keeping_features(self, selector: "Selector") -> "Iterator[Selector]":
        """Lend gradient matching without a store a temporary one: its features are read again for the map."""
        inner: Any = getattr(selector, "selector", selector)
        if not self.anything or not hasattr(inner, "features") or inner.store is not None:
            yield selector
            return
        with TemporaryDirectory(prefix="icl-plugins-", ignore_cleanup_errors=True) as folder:
            lent = replace(inner, store=folder)
            whole: Any = selector
            yield lent if inner is selector else replace(whole, selector=lent)

    def write(
        self, selection: "Selection", selector: "Selector", told: Mapping[str, Any], rows: Sequence[int]
    ) -> None:
        """Write what is asked for.

        selector: as lent. told: what `select` tells of the selection. rows: of the file, one for each of
        the pool.
        """
        if not self.anything:
            return
        from icl_plugins.cli.progress import shown_progress
        from icl_plugins.report import selection_report

        inner: Any = getattr(selector, "selector", selector)
        cost = {"Tokens of the prompt": f"{told['prompt_tokens']:,}, counted with {told['tokenizer']}"}
        if dollars := cost_text(told):
            cost[f"Cost with {told['target']}"] = dollars
        with shown_progress(downloads=False):
            made = selection_report(
                selection,
                features=inner.features(selection.pool) if hasattr(inner, "features") else None,
                tokens=[shot["tokens"] for shot in told["demonstrations"]],
                rows=rows,
                cost={**cost, "Time in all": f"{told['seconds']:,.1f} s"},
            )
            _write(made, self.page, self.plots)
