"""`icl-plugins select`: labelled examples in, a fixed many-shot prompt out."""

from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from icl_plugins.cli import options
from icl_plugins.cli.budget import instruction_tokens, remaining_tokens
from icl_plugins.cli.html import Asked
from icl_plugins.cli.inputs import (
    Source,
    check_writable,
    parse_pairs,
    parse_quotas,
    parse_rows,
    read_source,
    unescape,
)
from icl_plugins.cli.methods import SETTINGS, make_ordered
from icl_plugins.cli.outcome import Result, as_json_text, write_result
from icl_plugins.cli.target import chat_counts, chat_tokens
from icl_plugins.errors import IclError, StoreError

if TYPE_CHECKING:
    from openai_icl import ChatTokens

    from icl_plugins.prompt import ManyShotPrompt
    from icl_plugins.selection import Selection

EPILOG = r"""[bold]Examples[/bold]

icl-plugins select sample:banking77 --shots 64 --out prompt.json

icl-plugins select train.jsonl --question 'Query: {text}\nIntent:' --answer ' {label}' --shots 64 -o p.json

icl-plugins select quiz.csv -q '{question}\n{choices}\nA:' -a ' {answer:letter}' --max-tokens 4000 -o p.json

icl-plugins select sample:banking77 --max-tokens 8000 --target gpt-4o-mini -o p.json

icl-plugins select train.csv -q '{text} =>' -a ' {label}' -n 32 --quotas 1 --store folder -o p.json

icl-plugins select train.csv -q '{text} =>' -a ' {label}' -n 32 --method random --seed 1 --json -o p.json

icl-plugins select sample:banking77 --shots 64 --order interleaved --out prompt.json

[bold]Methods[/bold], and their settings for --set with the names that Python has

""" + "\n\n".join(f"[bold]{name}[/bold] {settings}" for name, settings in SETTINGS.items())


def select(
    pool: options.PoolName,
    out: options.Out,
    question: options.Question = None,
    answer: options.Answer = None,
    separator: options.Separator = r"\n\n",
    instruction: options.Instruction = "",
    label_field: options.LabelField = None,
    dedupe: options.Dedupe = "none",
    drop_conflicting: options.DropConflicting = False,
    shots: options.Shots = None,
    max_tokens: options.MaxTokens = None,
    target: options.Target = None,
    layout: options.ChatLayout = None,
    tokenizer: options.Tokenizer = None,
    quotas: options.Quotas = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    method: options.MethodName = "gradient_matching",
    order: options.OrderName = "greedy",
    proxy: options.Proxy = None,
    seed: options.Seed = None,
    store: options.Store = None,
    on_too_long: options.OnTooLong = None,
    settings: options.Settings = None,
    report: options.ReportFile = None,
    plots: options.PlotsFolder = None,
    as_json: options.Json = False,
) -> Result:
    """Choose demonstrations from labelled examples and write them as a prompt."""
    asked = Asked(report, plots)
    check_writable("--out", out, Path(pool))
    asked.check(Path(pool), out)
    instruction = unescape(instruction)
    chat = chat_tokens(target, tokenizer, instruction, layout, max_tokens)
    fields = {
        "proxy": proxy,
        "seed": seed,
        "store": store,
        "on_too_long": on_too_long,
        "tokenizer": chat or tokenizer,
    }
    selector, ordered = make_ordered(order, method, fields, parse_pairs("--set", settings or ()))
    _check_store(getattr(selector, "store", None))
    limits = parse_quotas(quotas)
    rows = {"include": parse_rows("--include", include), "exclude": parse_rows("--exclude", exclude)}
    source = read_source(
        pool,
        question,
        answer,
        separator=separator,
        label_field=label_field,
        dedupe=dedupe,
        drop_conflicting=drop_conflicting,
    )
    rows = {name: source.pool_rows(f"--{name}", given) for name, given in rows.items()}

    counted_with = str(getattr(selector, "tokenizer", None) or getattr(selector, "proxy", "micro"))
    # a target counts the whole prompt by itself
    used = 0 if chat else instruction_tokens(instruction, source.pool, counted_with)
    budget = remaining_tokens(max_tokens, used)

    from icl_plugins.cli.progress import shown_progress

    started = perf_counter()
    with asked.keeping_features(ordered) as chooser:
        with shown_progress(downloads=proxy not in (None, "micro") and not Path(str(proxy)).exists()):
            selection = chooser.select(source.pool, shots, max_tokens=budget, quotas=limits, **rows)
        facts: dict[str, Any] = {
            "method": method,
            "seconds": perf_counter() - started,
            "instruction_tokens": used,
        }
        prompt = _prompt(selection, source, instruction)
        told = _told(selection, source, prompt, chat or counted_with, out=None, **facts)
        try:
            prompt.save(out)
            told["out"] = str(out)
            asked.write(selection, chooser, told, source.rows)
        except (IclError, KeyboardInterrupt):  # hours of work may stand behind the selection: show it
            write_result(_result(told, as_json))
            raise
    return _result(told, as_json)


def _prompt(selection: "Selection", source: Source, instruction: str) -> "ManyShotPrompt":
    """Return the prompt; where rows of the file were removed, it also keeps their numbers there."""
    prompt = selection.to_prompt(instruction)
    if len(source.rows) == source.file_size:
        return prompt
    rows = [source.rows[index] for index in selection.indices]
    return replace(prompt, provenance={**prompt.provenance, "rows": rows})


def _told(
    selection: "Selection",
    source: Source,
    prompt: "ManyShotPrompt",
    counter: "str | ChatTokens",
    **facts: Any,
) -> dict[str, Any]:
    """Return the report of the selection, tokens counted."""
    from icl_plugins.cli.report import selection_report, text_counts

    if isinstance(counter, str):
        facts.update(text_counts(prompt, counter))
    else:
        facts.update(chat_counts(selection, prompt, counter))
    return selection_report(selection, source, **facts)


def _result(told: dict[str, Any], as_json: bool) -> Result:
    from icl_plugins.cli.report import selection_view

    return as_json_text(told) if as_json else selection_view(told)


def _check_store(store: object) -> None:
    """Refuse before the work a store that cannot be made."""
    if store is not None and Path(str(store)).exists() and not Path(str(store)).is_dir():
        raise StoreError(
            f"--store {str(store)!r} is a file",
            expected="a folder, which is made if it is not there",
            fix="choose another path",
        )
