"""ManyShotPrompt: the frozen artefact made of a selection."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

from icl_plugins.artefacts import atomic_write, canonical_json, fingerprint
from icl_plugins.errors import ArtefactError, DataError, SettingError
from icl_plugins.readers import FilePath
from icl_plugins.template import Template
from icl_plugins.values import checked_text

Layout = Literal["turns", "single", "json"]

_KIND = "icl_plugins.ManyShotPrompt"
_SCHEMA = 1


@dataclass(frozen=True)
class ManyShotPrompt:
    """A fixed prompt: the same bytes before every query, so that the provider's prefix cache pays for them.

    ``demonstrations``: (question, answer) as rendered, in order. ``examples``: the fields each was rendered
    from. ``provenance``: how the demonstrations were chosen. The last two are copied as JSON would hold them.

    Raises DataError for what is no text or what JSON cannot hold, SettingError if there is not one example
    for each demonstration.
    """

    template: Template
    demonstrations: tuple[tuple[str, str], ...] = field(repr=False)
    examples: tuple[Mapping[str, object], ...] = field(repr=False, hash=False)
    instruction: str = ""
    provenance: Mapping[str, object] = field(default_factory=dict, repr=False, hash=False)

    def __post_init__(self) -> None:
        """Copy and check everything."""
        _checked("the instruction", self.instruction)
        demonstrations = tuple(
            (_checked(f"question {i}", question), _checked(f"answer {i}", answer))
            for i, (question, answer) in enumerate(self.demonstrations)
        )
        if len(self.examples) != len(demonstrations):
            raise SettingError(
                f"{len(self.examples)} examples for {len(demonstrations)} demonstrations",
                expected="one for each",
                fix="pass the fields that each demonstration was rendered from",
            )
        object.__setattr__(self, "demonstrations", demonstrations)
        object.__setattr__(self, "examples", tuple(json.loads(canonical_json(self.examples))))
        object.__setattr__(self, "provenance", json.loads(canonical_json(self.provenance)))

    @cached_property
    def prefix(self) -> str:
        """All that stands before the query: instruction and demonstrations, a separator after each."""
        parts = [self.instruction] if self.instruction else []
        parts += [question + answer for question, answer in self.demonstrations]
        return "".join(part + self.template.separator for part in parts)

    def text(self, fields: Mapping[str, object]) -> str:
        """Return one string for completion models: the prefix, then the query's question.

        The target continues right after the question, so the space between question and answer belongs to one
        of the two templates only: with ``question="...:"`` and ``answer=" {label}"`` the model writes the
        space itself, as in the demonstrations, and the caller strips it. A question that ends in a space
        splits into other tokens at that seam than the demonstrations do.

        Only the question's fields are needed; raises TemplateError for a missing one.
        """
        return self.prefix + self.template.render_question(fields)

    def messages(self, fields: Mapping[str, object], layout: Layout = "turns") -> list[dict[str, str]]:
        """Return chat messages as {"role", "content"}, the query last and all before it the same every time.

        "turns": the instruction, if any, as system message, then one user and one assistant message for each
        demonstration, answers without leading space. "single": one user message that holds ``text``. "json":
        a system message of the instruction and a JSON array of {"question", "answer"}, one on each line, then
        the query as user message. Raises SettingError for another layout, TemplateError for a missing field.
        """
        if layout == "single":
            return [_message("user", self.text(fields))]
        if layout not in ("turns", "json"):
            expected = "'turns', 'single' or 'json'"
            raise SettingError(f"layout={layout!r}", expected=expected, fix="pass one of them")
        query = _message("user", self.template.render_question(fields))
        if layout == "json":
            return [_message("system", self._json_block), query]
        messages = [_message("system", self.instruction)] if self.instruction else []
        for question, answer in self.demonstrations:
            messages += [_message("user", question), _message("assistant", answer.lstrip())]
        return [*messages, query]

    @cached_property
    def _json_block(self) -> str:
        shots = (
            {"question": question, "answer": answer.lstrip()} for question, answer in self.demonstrations
        )
        lines = ",\n".join(json.dumps(shot, ensure_ascii=False) for shot in shots)
        return (self.instruction and self.instruction + self.template.separator) + f"[\n{lines}\n]"

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of all that decides what a target reads: instruction, template and demonstrations."""
        template = (self.template.question, self.template.answer, self.template.separator)
        return fingerprint(
            "prompt", self.instruction, *template, *(t for pair in self.demonstrations for t in pair)
        )

    def save(self, path: FilePath) -> None:
        """Write the prompt as JSON, all or nothing; equal prompts give equal bytes. Raises ArtefactError."""
        body = self._body()
        atomic_write(path, canonical_json({**body, "checksum": _checksum(body)}, indent=1) + "\n")

    def _body(self) -> dict[str, object]:
        pairs = zip(self.demonstrations, self.examples, strict=True)
        return {
            "kind": _KIND,
            "schema": _SCHEMA,
            "fingerprint": self.fingerprint,
            "instruction": self.instruction,
            "template": {name: getattr(self.template, name) for name in ("question", "answer", "separator")},
            "demonstrations": [
                {"question": question, "answer": answer, "example": example}
                for (question, answer), example in pairs
            ],
            "provenance": self.provenance,
        }

    @classmethod
    def load(cls, path: FilePath) -> Self:
        """Read a saved prompt; raises ArtefactError for a damaged file, another kind, or a newer version."""
        content = _read(path)
        _check_kind(path, content)
        try:
            checksum = content.pop("checksum")
            demonstrations = content["demonstrations"]
            prompt = cls(
                template=Template(**content["template"]),
                demonstrations=tuple((shot["question"], shot["answer"]) for shot in demonstrations),
                examples=tuple(shot["example"] for shot in demonstrations),
                instruction=content["instruction"],
                provenance=content["provenance"],
            )
            # comparing with what save would write also finds fields that were added or left out
            unchanged = canonical_json(content) == canonical_json(prompt._body())
            intact = unchanged and checksum == _checksum(content)
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            _refuse(path, f"is damaged: {type(error).__name__}: {error}", error)
        if not intact:
            _refuse(path, "is damaged or was edited: its checksum does not match its content")
        return prompt


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _checked(name: str, text: object) -> str:
    if not isinstance(text, str):
        raise DataError(f"{type(text).__name__} for {name}", expected="text", fix="pass text")
    return checked_text(text, name)


def _checksum(body: Mapping[str, object]) -> str:
    return fingerprint(canonical_json(body))


def _read(path: FilePath) -> Any:
    try:
        return json.loads(Path(path).read_bytes().decode("utf-8"))
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror or error}", error)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"is no JSON: {error}", error)


def _check_kind(path: FilePath, content: object) -> None:
    kind = content.get("kind") if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or kind != _KIND:
        _refuse(path, f"is of another kind: {kind!r:.80}")
    schema = content.get("schema")
    if type(schema) is int and schema > _SCHEMA:
        raise ArtefactError(
            f"{str(path)!r} has schema version {schema}",
            expected=f"at most {_SCHEMA}",
            fix="upgrade icl-plugins to read it",
        )
    if schema != _SCHEMA:
        _refuse(path, f"has an unknown schema version: {schema!r:.80}")


def _refuse(path: FilePath, what: str, cause: Exception | None = None) -> NoReturn:
    raise ArtefactError(
        f"{str(path)!r} {what}",
        expected="a file as ManyShotPrompt.save wrote it",
        fix="check the path, restore the file, or make the prompt again from its selection",
    ) from cause
