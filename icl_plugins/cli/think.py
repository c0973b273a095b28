"""`icl-plugins think`: a prompt becomes a key-value state for a local model."""

from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Literal

from typer import Argument, Option

from icl_plugins.cli.options import Json
from icl_plugins.cli.outcome import Result, as_json_text
from icl_plugins.cli.states import check_state_folder, state_content, state_lines
from icl_plugins.cli.think_methods import ThinkMethod, make_thinking
from icl_plugins.errors import SettingError, TooLongError

EPILOG = """[bold]Examples[/bold]

icl-plugins think prompt.json --out state

icl-plugins think prompt.json --model ./models/target --out state --step-size 0.01 --step-size 0.1

icl-plugins think prompt.json --model ./models/target --out state --layout turns --steps 5

icl-plugins think prompt.json --model ./models/target --out state --method context_tuning

icl-plugins report state --out state.html

Deep thinking reads the prompt again at each step; context tuning trains its keys and values to answer each
demonstration by the others.

By default the number of steps is chosen on demonstrations that are held out of the prompt; one step, which is
plain in-context learning, is always among the candidates, and often the best. Where an option is repeated,
its values are chosen among in the same way, and cost as much again each.
"""

_MODEL, _OUTPUT, _STEPS = "Model", "Output", "Steps"
_THINKING, _TUNING = "Deep thinking", "Context tuning"

PromptFile = Annotated[Path, Argument(metavar="PROMPT", help="A prompt.json that select has written.")]
Out = Annotated[
    Path,
    Option(
        "--out",
        "-o",
        metavar="FOLDER",
        rich_help_panel=_OUTPUT,
        help="The state; made if it is not there, replaced if it is a state.",
    ),
]
Model = Annotated[
    str,
    Option(metavar="NAME", rich_help_panel=_MODEL, help="micro (shipped), a folder or a Hugging Face id."),
]
Layout = Annotated[
    Literal["single", "turns", "json"],
    Option(
        rich_help_panel=_MODEL,
        help="The prompt as plain text (single), or through the model's chat template in turns or as JSON.",
    ),
]
Device = Annotated[str, Option(rich_help_panel=_MODEL, help="auto, cpu, cuda, ...")]
Dtype = Annotated[str, Option(rich_help_panel=_MODEL, help="auto, float32, bfloat16, float16.")]
Method = Annotated[
    ThinkMethod, Option(rich_help_panel=_STEPS, help="What a step is: a reading, or one of training.")
]
Steps = Annotated[
    str | None,
    Option(metavar="N", rich_help_panel=_STEPS, help="How many, or auto (default)."),
]
MaxSteps = Annotated[
    int | None,
    Option(rich_help_panel=_STEPS, help="Most steps to choose among. Default: 15; context tuning: 31."),
]
Folds = Annotated[
    int | None, Option(rich_help_panel=_STEPS, help="Parts that are held out in turn. Default: 5.")
]
Seed = Annotated[int, Option(rich_help_panel=_STEPS, help="Of the folds, and of what dropout hides.")]
StepSize = Annotated[list[float] | None, Option(rich_help_panel=_THINKING, help="Default: 0.01. Repeatable.")]
Momentum = Annotated[float | None, Option(rich_help_panel=_THINKING, help="Default: 0.9.")]
Positions = Annotated[
    list[str] | None,
    Option(
        metavar="NAME",
        rich_help_panel=_THINKING,
        help="Where the prompt stands when it is read again: auto (default), relative, overlap or "
        "reference, as the published code has it. Repeatable.",
    ),
]
Paper = Annotated[
    bool,
    Option(
        "--paper",
        rich_help_panel=_THINKING,
        help="As published: 15 steps of 0.01, positions reference; but for the options that are given.",
    ),
]
LearningRate = Annotated[
    list[float] | None, Option(rich_help_panel=_TUNING, help="Of Adam. Default: 0.01. Repeatable.")
]
Dropout = Annotated[
    float | None,
    Option(rich_help_panel=_TUNING, help="Share of the prompt's tokens that each step hides. Default: 0."),
]


def think(
    prompt: PromptFile,
    out: Out,
    model: Model = "micro",
    layout: Layout = "single",
    device: Device = "auto",
    dtype: Dtype = "auto",
    method: Method = "deep_thinking",
    steps: Steps = None,
    max_steps: MaxSteps = None,
    folds: Folds = None,
    seed: Seed = 0,
    step_size: StepSize = None,
    momentum: Momentum = None,
    positions: Positions = None,
    paper: Paper = False,
    learning_rate: LearningRate = None,
    dropout: Dropout = None,
    as_json: Json = False,
) -> Result:
    """Turn a prompt into a key-value state for a local model, by deep thinking or by context tuning."""
    from icl_plugins.prompt import ManyShotPrompt

    options = {
        "steps": _steps(steps),
        "max_steps": max_steps,
        "folds": folds,
        "step_size": step_size and tuple(step_size),
        "momentum": momentum,
        "positions": positions and tuple(positions),
        "learning_rate": learning_rate and tuple(learning_rate),
        "dropout": dropout,
        "layout": layout,
        "seed": seed,
    }
    thinking = make_thinking(method, options, paper=paper)
    check_state_folder("--out", out)
    loaded = ManyShotPrompt.load(prompt)

    from icl_plugins.cli.progress import shown_progress
    from icl_plugins.proxy.model import Proxy

    started = perf_counter()
    downloads = model != "micro" and not Path(model).exists()
    with shown_progress(downloads=downloads, stages=("held-out demonstrations",)):
        proxy = Proxy.load(model, device, dtype)
        _check_length(prompt, proxy.count_tokens([loaded.prefix])[0], proxy.max_length)
        state = replace(thinking, model=proxy).fit(loaded)
    state.save(out)
    return _result(out, model, perf_counter() - started, as_json)


def _steps(text: str | None) -> int | str | None:
    if text is None or text == "auto":
        return text
    if not (text.isascii() and text.isdigit()):
        raise SettingError(f"--steps {text!r}", expected="auto, or a whole number", fix="correct --steps")
    return int(text)


def _check_length(prompt: Path, tokens: int, limit: int) -> None:
    if tokens >= limit:
        raise TooLongError(
            f"{str(prompt)!r} has {tokens:,} tokens",
            expected=f"fewer than {limit:,}, the context of --model",
            fix="select with --max-tokens or fewer --shots, or name a model with a longer context",
        )


def _result(out: Path, model: str, seconds: float, as_json: bool) -> Result:
    from icl_plugins.cli.report import summary

    content = state_content(out)
    if as_json:
        return as_json_text({"out": str(out), "seconds": round(seconds, 3), **content})
    return summary(
        *state_lines(content),
        ("time", f"{seconds:,.1f} s"),
        ("written", str(out)),
        ("look at it", f"icl-plugins report {out} --out state.html"),
        ("compare it", f"in the config of icl-plugins compare: methods: {{thought: {{state: {out}}}}}"),
        ("use it", f'KVState.load("{out}", "{model}").generate([query])'),
    )
