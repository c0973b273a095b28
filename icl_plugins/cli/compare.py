"""`icl-plugins compare`: which selector makes the best prompts, measured on a target."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Group
from rich.table import Table
from typer import Argument, Option

from icl_plugins.cli.inputs import parse_pairs
from icl_plugins.cli.options import Json
from icl_plugins.cli.outcome import Result, as_json_text

if TYPE_CHECKING:
    from icl_plugins.evaluation.results import Comparison

EPILOG = r"""[bold]Examples[/bold]

icl-plugins compare config.yaml --out runs/first

icl-plugins compare benchmarks/configs/verdict_development.yaml --set data=folder --out runs/verdict --json

[bold]A config[/bold], YAML or JSON; docs/comparing.md has all keys

datasets: \[{name: mine, train: train.jsonl, test: test.jsonl,

template: {question: "Query: {text}\nIntent:", answer: " {label}"}}]

shots: \[4, 16, 64, max]

methods: {gradient_matching: {selector: GradientMatching}}

Random, stratified random, k-means and best-of-n at equal cost are always compared too. All that was computed
is kept in the folder: the same command goes on after an interruption, and costs nothing when all is there.
"""

# the columns that fit a terminal; comparison.md has all
_SHOWN = ("shots", "method", "mean", "gain over random", "p")

ConfigFile = Annotated[Path, Argument(metavar="CONFIG", help="A YAML or JSON file.")]
Out = Annotated[
    Path,
    Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="For comparison.json, comparison.md and all that was computed; made if it is not there.",
    ),
]
Variables = Annotated[
    list[str] | None,
    Option("--set", metavar="NAME=VALUE", help="Stands for ${NAME} in the paths of the config; repeatable."),
]


def compare(config: ConfigFile, out: Out, variables: Variables = None, as_json: Json = False) -> Result:
    """Compare selectors on a target: methods x shots x seeds x data sets, with intervals."""
    from icl_plugins.artefacts import atomic_write
    from icl_plugins.cli.compared import make_room, make_target, shared_proxy
    from icl_plugins.cli.progress import shown_progress
    from icl_plugins.evaluation.compare import compare as run
    from icl_plugins.evaluation.config_file import read_config
    from icl_plugins.evaluation.datasets import load_data
    from icl_plugins.evaluation.markdown import markdown

    checked, source = read_config(config, parse_pairs("--set", variables or ()))
    datasets = [load_data(checked, data) for data in checked.datasets]
    target = make_target(checked.target)
    parts = [(data, make_room(checked.target, target, data)) for data in datasets]
    with shown_progress(downloads=True, stages=[data.config.name for data in datasets]):
        comparison = run(
            checked, parts, target, out, source=source, loaded=shared_proxy(checked.target, target)
        )
    comparison.save(out / "comparison.json")
    atomic_write(out / "comparison.md", markdown(comparison))
    return _result(comparison, out, as_json)


def _result(comparison: "Comparison", out: Path, as_json: bool) -> Result:
    from icl_plugins.cli.report import summary
    from icl_plugins.evaluation.table import HEADERS, averages, marked

    found = averages(comparison)
    files = [str(out / name) for name in ("comparison.json", "comparison.md")]
    if as_json:
        rows = [asdict(row) for row in found]
        return as_json_text({"averages": rows, "notes": comparison.notes, "files": files})
    datasets = {run.data for run in comparison.runs}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in _SHOWN:
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    for at, row in enumerate(found):
        if at and row.asked != found[at - 1].asked:
            table.add_row()
        columns = dict(zip(HEADERS, marked(row, len(datasets)), strict=True))
        table.add_row(*(columns[name] for name in _SHOWN))
    many = f"average of {len(datasets)} data sets" if len(datasets) > 1 else next(iter(datasets), "")
    return Group(
        table,
        summary(
            ("data", many),
            *(("note", note) for note in comparison.notes),
            ("written", ", ".join(files)),
        ),
    )
