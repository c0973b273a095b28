"""The model card of a tuned model: what it was made from, how, and what was measured."""

from collections.abc import Iterable, Mapping
from typing import Any

_TEXT = """---
pipeline_tag: text-generation
---
# {name}

`{base}`, tuned to use many shots: fine-tuned on sequences of many demonstrations with the loss on {targets}
(ManyICL, arXiv 2506.11103), by icl_plugins {version}.

| | |
|---|---|
| steps | {steps:,} |
| weights | {weights} |
| learning rate | {rate:g} |
| loss, nats a prediction | {first:.3f} in the first ten steps, {last:.3f} in the last ten |
| seed | {seed} |

## Accuracy against shots

{curves}

## Tasks

| task | examples | classes |
|---|---|---|
{tasks}
{notes}
## Stages

| steps | rows | tokens of a row | zero-shot | plain text | other names |
|---|---|---|---|---|---|
{stages}

`tuning.json` has all settings, losses and fingerprints.
"""
_TARGETS = {
    "all": "every answer in the context",
    "last": "the last answer alone",
    "text": "all of the text",
}


def card(record: Mapping[str, Any]) -> str:
    """Return the text of README.md."""
    settings, losses = record["settings"], record["losses"]
    rank = settings["lora_rank"]
    return _TEXT.format(
        name=record["name"],
        base=record["base"],
        version=record["version"],
        targets=_TARGETS[settings["weighting"]["targets"]],
        steps=len(losses),
        weights=f"adapter of rank {rank} on all linear layers" if rank else "all",
        rate=settings["learning_rate"],
        first=_mean(losses[:10]),
        last=_mean(losses[-10:]),
        seed=settings["seed"],
        curves=curves_table(record["curves"]),
        tasks=_rows((one["name"], one["examples"], one["classes"] or "") for one in record["tasks"]),
        notes="".join(f"\n* {note}" for note in record["notes"]) + "\n" * bool(record["notes"]),
        stages=_rows(
            (one["steps"], one["rows"], one["context"], one["zero_shot"], one["plain"], one["other_names"])
            for one in settings["stages"]
        ),
    )


def curves_table(curves: Iterable[Mapping[str, Any]]) -> str:
    """Return a table of the first and the last measurement of each task, and what they rest on."""
    measured = list(curves)
    if not measured:
        return "Not measured on the way."
    steps = sorted({one["step"] for one in measured})
    shown = [one for one in measured if one["step"] in (steps[0], steps[-1])]
    shots = sorted({point["shots"] for one in shown for point in one["points"]})
    lines = []
    for one in sorted(shown, key=lambda one: (one["task"], one["step"])):
        cells = {point["shots"]: cell(point) for point in one["points"]}
        guess = "" if one["chance"] is None else f"{one['chance']:.2f}"
        most = "" if one["majority"] is None else f"{one['majority']:.2f}"
        lines.append((one["task"], one["step"], guess, most, *(cells.get(count, "") for count in shots)))
    head = ("task", "step", "chance", "majority", *(f"{count} shots" for count in shots))
    sizes = {one["task"]: f"{one['task']} {one['items']} x {one['draws']}" for one in shown}
    below = f"Items x draws of demonstrations: {', '.join(sizes.values())}. Accuracy with 95 % intervals; "
    below += "nats of an answer where it is free."
    return "\n".join((_rows([head]), "|---" * len(head) + "|", _rows(lines), "", below))


def cell(point: Mapping[str, Any]) -> str:
    """Return the text of a point: accuracy with its interval, or nats where answers are free."""
    if point["accuracy"] is None:
        return f"{point['nats']:.2f} nats"
    return f"{point['accuracy']:.2f} ({point['low']:.2f}-{point['high']:.2f})"


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))


def _rows(rows: Iterable[Iterable[object]]) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)
