"""Reading the config of a comparison: YAML or JSON, checked whole before anything runs."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from icl_plugins.errors import DataError, SettingError
from icl_plugins.evaluation.checked import checked_record, unknown_name
from icl_plugins.evaluation.config import Config
from icl_plugins.readers import FilePath

_SAMPLE = "sample:"
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def read_config(path: FilePath, variables: Mapping[str, str] | None = None) -> tuple[Config, dict[str, Any]]:
    """Read and check a config -> the config, ready to use, and the file as read.

    Paths are relative to the file. `${name}` in paths and names of models is replaced, literally, by a
    variable given here or else of the environment. Raises SettingError naming the key, and DataError for a
    file that is missing or no YAML.
    """
    content = _read(path)
    config = checked_record(Config, content)
    folder, known = Path(path).parent, variables or {}
    used = _VARIABLE.findall(" ".join(_texts(config)))
    for name in known:
        if name not in used:
            raise unknown_name(f"variable {name!r}", name, used, "variables of the file as")

    def located(where: str, text: str) -> str:
        return str(_file(where, _filled(where, text, known), folder))

    datasets = tuple(
        replace(
            data,
            train=located(f"datasets[{at}].train", data.train),
            test=data.test and located(f"datasets[{at}].test", data.test),
        )
        for at, data in enumerate(config.datasets)
    )
    target = replace(config.target, model=_model("target.model", config.target.model, known, folder))
    proxy = _model("proxy", config.proxy, known, folder)
    methods = dict(config.methods)
    for name, method in config.methods.items():
        if method.state is not None:
            where = f"methods.{name}.state"
            states = {data: _state(where, text, known, folder) for data, text in method.states.items()}
            methods[name] = replace(method, state=states)
    return replace(config, datasets=datasets, target=target, proxy=proxy, methods=methods), content


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that occurs twice in one mapping."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping."""
        _refuse_twice(key.value for key, _ in node.value)
        return super().construct_mapping(node, deep)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_twice(name for name, _ in pairs)
    return dict(pairs)


def _refuse_twice(names: Iterable[object]) -> None:
    twice = [name for name, count in Counter(map(str, names)).items() if count > 1]
    if twice:
        raise ValueError(f"the key {twice[0]!r} occurs twice in one mapping")


def _read(path: FilePath) -> dict[str, Any]:
    try:
        text = Path(path).read_text("utf-8-sig")
        if Path(path).suffix.lower() == ".json":
            content = json.loads(text, object_pairs_hook=_object)
        else:
            content = yaml.load(text, _Loader)  # noqa: S506  # derived from the safe loader
        # a copy by way of JSON: the comparison keeps it, and dates and NaN are no settings
        copy: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))
    except OSError as error:
        got = f"cannot read {os.fspath(path)!r}: {error.strerror or error}"
        raise DataError(got, expected="a file that can be read", fix="check the path") from error
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        got = f"{os.fspath(path)!r} is no config: {error}"
        raise DataError(got, expected="YAML or JSON in UTF-8", fix="correct the file") from error
    return copy


def _texts(config: Config) -> Iterable[str]:
    yield from (config.proxy, config.target.model)
    for data in config.datasets:
        yield from (data.train, data.test or "")
    for method in config.methods.values():
        yield from method.states.values()


def _filled(where: str, text: str, variables: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name not in variables and name not in os.environ:
            raise SettingError(
                f"{where}: the variable ${{{name}}} has no value",
                expected=f"--set {name}=..., or an environment variable {name}",
                fix=f"pass --set {name}=...",
            )
        return variables.get(name) or os.environ[name]

    return _VARIABLE.sub(value, text)


def _file(where: str, name: str, folder: Path) -> Path:
    if name.startswith(_SAMPLE):
        path = Path(str(files("icl_plugins") / "data" / f"{name.removeprefix(_SAMPLE)}.jsonl"))
    else:
        path = folder / Path(name).expanduser()
    if not path.is_file():
        raise DataError(
            f"{where}: no file {str(path)!r}",
            expected="a file; a relative path starts from the folder of the config",
            fix=f"correct {where}",
        )
    return path


def _state(where: str, text: str, variables: Mapping[str, str], folder: Path) -> str:
    path = folder / Path(_filled(where, text, variables)).expanduser()
    if not path.is_dir():
        raise DataError(
            f"{where}: no folder {str(path)!r}",
            expected="a folder that icl-plugins think has made; a relative path starts from the config's",
            fix=f"correct {where}",
        )
    return str(path)


def _model(where: str, name: str, variables: Mapping[str, str], folder: Path) -> str:
    name = _filled(where, name, variables)
    return str(folder / name) if name != "micro" and (folder / name).is_dir() else name
