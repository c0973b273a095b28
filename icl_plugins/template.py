"""Template: how an example becomes a question text and an answer text."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from icl_plugins.errors import DataError, TemplateError
from icl_plugins.grammar import Part, parse
from icl_plugins.values import checked_text


@dataclass(frozen=True)
class Template:
    """How an example becomes a question text and an answer text.

    Grammar: ``{field}``; ``{{`` and ``}}`` for a brace; ``{answers.text[0]}`` for a part of a nested value;
    a list as ``{choices}`` gives "(A) first (B) second"; ``{choices[answer]}`` is the element of ``choices``
    at the index, from 0, in the field ``answer``; ``{answer:letter}`` is that index as A, B, ... Z.
    Values go in literally and once: what the data holds is never read as a template.
    ``separator`` stands between demonstrations and is no part of any of them.

    Raises TemplateError when malformed, with the position, or when question or answer uses no field.
    """

    question: str
    answer: str
    separator: str = "\n\n"

    def __post_init__(self) -> None:
        """Parse and check both texts."""
        for name in ("question", "answer", "separator"):
            _check_text(name, getattr(self, name))
        for name, part in (("question", self._question), ("answer", self._answer)):
            if not part.fields:
                raise TemplateError(
                    f"no field in the {name} template {getattr(self, name)!r}",
                    expected="at least one {field}, else all examples look the same",
                    fix="name a field of the examples in braces",
                )

    @cached_property
    def _question(self) -> Part:
        return parse("question", self.question)

    @cached_property
    def _answer(self) -> Part:
        return parse("answer", self.answer)

    @property
    def fields(self) -> tuple[str, ...]:
        """The top-level field names that a demonstration needs, in order of first use."""
        used = (name for field in (*self._question.fields, *self._answer.fields) for name in field.needs)
        return tuple(dict.fromkeys(used))

    @property
    def places(self) -> tuple[frozenset[str], frozenset[str]]:
        """What stands in the braces of question and answer: templates with the same take the same values."""
        question, answer = (
            frozenset(field.source for field in part.fields) for part in (self._question, self._answer)
        )
        return question, answer

    @property
    def question_fields(self) -> tuple[str, ...]:
        """The top-level field names that a query needs, in order of first use."""
        return tuple(dict.fromkeys(name for field in self._question.fields for name in field.needs))

    def question_values(self, example: Mapping[str, object]) -> tuple[str, ...]:
        """Return the texts that the data puts into the question, without the template's own text."""
        return self._question.values(example)

    def answer_values(self, example: Mapping[str, object]) -> tuple[str, ...]:
        """Return the texts that the data puts into the answer, without the template's own text."""
        return self._answer.values(example)

    def render_question(self, example: Mapping[str, object]) -> str:
        """Return the question text; only the question's fields are needed.

        Raises TemplateError for a missing field and DataError for a value that is no text.
        """
        return self._question.text(self._question.values(example))

    def render_answer(self, example: Mapping[str, object]) -> str:
        """Return the answer text, leading and trailing space kept; raises as ``render_question`` does."""
        return self._answer.text(self._answer.values(example))

    def write_answer(self, values: tuple[str, ...]) -> str:
        """Return the answer text with these texts, one for each field, in place of those of the data."""
        return self._answer.text(values)

    def render(self, example: Mapping[str, object]) -> str:
        """Return the demonstration: question and answer, no separator."""
        return self.render_question(example) + self.render_answer(example)


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str) or not text:
        raise TemplateError(f"{name}={text!r}", expected="non-empty text", fix=f"pass text as {name}")
    try:
        checked_text(text, name)
    except DataError as error:
        raise TemplateError(error.got, expected=error.expected, fix=error.fix) from None
