"""The data of a config: tasks, tasks to measure on, and plain text; nothing is measured on what is learnt."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from icl_plugins.checked import told_with
from icl_plugins.errors import DataError, OptionalDependencyError
from icl_plugins.examples import Pool
from icl_plugins.held_out import asked_by, drawn, rows_apart
from icl_plugins.readers import read_text
from icl_plugins.tuning.config import HubConfig, TaskConfig, TuneData
from icl_plugins.tuning.tasks import Task

_BLANK_LINES = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")


@dataclass(frozen=True)
class Loaded:
    """What ManyICL.fit takes; notes: rows that were left out."""

    tasks: tuple[Task, ...]
    validation: tuple[Task, ...]
    text: tuple[str, ...]
    notes: tuple[str, ...]


def load(data: TuneData, seed: int) -> Loaded:
    """Read all data of a config and draw the rows of each task, by generators of their own.

    Rows to train on that ask what a row of any validation task asks (letters and digits compared) are
    dropped and counted, or refused: a file may stand under both keys, and is then split. Raises DataError
    and TemplateError for files and rows, with the task, SettingError for settings that do not suit them,
    OptionalDependencyError where Hugging Face datasets are named and not installed.
    """
    measured = [_validation(at, task, seed) for at, task in enumerate(data.validation)]
    asked = asked_by(task.pool for task in measured)
    trained, notes = [], []
    for at, task in enumerate(data.tasks):
        with told_with(f"tasks[{at}], {task.name}"):
            pool = _pool(task)
            apart = rows_apart(pool, asked) if asked else range(len(pool))
            overlap = len(pool) - len(apart)
            if overlap:
                notes.append(f"{task.name}: {overlap} rows left out, which ask what a row of validation asks")
                _check_overlap(overlap, len(apart), data.on_overlap)
            trained.append(_task(task, pool.subset(apart), [seed, 1]))
    return Loaded(tuple(trained), tuple(measured), tuple(_documents(data.text)), tuple(notes))


def _validation(at: int, task: TaskConfig, seed: int) -> Task:
    with told_with(f"validation[{at}], {task.name}"):
        return _task(task, _pool(task), [seed, 0])


def _check_overlap(overlap: int, apart: int, on_overlap: str) -> None:
    if on_overlap == "error" or apart < 2:
        raise DataError(
            f"{overlap} rows ask what a row of validation asks, {apart} others",
            expected="rows to train on that are not measured on",
            fix="give validation fewer rows, or other files"
            + (", or set on_overlap to drop" if apart > 1 else ""),
        )


def _task(task: TaskConfig, pool: Pool, seed: list[int]) -> Task:
    rows = pool if task.rows is None else drawn(pool, task.rows, seed)
    return Task(task.name, rows, task.templates, task.classes, task.weight, task.kind)


def _pool(task: TaskConfig) -> Pool:
    if task.dataset is not None:
        return _from_hub(task.dataset, task)
    return Pool.from_file(task.train or "", task.template)


def _from_hub(hub: HubConfig, task: TaskConfig) -> Pool:
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError as error:
        raise OptionalDependencyError(
            f"dataset {hub.path!r} without Hugging Face datasets",
            expected="the package datasets",
            fix="pip install 'icl-plugins[tuning]', or name a file under train",
        ) from error
    try:
        rows = load_dataset(hub.path, hub.name, split=hub.split)
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        raise DataError(
            f"cannot load dataset {hub.path!r}, name {hub.name!r}, split {hub.split!r}: {error}",
            expected="a data set of Hugging Face, or a folder of its files, with this split",
            fix="correct path, name or split",
        ) from error
    return Pool.from_dataset(rows, task.template)


def _documents(files: Sequence[str]) -> list[str]:
    texts = [text for name in files for text in _BLANK_LINES.split(read_text(name).replace("\r\n", "\n"))]
    return [text.strip() for text in texts if text.strip()]
