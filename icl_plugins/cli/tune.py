"""`icl-plugins tune`: fine-tune a model on many-shot sequences of tasks, so that it uses many shots."""

import os
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Annotated

from typer import Argument, Option

from icl_plugins.cli.inputs import check_writable_folder, parse_pairs
from icl_plugins.cli.options import Json
from icl_plugins.cli.outcome import Result

EPILOG = r"""[bold]Examples[/bold]

icl-plugins tune examples/tune_banking77.yaml --out runs/first

icl-plugins tune config.yaml --out runs/mine --set data=folder --json

icl-plugins show runs/first

accelerate launch --num-processes 4 -m icl_plugins tune config.yaml --out runs/mine

[bold]A config[/bold], YAML or JSON; docs/tuning.md has all keys

model: micro

tasks: \[{name: mine, train: train.jsonl, classes: true,

template: {question: "Query: {text}\nIntent:", answer: " {label}"}}]

validation: \[{name: other, train: other.jsonl,

template: {question: "Text: {text}\nTopic:", answer: " {label}"}}]

stages: \[{steps: 300, rows: 4, context: 2048}]

Accuracy against shots is measured on the tasks under validation, before, on the way and after. Rows that are
measured on are never trained on. The same command goes on after an interruption, from the last checkpoint.
"""

ConfigFile = Annotated[Path, Argument(metavar="CONFIG", help="A YAML or JSON file.")]
Out = Annotated[
    Path,
    Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="For model/, adapter/ and checkpoints/; made if it is not there.",
    ),
]
Variables = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="NAME=VALUE",
        help="Stands for ${NAME} in the paths and names of the config; repeatable.",
    ),
]


def tune(config: ConfigFile, out: Out, variables: Variables = None, as_json: Json = False) -> Result:
    """Teach a model to use many shots: fine-tune it on many-shot sequences of tasks (ManyICL)."""
    from icl_plugins.cli.progress import shown_progress
    from icl_plugins.cli.tuned import tuned_result
    from icl_plugins.tuning.config import read_config
    from icl_plugins.tuning.loading import load
    from icl_plugins.tuning.tuned import MODEL

    settings, data = read_config(config, parse_pairs("--set", variables or ()))
    check_writable_folder("--out", out)
    started = perf_counter()
    first = os.environ.get("RANK", "0") == "0"  # of the processes of accelerate launch and torchrun
    with shown_progress(downloads=True, stages=("tuning",)) if first else nullcontext():
        loaded = load(data, settings.seed)
        settings.fit(loaded.tasks, out, text=loaded.text, validation=loaded.validation)
    seconds = round(perf_counter() - started, 1)
    return tuned_result(out / MODEL, as_json, loaded.notes, seconds=seconds) if first else None
