"""Pool: the ordered examples that may be chosen, with the template that renders them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from icl_plugins.artefacts import fingerprint
from icl_plugins.duplicates import DuplicateReport, find_duplicates
from icl_plugins.errors import DataError, SettingError
from icl_plugins.readers import (
    CSV_DELIMITERS,
    JSON_SUFFIX,
    JSONL_SUFFIXES,
    FilePath,
    read_csv,
    read_dataset,
    read_json,
    read_jsonl,
)
from icl_plugins.template import Template
from icl_plugins.values import plain, row_numbers, value_text

__all__ = ["Pool", "Template"]

Rendered = TypeVar("Rendered")


@dataclass(frozen=True)
class Pool:
    """The ordered examples that may be chosen; all of them are rendered and checked at construction.

    Records are copied (nested lists and mappings too, numpy values as Python's own, tuples as lists), so that
    later changes of the caller's data do not reach the pool. An iterator is consumed once.

    Raises TemplateError for a missing field, and DataError for no examples, a value that is no text and an
    empty question or answer, with the index of the example.
    """

    examples: tuple[Mapping[str, object], ...] = field(repr=False)
    template: Template
    label_field: str | None = None

    def __post_init__(self) -> None:
        """Copy, render and check everything."""
        object.__setattr__(self, "examples", _copies(self.examples))
        _refuse_empty("question", self.questions)
        _refuse_empty("answer", ("".join(values) for values in self._each(self.template.answer_values)))
        _ = self.answers, self.labels

    @classmethod
    def from_records(
        cls, records: Iterable[Mapping[str, object]], template: Template, *, label_field: str | None = None
    ) -> Self:
        """Build a pool from mappings of field names to values."""
        return cls(records, template, label_field)  # type: ignore[arg-type]  # __post_init__ makes the tuple

    @classmethod
    def from_jsonl(cls, path: FilePath, template: Template, *, label_field: str | None = None) -> Self:
        """Build a pool from a JSON Lines file; raises DataError with the number of a line that is broken."""
        return cls.from_records(read_jsonl(path), template, label_field=label_field)

    @classmethod
    def from_csv(
        cls,
        path: FilePath,
        template: Template,
        *,
        label_field: str | None = None,
        delimiter: str | None = None,
    ) -> Self:
        """Build a pool from a CSV or TSV file whose first line names the columns; all values are text.

        The delimiter is a tab for .tsv and .tab and a comma otherwise, unless given.
        """
        columns = (*template.fields, *filter(None, [label_field]))
        rows = read_csv(path, columns=columns, delimiter=delimiter)
        return cls.from_records(rows, template, label_field=label_field)

    @classmethod
    def from_dataset(cls, dataset: Any, template: Template, *, label_field: str | None = None) -> Self:
        """Build a pool from one split of Hugging Face ``datasets``; class numbers become class names."""
        return cls.from_records(read_dataset(dataset), template, label_field=label_field)

    @classmethod
    def from_file(cls, path: FilePath, template: Template, *, label_field: str | None = None) -> Self:
        """Build a pool from a file by its suffix: .jsonl, .ndjson, .json (one array), .csv, .tsv or .tab."""
        suffix = Path(path).suffix.lower()
        if suffix in JSONL_SUFFIXES:
            return cls.from_jsonl(path, template, label_field=label_field)
        if suffix == JSON_SUFFIX:
            return cls.from_records(read_json(path), template, label_field=label_field)
        if suffix in CSV_DELIMITERS:
            return cls.from_csv(path, template, label_field=label_field)
        raise DataError(
            f"a file with the suffix {suffix!r}: {str(path)!r}",
            expected=f"one of {', '.join((*JSONL_SUFFIXES, JSON_SUFFIX, *CSV_DELIMITERS))}",
            fix="convert the file",
        )

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.examples)

    def __iter__(self) -> Iterator[Mapping[str, object]]:
        """Iterate over the examples in order."""
        return iter(self.examples)

    @cached_property
    def questions(self) -> tuple[str, ...]:
        """The rendered questions."""
        return self._each(self.template.render_question)

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """The rendered answers, leading and trailing space kept."""
        return self._each(self.template.render_answer)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The label of each example: the text of ``label_field`` if named, else its answer; stripped."""
        name = self.label_field
        if name is None:
            return tuple(answer.strip() for answer in self.answers)
        return self._each(lambda example: _label(example, name))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The rendered demonstrations: question and answer, no separator."""
        return tuple(question + answer for question, answer in zip(self.questions, self.answers, strict=True))

    @cached_property
    def row_fingerprints(self) -> tuple[str, ...]:
        """The sha256 of each rendered question and answer, and of where one ends and the other begins."""
        return tuple(fingerprint(*pair) for pair in zip(self.questions, self.answers, strict=True))

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 over all rendered texts in order, the template, and the labels if a field is named."""
        template = (self.template.question, self.template.answer, self.template.separator)
        labels = () if self.label_field is None else (self.label_field, *self.labels)
        return fingerprint("pool", *template, *self.row_fingerprints, "labels", *labels)

    @cached_property
    def label_counts(self) -> dict[str, int]:
        """The number of examples of each label, in order of first appearance."""
        return dict(Counter(self.labels))

    def subset(self, indices: Iterable[int]) -> Self:
        """Return the pool of the examples at ``indices``, in that order; raises SettingError out of range."""
        return type(self)(
            tuple(self.examples[row] for row in row_numbers(indices, len(self))),
            self.template,
            self.label_field,
        )

    def duplicates(self) -> DuplicateReport:
        """Report examples that say the same thing or contradict each other; nothing is removed."""
        return self._duplicates

    @cached_property
    def _duplicates(self) -> DuplicateReport:
        return find_duplicates(self.row_fingerprints, self._each(self.template.question_values), self.labels)

    def without_duplicates(
        self, how: Literal["none", "exact", "normalised"] = "exact", *, drop_conflicting: bool = False
    ) -> Self:
        """Return the pool with only the first example of each group of duplicates.

        ``drop_conflicting`` removes all examples of each conflicting group first, since none of their labels
        can be trusted more than another; ``how="none"`` removes nothing else. Raises SettingError for another
        ``how``, DataError if none is left.
        """
        return self.subset(self.distinct_rows(how, drop_conflicting=drop_conflicting))

    def distinct_rows(
        self, how: Literal["none", "exact", "normalised"] = "exact", *, drop_conflicting: bool = False
    ) -> tuple[int, ...]:
        """Return the rows that ``without_duplicates`` keeps, in ascending order."""
        if how not in ("none", "exact", "normalised"):
            raise SettingError(
                f"how={how!r}", expected="'none', 'exact' or 'normalised'", fix="pass one of them"
            )
        report = self.duplicates()
        groups = () if how == "none" else getattr(report, how)
        dropped = {row for group in groups for row in group[1:]}
        if drop_conflicting:
            dropped.update(row for group in report.conflicting for row in group)
        return tuple(row for row in range(len(self)) if row not in dropped)

    def _each(self, render: Callable[[Mapping[str, object]], Rendered]) -> tuple[Rendered, ...]:
        """Render every example; an error gets the index of its example."""
        rendered = []
        for row, example in enumerate(self.examples):
            try:
                rendered.append(render(example))
            except DataError as error:
                got = f"example {row}: {error.got}"
                raise type(error)(got, expected=error.expected, fix=error.fix) from None
        return tuple(rendered)


def _copies(records: Iterable[object]) -> tuple[Mapping[str, object], ...]:
    if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
        raise DataError(
            f"records of type {type(records).__name__}",
            expected="a list of mappings",
            fix="put them in a list",
        )
    examples = tuple(_copy(row, record) for row, record in enumerate(records))
    if not examples:
        raise DataError(
            "no examples", expected="at least one example", fix="check where the records come from"
        )
    return examples


def _copy(row: int, record: object) -> Mapping[str, object]:
    if not isinstance(record, Mapping) or not all(isinstance(name, str) for name in record):
        raise DataError(
            f"example {row} is {record!r:.80} ({type(record).__name__})",
            expected="a mapping from field names (text) to values",
            fix='pass a list of mappings; of a data frame that is frame.to_dict("records")',
        )
    try:
        return {name: plain(value) for name, value in record.items()}
    except RecursionError:
        raise DataError(
            f"example {row} is nested too deeply or holds itself",
            expected="a mapping from field names to values",
            fix="leave out that field",
        ) from None


def _label(example: Mapping[str, object], name: str) -> str:
    if name not in example:
        raise DataError(
            f"no label field {name!r}",
            expected=f"one of the available fields: {', '.join(map(repr, example))}",
            fix="correct label_field, or leave it out to use the answer as the label",
        )
    return value_text(example[name], name).strip()


def _refuse_empty(part: str, texts: Iterable[str]) -> None:
    empty = [row for row, text in enumerate(texts) if not text.strip()]
    if empty:
        raise DataError(
            f"{len(empty)} of the examples with an empty {part}: {', '.join(map(str, empty[:5]))}"
            + (", ..." if len(empty) > 5 else ""),
            expected=f"text in every {part}",
            fix="fill them in or leave these examples out",
        )
