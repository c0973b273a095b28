"""Reading records from JSON Lines, JSON and CSV files; every refusal names the file and the place."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from icl_plugins.errors import DataError, TemplateError

JSONL_SUFFIXES = (".jsonl", ".ndjson")
JSON_SUFFIX = ".json"
CSV_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
FilePath = str | os.PathLike[str]


def read_jsonl(path: FilePath) -> list[dict[str, object]]:
    """Return the objects of a JSON Lines file in order; blank lines and a byte order mark are skipped.

    Raises DataError for a file that is missing, empty or not UTF-8, and for a line that is no JSON object.
    """
    lines = read_text(path).split("\n")  # not splitlines, which also splits at U+2028 inside JSON text
    return [_parse_line(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def read_json(path: FilePath) -> list[dict[str, object]]:
    """Return the objects of a JSON file that holds one array.

    Raises DataError for a file that is missing, empty, not UTF-8, no JSON or no array, and for an element
    that is no object.
    """
    name, expected = os.fspath(path), 'one array of objects, like [{"text": "...", "label": "..."}]'
    try:
        records = json.loads(read_text(path), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        fix = "correct it, or give it the suffix .jsonl if every line is an object"
        raise DataError(f"{name!r} is no JSON: {error}", expected=expected, fix=fix) from error
    if not isinstance(records, list):
        raise DataError(
            f"{name!r} holds {type(records).__name__}", expected=expected, fix="put the records in an array"
        )
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            got = f"element {row} of {name!r} holds {type(record).__name__}"
            raise DataError(got, expected=expected, fix="correct that element")
    return records


def _parse_line(path: FilePath, number: int, line: str) -> dict[str, object]:
    where = f"line {number} of {os.fspath(path)!r}"
    try:
        record = json.loads(line, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where} is no JSON: {error}", expected="one JSON object on each line", fix="correct that line"
        ) from error
    if not isinstance(record, dict):
        raise DataError(
            f"{where} holds {type(record).__name__}",
            expected='one JSON object on each line, like {"text": "...", "label": "..."}',
            fix="correct that line",
        )
    return record


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return record


def read_csv(
    path: FilePath, *, columns: Iterable[str] = (), delimiter: str | None = None
) -> list[dict[str, str]]:
    """Return the rows of a CSV or TSV file whose first line names the columns; all values are text.

    The delimiter is a tab for .tsv and .tab, a comma for every other name, unless given. Raises DataError for
    a file that is missing, empty or not UTF-8, for column names that repeat or lack one of ``columns``, and
    for rows of another length.
    """
    if delimiter is None:
        delimiter = CSV_DELIMITERS.get(Path(path).suffix.lower(), ",")
    rows = _csv_rows(path, delimiter)
    header = next(rows, (0, []))[1]
    missing = [name for name in columns if name not in header]
    if missing:
        raise TemplateError(
            f"no column {missing[0]!r} in the first line of {os.fspath(path)!r}",
            expected=f"one of the columns: {', '.join(map(repr, header))}",
            fix="correct the name in the template, the delimiter, or add a first line with the column names",
        )
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise DataError(
            f"column names that repeat in {os.fspath(path)!r}: {', '.join(map(repr, repeated))}",
            expected="a first line with one name for each column",
            fix="rename the columns, or add the missing header line",
        )
    return [_named(path, number, header, row) for number, row in rows]


def _named(path: FilePath, number: int, header: list[str], row: list[str]) -> dict[str, str]:
    if len(row) != len(header):
        raise DataError(
            f"{len(row)} values at line {number} of {os.fspath(path)!r}",
            expected=f"{len(header)}, one for each column: {', '.join(map(repr, header))}",
            fix="correct that line: a value with delimiters, quotes or line ends in it needs double quotes",
        )
    return dict(zip(header, row, strict=True))


def _csv_rows(path: FilePath, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not blank with the number of its first line."""
    try:
        reader = csv.reader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    except TypeError as error:
        raise DataError(
            f"delimiter={delimiter!r}", expected="one character", fix="pass one character"
        ) from error
    end = 0
    while True:
        start = end + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise _broken(path, start, str(error)) from error
        end = reader.line_num
        if row is None:
            return
        # one stray quote in a TSV file that was written without quoting would swallow rows in silence
        if delimiter == "\t" and end > start:
            raise _broken(path, start, f"a quoted value runs on to line {end}")
        if row:
            yield start, row


def _broken(path: FilePath, number: int, what: str) -> DataError:
    return DataError(
        f"line {number} of {os.fspath(path)!r}: {what}",
        expected="values with quotes, delimiters or line ends inside double quotes, inner quotes doubled",
        fix="correct that line, or save the data as JSON Lines",
    )


def read_dataset(dataset: Any) -> Iterator[Mapping[str, object]]:
    """Yield the rows of one split of Hugging Face ``datasets``; class numbers become class names.

    A class number without a name (-1 marks rows without a label) becomes None. Raises DataError for a
    dictionary of splits and for anything else without rows and features.
    """
    if isinstance(dataset, Mapping):
        raise DataError(
            f"a dictionary of splits: {', '.join(map(repr, dataset))}",
            expected="one split",
            fix=f"choose one, e.g. dataset[{next(iter(dataset), 'train')!r}]",
        )
    if not hasattr(dataset, "with_format") or not hasattr(dataset, "features"):
        raise DataError(
            f"{type(dataset).__name__} for a data set",
            expected="a Dataset of Hugging Face datasets",
            fix="pass other records to Pool.from_records",
        )
    names = {
        column: dict(enumerate(feature.names))
        for column, feature in (dataset.features or {}).items()
        if hasattr(feature, "names")
    }
    for record in dataset.with_format(None):
        yield {**record, **{column: known.get(record[column]) for column, known in names.items()}}


def read_text(path: FilePath) -> str:
    """Return the text of a file in UTF-8, with or without a mark; raises DataError, also for an empty one."""
    name = os.fspath(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read {name!r}: {error.strerror or error}",
            expected="a file that can be read",
            fix="check the path",
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"line {number} of {name!r} is not UTF-8 (byte 0x{data[error.start]:02x})",
            expected="a file in UTF-8",
            fix="convert it, e.g. iconv -f latin1 -t utf-8",
        ) from error
    if not text.strip():
        raise DataError(f"{name!r} is empty", expected="at least one record", fix="check the path")
    return text
