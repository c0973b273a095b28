"""`icl-plugins show`: what a prompt, state or tuned model holds, or the prompt for one query."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from icl_plugins.cli.inputs import parse_pairs
from icl_plugins.cli.options import Json
from icl_plugins.cli.outcome import Result, as_json_text

if TYPE_CHECKING:
    from icl_plugins.prompt import Layout, ManyShotPrompt

EPILOG = """[bold]Examples[/bold]

icl-plugins show prompt.json

icl-plugins show prompt.json --query text="my card has not arrived"

icl-plugins show prompt.json --query text="my card has not arrived" --as turns

icl-plugins show state

icl-plugins show runs/first
"""

PromptFile = Annotated[
    Path, Argument(metavar="PROMPT", help="A prompt.json of select, or the folder of a state or of tune.")
]
Query = Annotated[
    list[str] | None,
    Option(
        "--query",
        metavar="FIELD=VALUE",
        help="A field of a query, repeatable: prints the whole prompt for this query, ready to send.",
    ),
]
Form = Annotated[
    Literal["text", "turns", "single", "json"],
    Option(
        "--as",
        help="With --query: one text, or chat messages in turns, in a single one, or with a JSON block.",
    ),
]
Tokenizer = Annotated[
    str,
    Option(
        metavar="NAME", help="The target's tokenizer, as folder or Hugging Face id, or the shipped proxy's."
    ),
]


def show(
    prompt: PromptFile,
    query: Query = None,
    layout: Form = "text",
    tokenizer: Tokenizer = "micro",
    as_json: Json = False,
) -> Result:
    """Show the demonstrations of a saved prompt or state, or with --query the whole prompt for one query.

    Of a tuned model it shows how it was made, and its accuracy against shots.
    """
    from icl_plugins.cli.states import state_content, state_lines
    from icl_plugins.cli.tuned import stopped_result, tuned_folder, tuned_result
    from icl_plugins.prompt import ManyShotPrompt

    tuned = tuned_folder(prompt)
    if tuned is not None:
        return tuned_result(tuned, as_json)
    stopped = stopped_result(prompt, as_json)
    if stopped is not None:
        return stopped
    state = state_content(prompt) if prompt.is_dir() else None
    prompt = prompt if state is None else prompt / "prompt.json"
    loaded = ManyShotPrompt.load(prompt)
    if query:
        return _for_query(loaded, parse_pairs("--query", query), layout, as_json)

    from icl_plugins.cli.report import demonstrations_table, summary

    content = {**prompt_content(loaded, tokenizer), **({} if state is None else {"state": state})}
    if as_json:
        return as_json_text(content)
    from rich.console import Group

    return Group(
        demonstrations_table(content["demonstrations"]),
        summary(
            ("instruction", loaded.instruction),
            ("template", repr(loaded.template.question + loaded.template.answer)),
            (
                "tokens",
                f"{content['tokens']:,} counted with {tokenizer}, instruction and separators included",
            ),
            ("method", content["method"] or ""),
            ("fingerprint", loaded.fingerprint),
            *(() if state is None else state_lines(state)),
        ),
    )


def prompt_content(prompt: "ManyShotPrompt", tokenizer: str) -> dict[str, Any]:
    """Return what a prompt holds, with token counts; rows and scores are None where it does not say."""
    from icl_plugins.cli.report import text_counts
    from icl_plugins.provenance import origin_of

    counted = text_counts(prompt, tokenizer)
    told = origin_of(prompt)
    demonstrations = [
        {
            "position": position,
            "row": row,
            "label": answer.strip(),
            "score": score,
            "tokens": count,
            "question": question,
            "answer": answer,
        }
        for position, ((question, answer), row, score, count) in enumerate(
            zip(prompt.demonstrations, told.rows, told.scores, counted["shot_tokens"], strict=True),
            1,
        )
    ]
    return {
        "shots": len(prompt.demonstrations),
        "instruction": prompt.instruction,
        "template": {name: getattr(prompt.template, name) for name in ("question", "answer", "separator")},
        "tokens": counted["prompt_tokens"],
        "tokenizer": tokenizer,
        "method": told.config.get("selector"),
        "fingerprint": prompt.fingerprint,
        "provenance": prompt.provenance,
        "demonstrations": demonstrations,
    }


def _for_query(
    prompt: "ManyShotPrompt", fields: dict[str, str], layout: 'Literal["text"] | Layout', as_json: bool
) -> str:
    if layout == "text":
        text = prompt.text(fields)
        return as_json_text({"text": text}) if as_json else text
    return as_json_text(prompt.messages(fields, layout=layout))
