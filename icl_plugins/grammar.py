"""The grammar of template texts; ``Template`` says what it means."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from icl_plugins.errors import DataError, TemplateError
from icl_plugins.values import letter_of, plain, value_text, whole_index

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_NAME = r"[^{}\[\].:]+"
_FIELD = re.compile(rf"({_NAME})((?:\.{_NAME}|\[{_NAME}\])*)(:letter)?")
_STEP = re.compile(rf"([.\[])({_NAME})")


@dataclass(frozen=True)
class Field:
    """One ``{...}``: a top-level name, ``.key`` and ``[index]`` steps into its value, and its format."""

    source: str
    name: str
    steps: tuple[tuple[str, str], ...]
    as_letter: bool

    @property
    def needs(self) -> tuple[str, ...]:
        """The top-level fields that are read: the name, and fields that hold an index."""
        return (self.name, *(step for kind, step in self.steps if kind == "[" and not step.isdecimal()))

    def text(self, example: Mapping[str, object]) -> str:
        """Return the text that the example puts in this place."""
        value = _get(example, self.name, "the example")
        for kind, step in self.steps:
            value = (
                _get(value, step, f"{{{self.source}}}") if kind == "." else self._item(value, step, example)
            )
        if self.as_letter:
            return letter_of(whole_index(value, self.source), self.source)
        return value_text(value, self.source)

    def _item(self, value: object, step: str, example: Mapping[str, object]) -> object:
        index = int(step) if step.isdecimal() else whole_index(_get(example, step, "the example"), step)
        items = plain(value)
        if not isinstance(items, list):
            raise TemplateError(
                f"element [{step}] of {type(value).__name__} in {{{self.source}}}",
                expected="a list",
                fix="name the list; a part of a mapping is written {field.key}",
            )
        if index >= len(items):
            raise DataError(
                f"element {index} of a list of {len(items)} in {{{self.source}}}",
                expected="an index, from 0, inside the list",
                fix="correct the index, or leave the example out",
            )
        return items[index]


@dataclass(frozen=True)
class Part:
    """A parsed template text: n fields between n + 1 literal texts."""

    literals: tuple[str, ...]
    fields: tuple[Field, ...]

    def values(self, example: Mapping[str, object]) -> tuple[str, ...]:
        """Return the texts that the example puts in the n places."""
        return tuple(field.text(example) for field in self.fields)

    def text(self, values: tuple[str, ...]) -> str:
        """Return the literal texts with the n values between them."""
        return self.literals[0] + "".join(
            v + after for v, after in zip(values, self.literals[1:], strict=True)
        )


def _get(owner: object, key: str, owner_name: str) -> object:
    if not isinstance(owner, Mapping):
        raise TemplateError(
            f"no field {key!r} in {owner_name}: {type(owner).__name__} has no fields",
            expected="a mapping from field names to values",
            fix="correct the path in the template, or the example",
        )
    if key not in owner:
        raise TemplateError(
            f"no field {key!r} in {owner_name}",
            expected=f"one of the available fields: {', '.join(map(repr, owner)) or 'none'}",
            fix="correct the name in the template, or add the field to the example",
        )
    value: object = owner[key]
    return value


def parse(name: str, text: str) -> Part:
    """Parse the template text called ``name``; raises TemplateError with the position."""
    literals, fields, end = [""], list[Field](), 0
    for token in _TOKEN.finditer(text):
        literals[-1] += text[end : token.start()]
        end = token.end()
        if token[0] in ("{{", "}}"):
            literals[-1] += token[0][0]
        else:
            fields.append(_parse_field(name, text, token))
            literals.append("")
    literals[-1] += text[end:]
    return Part(tuple(literals), tuple(fields))


def _parse_field(name: str, text: str, token: re.Match[str]) -> Field:
    field = _FIELD.fullmatch(token[1] or "")
    if field is None:
        raise TemplateError(
            f"{text[token.start() :]!r:.40} at character {token.start() + 1} of the {name} template",
            expected="{field}, {field.key}, {field[0]}, {field[index_field]} or {field:letter}",
            fix="correct the name, or double a brace that is meant as text: {{ or }}",
        )
    return Field(token[1], field[1], tuple(_STEP.findall(field[2])), field[3] is not None)
