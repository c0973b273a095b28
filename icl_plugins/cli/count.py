"""`icl-plugins count`: the tokens of a prompt or of a pool, and the labels of a pool."""

import json
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from icl_plugins.cli import options
from icl_plugins.cli.inputs import SAMPLE_PREFIX, read_source
from icl_plugins.cli.outcome import Result, as_json_text
from icl_plugins.cli.target import for_model
from icl_plugins.errors import SettingError
from icl_plugins.readers import CSV_DELIMITERS, JSONL_SUFFIXES

EPILOG = r"""[bold]Examples[/bold]

icl-plugins count prompt.json --tokenizer ./models/target

icl-plugins count prompt.json --model gpt-4o-mini --queries 10000

icl-plugins count prompt.json --model deepseek/deepseek-chat --tokenizer ./deepseek-tokenizer

icl-plugins count train.csv --question '{text} =>' --answer ' {label}'
"""

Counted = Annotated[
    str,
    Argument(metavar="FILE", help="A prompt.json, or a POOL as select takes it: a file or sample:banking77."),
]
Tokenizer = Annotated[
    str | None,
    Option(
        metavar="NAME",
        help="The target's tokenizer: a folder or Hugging Face id. Default: that of --model, else micro's.",
    ),
]
Model = Annotated[
    str | None,
    Option(
        metavar="NAME",
        help="Count and price a prompt for this model: gpt-4o-mini, deepseek/deepseek-chat, a folder.",
    ),
]
Queries = Annotated[int | None, Option(help="With --model: price so many queries. Default: 1.")]


def count(
    file: Counted,
    question: options.Question = None,
    answer: options.Answer = None,
    separator: options.Separator = r"\n\n",
    label_field: options.LabelField = None,
    tokenizer: Tokenizer = None,
    model: Model = None,
    queries: Queries = None,
    layout: options.ChatLayout = None,
    as_json: options.Json = False,
) -> Result:
    """Count the tokens of a prompt, or of the demonstrations and labels that a file would give.

    With --model: the chat prompt as that model reads it, its cacheable share and its cost.
    """
    is_prompt = _holds_prompt(file)
    if model and is_prompt:
        return for_model(
            file, model, tokenizer, 1 if queries is None else queries, layout or "turns", as_json
        )
    if model or queries is not None or layout:
        raise SettingError(
            f"--model {model} for a pool" if model else "--queries or --layout without --model",
            expected="--model with a prompt.json; the others with --model",
            fix="make a prompt with icl-plugins select first, and name the model",
        )
    if is_prompt:
        counts = _of_prompt(file, tokenizer or "micro")
    else:
        counts = _of_pool(file, question, answer, separator, label_field, tokenizer or "micro")
    return as_json_text(counts) if as_json else _view(counts)


def _holds_prompt(file: str) -> bool:
    """Decide by content; a file that cannot be read is what its name says."""
    if file.startswith(SAMPLE_PREFIX):
        return False
    try:
        content = json.loads(Path(file).read_bytes())
    except (OSError, ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and str(content.get("kind")).startswith("icl_plugins."):
        return True
    named_pool = Path(file).suffix.lower() in (*JSONL_SUFFIXES, *CSV_DELIMITERS)
    return not named_pool and not isinstance(content, list)


def _of_prompt(file: str, tokenizer: str) -> dict[str, Any]:
    from icl_plugins.cli.report import count_with
    from icl_plugins.prompt import ManyShotPrompt

    prompt = ManyShotPrompt.load(file)
    (tokens,) = count_with(tokenizer, [prompt.prefix])
    return {
        "shots": len(prompt.demonstrations),
        "tokens": tokens,
        "characters": len(prompt.prefix),
        "tokenizer": tokenizer,
    }


def _of_pool(
    file: str,
    question: str | None,
    answer: str | None,
    separator: str,
    label_field: str | None,
    tokenizer: str,
) -> dict[str, Any]:
    from statistics import median_low

    from icl_plugins.cli.report import count_with

    pool = read_source(file, question, answer, separator=separator, label_field=label_field).pool
    tokens = count_with(tokenizer, [text + pool.template.separator for text in pool.texts])
    return {
        "examples": len(pool),
        "tokens": sum(tokens),
        "tokens_per_example": {"least": min(tokens), "median": median_low(tokens), "most": max(tokens)},
        "tokenizer": tokenizer,
        "labels": dict(sorted(pool.label_counts.items(), key=lambda label: -label[1])),
    }


def _view(counts: dict[str, Any]) -> Any:
    from icl_plugins.cli.report import summary

    lines = [(name, str(value)) for name, value in counts.items() if not isinstance(value, dict)]
    for name in ("tokens_per_example", "labels"):
        if name in counts:
            lines.append((name, ", ".join(f"{key} {value}" for key, value in counts[name].items())))
    return summary(*((name.replace("_", " "), value) for name, value in lines))
