"""Whether two examples ask the same: told by their values, not by types and names."""

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import to_jsonable_python

from icl_plugins.errors import DataError


def content(value: Any) -> str:
    """Return a value as text: of models what JSON keeps; case and spacing do not count."""
    plain = to_jsonable_python(value, bytes_mode="base64", fallback=repr)
    text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, sort_keys=True)
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def check_apart(trainset: Sequence[Any], valset: Sequence[Any]) -> None:
    """Raise DataError, naming both rows, if an example of the valset asks what one of the trainset does.

    Two examples are compared on the inputs that both have.
    """
    for known in _by_inputs(trainset).values():
        for new in _by_inputs(valset).values():
            names = [name for name in trainset[known[0]].inputs() if name in valset[new[0]].inputs()]
            asked = {_values(trainset[row], names): row for row in reversed(known)}
            for row in new if names else ():
                if (values := _values(valset[row], names)) in asked:
                    raise DataError(
                        f"example {row} of the valset has the inputs of example {asked[values]} "
                        f"of the trainset: {valset[row].inputs().toDict()!r:.80}",
                        expected="a valset apart from the trainset, or demonstrations give the answers away",
                        fix="take the example out of one of the two",
                    )


def asks(demo: Mapping[str, Any], of_demo: Iterable[str], example: Any) -> bool:
    """Say whether a demonstration, whose inputs `of_demo` names, has the values of the example's inputs.

    Values only: programs rename inputs, add some or drop some, and what JSON brings back is untyped.
    """
    wanted = {content(value) for value in example.inputs().values()}
    held = {content(demo[name]) for name in of_demo if demo.get(name) is not None}
    return bool(held) and (wanted <= held or held <= wanted)


def _by_inputs(examples: Sequence[Any]) -> dict[frozenset[str], list[int]]:
    rows: dict[frozenset[str], list[int]] = {}
    for row, example in enumerate(examples):
        rows.setdefault(frozenset(example.inputs().keys()), []).append(row)
    return rows


def _values(example: Any, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(content(example[name]) for name in names)
