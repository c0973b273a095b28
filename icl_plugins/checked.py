"""Nested mappings of a file as frozen dataclasses: every key and type checked, refusals with their path."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.errors import IclError, SettingError

Record = TypeVar("Record")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}
_ONLY_NAMED = {"Proxy": str}  # a loaded model, which a file can but name


def checked_record(kind: type[Record], value: object, path: str = "") -> Record:
    """Return a dataclass made of a mapping, and of the mappings and lists in it, by its type hints.

    path: where the mapping stands in its file, such as ``datasets[2]``. Raises SettingError for a key that
    is unknown (with the nearest known one) or missing, and for a value of a wrong type; errors of the
    dataclass itself get the path in front.
    """
    (record,) = checked_records((kind,), value, path)
    return cast(Record, record)


def checked_records(kinds: Sequence[type[Any]], value: object, path: str = "") -> tuple[Any, ...]:
    """Return a dataclass of each kind, made of one mapping that holds the keys of all, as checked_record."""
    if not isinstance(value, Mapping):
        raise _wrong(path or "the file", value, "a mapping of names to values")
    known = {field.name: field for kind in kinds for field in fields(kind)}
    for name in value:
        if name not in known:
            raise unknown_name(_join(path, name), str(name), known, "keys")
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    missing = [name for name in needed if name not in value]
    if missing:
        expected = f"the keys {', '.join(needed)}"
        raise SettingError(f"no {_join(path, missing[0])}", expected=expected, fix="add it to the file")
    return tuple(_made(kind, value, path) for kind in kinds)


def _made(kind: type[Any], value: Mapping[str, object], path: str) -> Any:
    hints = get_type_hints(kind, localns=_ONLY_NAMED)
    own = [field.name for field in fields(kind) if field.name in value]
    parts = {name: _checked(hints[name], value[name], _join(path, name)) for name in own}
    with told_with(path):
        return kind(**parts)


@contextmanager
def told_with(path: str) -> Iterator[None]:
    """Put a place of the file in front of the errors of the block; "" for none."""
    try:
        yield
    except IclError as error:
        got = f"{path}: {error.got}" if path else error.got
        raise type(error)(got, expected=error.expected, fix=error.fix) from error


def unknown_name(where: str, name: str, known: Iterable[str], what: str) -> SettingError:
    """Return the error for a name that is none of the known ones, with the nearest of them if one is near."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    return SettingError(
        f"unknown {what.removesuffix('s')} {where}" + (f"; did you mean {near[0]!r}?" if near else ""),
        expected=f"one of the {what} {', '.join(names)}" if names else f"no {what}",
        fix=f"write {near[0]!r}" if near else "correct the name or leave it out",
    )


def check_name(where: str, name: str) -> None:
    """Raise SettingError unless files can be named after a name."""
    if not _NAME.fullmatch(name):
        raise SettingError(
            f"{where}: {name!r}",
            expected="letters, digits and any of _ . + - behind them, since files are named after it",
            fix="choose another name",
        )


def check_numbers(record: Any, names: Iterable[str]) -> None:
    """Raise SettingError unless these fields are None or whole numbers from 1."""
    for name in names:
        if getattr(record, name) is not None:
            whole_number(name, getattr(record, name), 1)


def check_lists(lists: Mapping[str, list[Any]]) -> None:
    """Raise SettingError for a list that is empty or has a value twice."""
    for name, values in lists.items():
        twice = [value for value, count in Counter(values).items() if count > 1]
        if not values or twice:
            raise SettingError(
                f"{name}: {f'{twice[0]!r} twice' if twice else 'empty'}",
                expected="at least one, each once",
                fix=f"correct {name}",
            )


def _checked(kind: Any, value: Any, path: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        return checked_record(kind, value, path)
    if origin in (Union, UnionType):
        return _one_of(arguments, value, path)
    if origin is tuple and isinstance(value, list):
        return tuple(_checked(arguments[0], part, f"{path}[{at}]") for at, part in enumerate(value))
    if origin is Mapping and isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _checked(arguments[1], part, _join(path, name)) for name, part in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    literal = origin is Literal and isinstance(value, str) and value in arguments
    if literal or kind is Any or (isinstance(kind, type) and type(value) is kind):
        return value
    raise _wrong(path, value, _describe(kind))


def _one_of(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not NoneType]
    if len(others) == 1:
        return _checked(others[0], value, path)
    for kind in others:
        try:
            return _checked(kind, value, path)
        except SettingError:
            continue
    raise _wrong(path, value, " or ".join(map(_describe, kinds)))


def _describe(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is tuple:
        return f"a list, each {_describe(arguments[0])}"
    if origin is Mapping or (isinstance(kind, type) and is_dataclass(kind)):
        return "a mapping of names to values"
    if origin in (Union, UnionType):
        return " or ".join(map(_describe, arguments))
    return _NAMES[kind]


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _wrong(path: str, value: object, expected: str) -> SettingError:
    return SettingError(
        f"{path}: {value!r:.80} ({type(value).__name__})", expected=expected, fix=f"correct {path}"
    )
