"""The config of a run of tuning: YAML or JSON, checked whole before any data or model is read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from icl_plugins.checked import check_lists, check_numbers, checked_records
from icl_plugins.config_files import Places, read_mapping
from icl_plugins.errors import SettingError
from icl_plugins.readers import FilePath
from icl_plugins.template import Template
from icl_plugins.tuning.many_icl import ManyICL


@dataclass(frozen=True)
class HubConfig:
    """A split of a data set of Hugging Face: by its id, or by the folder of its files."""

    path: str
    name: str | None = None
    split: str = "train"


@dataclass(frozen=True)
class TaskConfig:
    """A task of the file: train, a file, or dataset; the other fields are those of Task.

    A train with * in it stands for a task of each file that it matches, called name/file, of the kind name.
    rows: so many at most, drawn by the seed.
    """

    name: str
    template: Template
    train: str | None = None
    dataset: HubConfig | None = None
    templates: tuple[Template, ...] = ()
    classes: bool = False
    weight: float = 1.0
    rows: int | None = None
    kind: str = ""

    def __post_init__(self) -> None:
        """Check that there is one source."""
        check_numbers(self, ("rows",))
        if (self.train is None) == (self.dataset is None):
            raise SettingError(
                "neither train nor dataset" if self.train is None else "train and dataset",
                expected="one of them: a file, or {path, name, split} of Hugging Face datasets",
                fix="add one" if self.train is None else "leave one out, or make two tasks of it",
            )


@dataclass(frozen=True)
class TuneData:
    """What is trained and measured on: the keys of the file that are no fields of ManyICL.

    on_overlap: rows to train on that ask what a row of validation asks are dropped and counted, or refused.
    """

    tasks: tuple[TaskConfig, ...]
    validation: tuple[TaskConfig, ...] = ()
    text: tuple[str, ...] = ()
    on_overlap: Literal["drop", "error"] = "drop"

    def __post_init__(self) -> None:
        """Check that names are there once."""
        check_lists({"tasks": [task.name for task in self.tasks]})
        if self.validation:
            check_lists({"validation": [task.name for task in self.validation]})


def read_config(path: FilePath, variables: Mapping[str, str] | None = None) -> tuple[ManyICL, TuneData]:
    """Read and check a config, one mapping of the fields of both -> settings and data, paths in place.

    Paths are relative to the file. `${name}` in paths and names of models and data sets is replaced,
    literally, by a variable given here or else of the environment. Raises SettingError naming the key, and
    DataError for a file that is missing or no YAML.
    """
    settings, data = checked_records((ManyICL, TuneData), read_mapping(path))
    places = Places.of(path, variables, _texts(settings, data))
    return (
        replace(settings, model=places.hub_name("model", settings.model)),
        replace(
            data,
            tasks=_placed("tasks", data.tasks, places),
            validation=_placed("validation", data.validation, places),
            text=tuple(places.file(f"text[{at}]", name) for at, name in enumerate(data.text)),
        ),
    )


def _texts(settings: ManyICL, data: TuneData) -> Iterable[str]:
    yield from (str(settings.model), *data.text)
    for task in (*data.tasks, *data.validation):
        yield task.train or ""
        yield task.dataset.path if task.dataset else ""


def _placed(key: str, tasks: tuple[TaskConfig, ...], places: Places) -> tuple[TaskConfig, ...]:
    def placed(where: str, task: TaskConfig) -> Iterable[TaskConfig]:
        if task.train is None:
            hub = task.dataset
            path = places.hub_name(f"{where}.dataset.path", hub.path if hub else "")
            return [replace(task, dataset=hub and replace(hub, path=path))]
        if "*" not in task.train:
            return [replace(task, train=places.file(f"{where}.train", task.train))]
        kind = task.kind or task.name
        return [
            replace(task, train=str(path), name=f"{task.name}/{path.stem}", kind=kind)
            for path in places.matching(f"{where}.train", task.train)
        ]

    return tuple(one for at, task in enumerate(tasks) for one in placed(f"{key}[{at}]", task))
