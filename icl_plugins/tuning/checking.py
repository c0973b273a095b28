"""What a run is refused for before anything is trained, and what it is told of."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icl_plugins.errors import DataError, OptionalDependencyError, SettingError
from icl_plugins.held_out import asked_by, rows_apart
from icl_plugins.tuning.answered import check_size
from icl_plugins.tuning.drawing import Drawer
from icl_plugins.tuning.tasks import Task, check_tasks
from icl_plugins.tuning.tuned import ADAPTER, MODEL, check_folder

if TYPE_CHECKING:
    from icl_plugins.tuning.many_icl import ManyICL


def check_run(
    settings: "ManyICL", tasks: Sequence[Task], out: Path, text: Sequence[str], validation: Sequence[Task]
) -> None:
    """Raise SettingError, DataError or ArtefactError for what can be seen without a model."""
    check_tasks(tasks)
    if validation:
        check_tasks(validation)
    for task in validation:
        check_size(task)
    for name in (MODEL, ADAPTER):
        check_folder(out / name)
    _check_text(settings, text)
    known = {name for task in tasks for name in (task.name, task.kind) if name}
    for at, stage in enumerate(settings.stages):
        unknown = sorted(set(stage.tasks or ()) - known)
        if unknown:
            raise SettingError(
                f"stages[{at}]: no task or kind {unknown[0]!r}",
                expected=f"some of {', '.join(sorted(known)):.200}",
                fix="correct the names, or leave tasks out for all",
            )
    try:
        import accelerate  # noqa: F401
        import peft  # noqa: F401
    except ImportError as error:
        raise OptionalDependencyError(
            f"no module {error.name!r}",
            expected="the packages that tuning needs",
            fix="pip install 'icl-plugins[tuning]'",
        ) from error


def _check_text(settings: "ManyICL", text: Sequence[str]) -> None:
    if isinstance(text, str):
        raise SettingError("text: one string", expected="a list of documents", fix="put it in a list")
    empty = [row for row, document in enumerate(text) if not document.strip()]
    if empty:
        got = f"{len(empty)} texts without text: {empty[:5]}"
        raise DataError(got, expected="text in each", fix="leave the empty ones out")
    wanted = max(stage.plain for stage in settings.stages)
    if wanted and not text:
        got = f"plain={wanted} and no text"
        raise DataError(got, expected="texts to draw from", fix="give them as text")


def check_context(settings: "ManyICL", longest: int) -> None:
    """Raise SettingError for rows of more tokens than the model reads."""
    for at, stage in enumerate(settings.stages):
        if stage.context > longest:
            raise SettingError(
                f"stages[{at}]: context={stage.context:,}",
                expected=f"at most {longest:,}, the model's",
                fix="lower context, or extend the model's context in its config first",
            )


def unused(tasks: Sequence[Task], drawers: Sequence[Drawer], text: Sequence[str]) -> list[str]:
    """Return notes of what was given and is never drawn."""
    drawn = {task.name for drawer in drawers for task in drawer.tasks}
    notes = [f"{task.name}: in no stage" for task in tasks if task.name not in drawn]
    if text and not any(drawer.stage.plain for drawer in drawers):
        notes.append("text: no stage draws plain text")
    return notes


def overlaps(tasks: Sequence[Task], validation: Sequence[Task]) -> list[str]:
    """Return notes of rows that are learnt and ask what a row of validation asks."""
    asked = asked_by(task.pool for task in validation)
    counts = {task.name: len(task.pool) - len(rows_apart(task.pool, asked)) for task in tasks if asked}
    return [
        f"{name}: {count} rows ask what a row of validation asks" for name, count in counts.items() if count
    ]
