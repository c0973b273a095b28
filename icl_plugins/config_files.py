"""Config files, YAML or JSON: read with care; what their paths, names of models and variables stand for."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from glob import escape, glob
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import yaml

from icl_plugins.checked import unknown_name
from icl_plugins.errors import DataError, SettingError
from icl_plugins.readers import FilePath

_SAMPLE = "sample:"
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class _Loader(yaml.SafeLoader):
    """The safe loader, which also refuses a key that occurs twice in one mapping."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return the mapping."""
        _refuse_twice(key.value for key, _ in node.value)
        return super().construct_mapping(node, deep)


# 3e-4 is a number in YAML 1.2 and in JSON, but a text in YAML 1.1, which PyYAML reads
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_mapping(path: FilePath) -> dict[str, Any]:
    """Return the content of a config as JSON has it; raises DataError for a file that is missing or none."""
    try:
        text = Path(path).read_text("utf-8-sig")
        if Path(path).suffix.lower() == ".json":
            content = json.loads(text, object_pairs_hook=_object)
        else:
            content = yaml.load(text, _Loader)  # noqa: S506  # derived from the safe loader
        # a copy by way of JSON: results are kept with it, and dates and NaN are no settings
        copy: dict[str, Any] = json.loads(json.dumps(content, allow_nan=False))
    except OSError as error:
        got = f"cannot read {os.fspath(path)!r}: {error.strerror or error}"
        raise DataError(got, expected="a file that can be read", fix="check the path") from error
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        got = f"{os.fspath(path)!r} is no config: {error}"
        raise DataError(got, expected="YAML or JSON in UTF-8", fix="correct the file") from error
    return copy


@dataclass(frozen=True)
class Places:
    """What the paths and names in a config stand for: variables filled in, relative to its folder.

    ``${name}`` is replaced, literally, by a variable given here or else of the environment. where: the key,
    for errors.
    """

    folder: Path
    variables: Mapping[str, str]

    @classmethod
    def of(cls, path: FilePath, variables: Mapping[str, str] | None, texts: Iterable[str]) -> Self:
        """Return the places of a file; raises SettingError for a variable that none of its texts uses."""
        used = sorted(set(_VARIABLE.findall(" ".join(texts))))
        for name in variables or ():
            if name not in used:
                raise unknown_name(repr(name), name, used, "variables")
        return cls(Path(path).parent, variables or {})

    def file(self, where: str, text: str) -> str:
        """Return the path of a file, or of the shipped data "sample:NAME"; raises DataError where none is."""
        name = self._filled(where, text)
        if name.startswith(_SAMPLE):
            path = Path(str(files("icl_plugins") / "data" / f"{name.removeprefix(_SAMPLE)}.jsonl"))
        else:
            path = self.folder / Path(name).expanduser()
        if not path.is_file():
            raise DataError(
                f"{where}: no file {str(path)!r}",
                expected="a file; a relative path starts from the folder of the config",
                fix=f"correct {where}",
            )
        return str(path)

    def matching(self, where: str, pattern: str) -> list[Path]:
        """Return the files that a pattern with * matches, by name; raises DataError where there is none."""
        whole = str(Path(escape(str(self.folder))) / Path(self._filled(where, pattern)).expanduser())
        found = sorted(path for path in map(Path, glob(whole)) if path.is_file())
        if not found:
            raise DataError(
                f"{where}: no file matches {whole!r}",
                expected="files; a relative pattern starts from the folder of the config",
                fix=f"correct {where}",
            )
        return found

    def state(self, where: str, text: str) -> str:
        """Return the path of a state's folder; raises DataError where none is."""
        path = self.folder / Path(self._filled(where, text)).expanduser()
        if not path.is_dir():
            raise DataError(
                f"{where}: no folder {str(path)!r}",
                expected="a folder that icl-plugins think has made; a relative path starts from the config's",
                fix=f"correct {where}",
            )
        return str(path)

    def hub_name(self, where: str, text: str) -> str:
        """Return the path of a folder if one is there, else the name: of the hub, or "micro"."""
        name = self._filled(where, text)
        return str(self.folder / name) if name != "micro" and (self.folder / name).is_dir() else name

    def _filled(self, where: str, text: str) -> str:
        def value(found: re.Match[str]) -> str:
            name = found[1]
            if name not in self.variables and name not in os.environ:
                raise SettingError(
                    f"{where}: the variable ${{{name}}} has no value",
                    expected=f"--set {name}=..., or an environment variable {name}",
                    fix=f"pass --set {name}=...",
                )
            return self.variables[name] if name in self.variables else os.environ[name]

        return _VARIABLE.sub(value, text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_twice(name for name, _ in pairs)
    return dict(pairs)


def _refuse_twice(names: Iterable[object]) -> None:
    twice = [name for name, count in Counter(map(str, names)).items() if count > 1]
    if twice:
        raise ValueError(f"the key {twice[0]!r} occurs twice in one mapping")
