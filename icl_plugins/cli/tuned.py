"""Runs of tuning and the models that they leave, in folders: what they tell of themselves."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from icl_plugins.cli.outcome import Result


def tuned_folder(folder: Path) -> Path | None:
    """Return the folder of the model, for that of a run, of a model or of an adapter; None for any other."""
    from icl_plugins.tuning.tuned import MODEL, RECORD

    return next((one for one in (folder, folder / MODEL) if (one / RECORD).is_file()), None)


def tuned_result(folder: Path, as_json: bool, notes: Sequence[str] = (), **told: str | float) -> "Result":
    """Return what is shown of a tuned model; notes, told: what is known besides."""
    from rich.console import Group

    from icl_plugins.cli.outcome import as_json_text
    from icl_plugins.cli.report import summary

    content = tuned_content(folder)
    content["notes"] = [*notes, *content["notes"]]
    if as_json:
        return as_json_text({**told, **content})
    lines = (*tuned_lines(content), *((name, str(value)) for name, value in told.items()))
    return Group(curves_shown(content), summary(*lines))


def stopped_result(folder: Path, as_json: bool) -> "Result | None":
    """Return what the last checkpoint of a run that has no model yet tells; None where there is none."""
    from rich.console import Group

    from icl_plugins.cli.outcome import as_json_text
    from icl_plugins.cli.report import summary

    if not (folder / "checkpoints").is_dir():  # before torch is imported
        return None
    from icl_plugins.tuning.checkpoints import last_log

    last = last_log(folder)
    if last is None:
        return None
    steps, log = last
    losses = log["losses"]
    content: dict[str, Any] = {
        "steps": steps,
        "loss": {"first": _mean(losses[:10]), "last": _mean(losses[-10:])},
        "curves": _ends(log["curves"]),
        "notes": log["notes"],
    }
    if as_json:
        return as_json_text(content)
    return Group(
        curves_shown(content),
        summary(
            ("run of tune", f"{steps:,} steps are kept; the same command goes on from there"),
            ("loss", _losses(content["loss"])),
            *(("note", note) for note in content["notes"]),
        ),
    )


def tuned_content(folder: Path) -> dict[str, Any]:
    """Return how a tuned model was made and what was measured, its weights unread; raises ArtefactError."""
    from icl_plugins.tuning.tuned import ADAPTER, read_record

    record = read_record(folder)
    settings, losses = record["settings"], record["losses"]
    alone = (folder / "adapter_config.json").is_file()
    adapter = folder if alone else folder.parent / ADAPTER
    return {
        "model": None if alone else str(folder),
        "adapter": str(adapter) if adapter.is_dir() else None,
        "base": record["base"],
        "steps": len(losses),
        "planned_steps": sum(stage["steps"] for stage in settings["stages"]),
        "lora_rank": settings["lora_rank"],
        "loss": {"first": _mean(losses[:10]), "last": _mean(losses[-10:])},
        "curves": _ends(record["curves"]),
        "tasks": record["tasks"],
        "notes": record["notes"],
    }


def tuned_lines(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the content of a tuned model as names and values."""
    rank, steps, planned = (content[name] for name in ("lora_rank", "steps", "planned_steps"))
    trained = f"an adapter of rank {rank} on all linear layers" if rank else "all weights"
    yield "model", f"{content['base']}, tuned to use many shots: {trained}"
    yield "tasks", ", ".join(task["name"] for task in content["tasks"])
    yield "steps", f"{steps:,}" if steps == planned else f"{steps:,} of {planned:,}"
    yield "loss", _losses(content["loss"])
    yield from (("note", note) for note in content["notes"])
    model, adapter = content["model"], content["adapter"]
    yield "written", ", ".join(filter(None, (model, adapter)))
    if model is None:
        yield "use it", f'PeftModel.from_pretrained(model, "{adapter}") of peft, on {content["base"]}'
        return
    yield "choose with it", f"icl-plugins select POOL --proxy {model} --shots 64 --out prompt.json"
    yield "measure it", f"in the config of icl-plugins compare: target: {{model: {model}}}"
    yield "serve it", f"transformers serve {model}"


def curves_shown(content: Mapping[str, Any]) -> "RenderableType":
    """Return the table of accuracy against shots, before and after, with 95 % intervals."""
    from rich.table import Table

    if not content["curves"]:
        return "Accuracy against shots was not measured: the config has no validation."
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("task", "shots", "chance", "majority", "before", "after"):
        table.add_column(name, justify="left" if name == "task" else "right", no_wrap=True)
    for one in content["curves"]:
        after = {point["shots"]: point for point in one["after"]["points"]}
        guess = [f"{value:.2f}" if value is not None else "" for value in (one["chance"], one["majority"])]
        for at, point in enumerate(one["before"]["points"]):
            shots = point["shots"]
            first = ("", "", "") if at else (one["task"], *guess)
            table.add_row(first[0], str(shots), *first[1:], _cell(point), _cell(after.get(shots)))
    return table


def _ends(curves: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the first and the last measurement of each task."""
    by_task: dict[str, list[Mapping[str, Any]]] = {}
    for one in curves:
        by_task.setdefault(one["task"], []).append(one)
    return [
        {
            **{name: found[0][name] for name in ("task", "chance", "majority", "items", "draws")},
            **{
                when: {name: one[name] for name in ("step", "points")}
                for when, one in (("before", found[0]), ("after", found[-1]))
            },
        }
        for found in by_task.values()
    ]


def _cell(point: Mapping[str, Any] | None) -> str:
    from icl_plugins.tuning.card import cell

    return cell(point) if point else ""


def _losses(loss: Mapping[str, float]) -> str:
    return f"{loss['first']:.3f} nats a prediction in the first ten steps, {loss['last']:.3f} in the last ten"


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))
