"""`icl-plugins select`: labelled examples in, a fixed many-shot prompt out."""

import os
from pathlib import Path
from time import perf_counter

from icl_plugins.cli import options
from icl_plugins.cli.inputs import parse_pairs, parse_quotas, parse_rows, read_source, unescape
from icl_plugins.cli.methods import SETTINGS, make_selector
from icl_plugins.cli.outcome import Result, as_json_text
from icl_plugins.errors import ArtefactError

EPILOG = r"""[bold]Examples[/bold]

icl-plugins select sample:banking77 --shots 64 --out prompt.json

icl-plugins select train.jsonl --question 'Query: {text}\nIntent:' --answer ' {label}' --shots 64 -o p.json

icl-plugins select quiz.csv -q '{question}\n{choices}\nAnswer:' -a ' {answer:letter}' --max-tokens 4000 -o p

icl-plugins select train.csv -q '{text} =>' -a ' {label}' -n 32 --quotas proportional --store folder -o p

icl-plugins select train.csv -q '{text} =>' -a ' {label}' -n 32 --method random --seed 1 --json -o p.json

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
    shots: options.Shots = None,
    max_tokens: options.MaxTokens = None,
    tokenizer: options.Tokenizer = None,
    quotas: options.Quotas = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    method: options.MethodName = "gradient_matching",
    proxy: options.Proxy = None,
    seed: options.Seed = None,
    store: options.Store = None,
    on_too_long: options.OnTooLong = None,
    settings: options.Settings = None,
    as_json: options.Json = False,
) -> Result:
    """Choose demonstrations from labelled examples and write them as a prompt."""
    _check_writable(out)
    fields = {
        "proxy": proxy,
        "seed": seed,
        "store": store,
        "on_too_long": on_too_long,
        "tokenizer": tokenizer,
    }
    selector = make_selector(method, fields, parse_pairs("--set", settings or ()))
    limits = parse_quotas(quotas)
    rows = {"include": parse_rows("--include", include), "exclude": parse_rows("--exclude", exclude)}
    source = read_source(pool, question, answer, separator=separator, label_field=label_field, dedupe=dedupe)
    rows = {name: source.pool_rows(f"--{name}", given) for name, given in rows.items()}

    from icl_plugins.cli.progress import shown_progress
    from icl_plugins.cli.report import selection_report, selection_view

    started = perf_counter()
    with shown_progress(downloads=proxy not in (None, "micro") and not Path(str(proxy)).exists()):
        selection = selector.select(source.pool, shots, max_tokens=max_tokens, quotas=limits, **rows)
    seconds = perf_counter() - started
    selection.to_prompt(unescape(instruction)).save(out)
    counted_with = str(selection.config.get("tokenizer") or selection.config["proxy"])
    report = selection_report(
        selection, source, tokenizer=counted_with, method=method, seconds=seconds, out=str(out)
    )
    return as_json_text(report) if as_json else selection_view(report)


def _check_writable(out: Path) -> None:
    """Refuse before the work what could not be written after it."""
    if out.is_dir() or not out.parent.is_dir() or not os.access(out.parent, os.W_OK):
        raise ArtefactError(
            f"--out {str(out)!r} cannot be written",
            expected="a file name in a folder that exists and is writable",
            fix="make the folder or choose another path",
        )
