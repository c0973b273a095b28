"""How one value of an example becomes text, and which values are refused."""

import math
import operator
import string
from collections.abc import Iterable, Mapping

from icl_plugins.errors import DataError, SettingError

_LETTERS = string.ascii_uppercase


def plain(value: object) -> object:
    """Return a copy of nested lists and mappings, numpy numbers, text and arrays turned into Python's own.

    Tuples become lists, as JSON would make them. Every other object comes back as it is.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    # by name, because loading numpy costs more than all of this module; dates and bytes stay refusable
    if type(value).__module__ == "numpy" and getattr(getattr(value, "dtype", None), "kind", "") in tuple(
        "biufU"
    ):
        return value.tolist()  # type: ignore[attr-defined]
    return value


def value_text(value: object, field: str) -> str:
    """Return the text of a value: text as it is, a number plainly, a list as "(A) first (B) second".

    ``field`` is the name to blame. Raises DataError for None, NaN, infinity, mappings, bytes, empty lists and
    any other type, and for text with lone surrogates, which UTF-8 cannot hold.
    """
    value = plain(value)
    if not isinstance(value, list):
        return _scalar_text(value, field)
    if not value:
        raise DataError(
            f"an empty list in {field!r}", expected="at least one choice", fix="leave the example out"
        )
    return " ".join(
        f"({letter_of(i, field)}) {_scalar_text(item, f'{field}[{i}]')}" for i, item in enumerate(value)
    )


def _scalar_text(value: object, field: str) -> str:
    if isinstance(value, str):
        return checked_text(value, repr(field))
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(
            f"{value} in {field!r}", expected="text or a finite number", fix="fill in or remove the example"
        )
    if isinstance(value, bool | int | float):
        return str(value)
    kind = "None" if value is None else type(value).__name__
    raise DataError(
        f"{kind} in {field!r}",
        expected="text, a number, or a list of them",
        fix="convert the value to text, or name a part of it in the template as {field.key} or {field[0]}",
    )


def checked_text(text: str, name: str) -> str:
    """Return ``text``; raise DataError if it holds lone surrogates, which no file and no model can take."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start + 1} of {name}",
            expected="text that UTF-8 can hold",
            fix="repair the text where it was decoded, e.g. read the file as UTF-8",
        ) from None
    return text


def row_numbers(rows: Iterable[int], size: int) -> tuple[int, ...]:
    """Return row numbers as Python's own; raises SettingError unless whole numbers from 0 to size - 1."""
    numbers = tuple(rows)
    wrong = [i for i in numbers if isinstance(i, bool) or not hasattr(i, "__index__") or not 0 <= i < size]
    if wrong:
        raise SettingError(
            f"row number {wrong[0]!r:.40}",
            expected=f"whole numbers from 0 to {size - 1}",
            fix="correct the rows",
        )
    return tuple(map(operator.index, numbers))


def whole_index(value: object, field: str) -> int:
    """Return the index, from 0, that a field holds: an int, or its decimal digits as a CSV file holds them.

    Raises DataError for anything else, booleans and negative numbers included.
    """
    value = plain(value)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:20])
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(
            f"{value!r:.80} in {field!r}", expected="an index: an integer from 0", fix="store the index"
        )
    return value


def letter_of(index: int, field: str) -> str:
    """Return "A" for 0, "B" for 1, ...; raises DataError beyond "Z"."""
    if index >= len(_LETTERS):
        raise DataError(
            f"index {index} in {field!r}",
            expected=f"at most {len(_LETTERS)} choices, A to Z",
            fix="use fewer",
        )
    return _LETTERS[index]
