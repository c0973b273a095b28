"""What was chosen and why, as JSON and as a table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from icl_plugins.cli.target import cost_text

if TYPE_CHECKING:
    from icl_plugins.cli.inputs import Source
    from icl_plugins.prompt import ManyShotPrompt
    from icl_plugins.selection import Selection

_FEW_LABELS = 12


def count_with(tokenizer: str, texts: Sequence[str]) -> list[int]:
    """Count the tokens of texts with a tokenizer by name, without those put around a text (BOS)."""
    from icl_plugins.selectors._tokens import token_counter

    return token_counter(tokenizer)(texts)


def text_counts(prompt: "ManyShotPrompt", tokenizer: str) -> dict[str, Any]:
    """Return the tokens of a prompt as text: of each demonstration with its separator, and of the prefix."""
    texts = [question + answer + prompt.template.separator for question, answer in prompt.demonstrations]
    *shots, total = count_with(tokenizer, [*texts, prompt.prefix])
    return {"tokenizer": tokenizer, "prompt_tokens": total, "shot_tokens": shots}


def selection_report(
    selection: "Selection", source: "Source", *, shot_tokens: Sequence[int], **facts: object
) -> dict[str, Any]:
    """Return the report of a selection with its demonstrations; ``row`` is the row of the user's file."""
    pool = selection.pool
    demonstrations = [
        {
            "position": position,
            "row": source.rows[index],
            "label": pool.labels[index],
            "score": score,
            "tokens": count,
            "question": pool.questions[index],
            "answer": pool.answers[index],
        }
        for position, (index, score, count) in enumerate(
            zip(selection.indices, selection.scores, shot_tokens, strict=True), 1
        )
    ]
    report = selection.report()
    return {
        **report,
        "tokens": sum(shot_tokens) if report["tokens"] is None else report["tokens"],
        **facts,
        "removed_duplicates": source.file_size - len(pool),
        "demonstrations": demonstrations,
    }


def selection_view(report: Mapping[str, Any]) -> RenderableType:
    """Return the table of demonstrations with a summary below it, and estimates between where there are."""
    table, verdict, notes = _estimates(report)
    return Group(
        demonstrations_table(report["demonstrations"]),
        *table,
        summary(
            ("chosen", _chosen(report)),
            ("objective", _objective(report["objective"])),
            ("estimates", verdict),
            *notes,
            ("labels", _labels(report)),
            ("gradients", _gradients(report)),
            ("tokens", _tokens(report)),
            ("cost", cost_text(report)),
            ("left out", _left_out(report)),
            ("duplicates", _duplicates(report["duplicate_groups"])),
            ("time", _seconds(report)),
            ("written", report["out"] or ""),
            *(("warning", text) for text in report.get("warnings", ())),
        ),
    )


def demonstrations_table(demonstrations: Iterable[Mapping[str, Any]]) -> Table:
    """Return one line for each demonstration; data goes in as text, whatever markup or controls it holds."""
    table = Table(box=None, header_style="bold", pad_edge=False, expand=True)
    for name in ("", "row", "label", "score", "tokens"):
        table.add_column(name, justify="left" if name == "label" else "right", no_wrap=True, max_width=28)
    table.add_column("question", no_wrap=True, ratio=1)
    for shot in demonstrations:
        score = "" if shot["score"] is None else f"{shot['score']:.4g}"
        row = "" if shot["row"] is None else str(shot["row"])
        table.add_row(
            str(shot["position"]),
            row,
            one_line(shot["label"]),
            score,
            str(shot["tokens"]),
            one_line(shot["question"]),
        )
    return table


def summary(*lines: tuple[str, str]) -> Table:
    """Return names and values, without the lines that have no value."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("", "")
    for name, value in lines:
        if value:
            table.add_row(name, one_line(value))
    return table


def one_line(text: str) -> Text:
    """Return text of the data for a terminal: blanks and controls, escape sequences too, become one space."""
    return Text(" ".join("".join(char if char.isprintable() else " " for char in text).split()))


def _chosen(report: Mapping[str, Any]) -> str:
    text = f"{report['shots']} of {report['pool_size']:,} examples by {report['method']}"
    candidates = report["details"].get("candidates")
    return f"{text}, among the {candidates:,} most typical of their label" if candidates else text


def _objective(objective: Mapping[str, Any] | None) -> str:
    if objective is None:
        return ""
    text = f"{objective['name'] or 'value'} {objective['final']:.4g}"
    random = objective["random"]
    if random is None:
        return text
    ratio = f", {random / objective['final']:.1f} times lower" if 0 < objective["final"] < random else ""
    return f"{text}; random sets of this size: {random:.4g}{ratio}"


def _estimates(report: Mapping[str, Any]) -> tuple[list[RenderableType], str, list[tuple[str, str]]]:
    """Return how estimates agree with what was measured: as a table, in a sentence, and further lines."""
    if "estimate" not in report["details"]:
        return [], "", []
    from icl_plugins.report.estimates import estimates_of

    found = estimates_of(report)
    if found is None:
        return [], "", []
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, name in enumerate(found.table.columns):
        table.add_column(name, justify="right" if number else "left")
    for row in found.table.rows:
        table.add_row(*map(one_line, row))
    return ["", table], found.verdict, list(found.notes.items())


def _labels(report: Mapping[str, Any]) -> str:
    pool, chosen = report["labels"]["pool"], report["labels"]["selection"]
    text = f"{len(chosen)} of {len(pool)} shown, KL(selection || pool) {report['label_kl']:.3f} nats"
    if len(chosen) > _FEW_LABELS:
        return text
    return f"{text}: {', '.join(f'{label} {count}' for label, count in chosen.items())}"


def _gradients(report: Mapping[str, Any]) -> str:
    """Say what of a store was used again."""
    computed, tuned_on = (report["details"].get(name) for name in ("rows_computed", "curriculum_tuned_on"))
    if computed is None or report["config"].get("store") is None:
        return ""
    store, size = report["config"]["store"], report["pool_size"]
    if computed == size:
        return f"kept in {store}"
    text = f"{computed:,} of {size:,} computed, the others read from {store}"
    return text if tuned_on == size else f"{text}; prefix tuned on {tuned_on:,} examples"


def _tokens(report: Mapping[str, Any]) -> str:
    what = "instruction and longest query" if "target" in report else "separators"
    text = f"{report['prompt_tokens']:,} counted with {report['tokenizer']}, {what} included"
    instruction = report["instruction_tokens"]
    return f"{text}; {instruction:,} of them for the instruction" if instruction else text


def _left_out(report: Mapping[str, Any]) -> str:
    removed = report["removed_duplicates"]
    parts = [f"{removed} duplicates or conflicting"] if removed else []
    parts += [f"{len(rows)} {reason}" for reason, rows in report["skipped"].items()]
    return ", ".join(parts)


def _duplicates(groups: Mapping[str, int]) -> str:
    if not any(groups.values()):
        return ""
    text = f"{groups['exact']} groups exact, {groups['normalised']} equal but for case and punctuation"
    if not groups["conflicting"]:
        return f"{text} (see --dedupe)"
    conflicting = f"{groups['conflicting']} with labels that contradict each other (see --drop-conflicting)"
    return f"{text} (see --dedupe), {conflicting}"


def _seconds(report: Mapping[str, Any]) -> str:
    stages = report["details"].get("seconds") or {}
    longest = sorted(stages.items(), key=lambda stage: -stage[1])
    parts = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in longest if seconds >= 0.05)
    return f"{report['seconds']:.1f} s" + (f" ({parts})" if parts else "")
