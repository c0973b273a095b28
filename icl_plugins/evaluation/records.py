"""What the result store keeps: an answer, and all that it depends on."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np

from icl_plugins.artefacts import canonical_json, fingerprint
from icl_plugins.evaluation.target import Answer, Usage

COLUMNS = "text, scores, error, prompt_tokens, completion_tokens, cached_tokens, cost, seconds"


@dataclass(frozen=True)
class Conditions:
    """What an answer depends on besides its item.

    target, prompt: fingerprints. kind: what was asked for. settings: of the request, as canonical JSON.
    prefix: what stands before every query, for people who look into the file.
    """

    target: str
    prompt: str
    layout: str
    kind: Literal["generate", "score"]
    settings: str
    prefix: str

    @property
    def values(self) -> tuple[str, ...]:
        """The six texts, the prefix last."""
        return tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of all of it."""
        return fingerprint(*self.values)


@dataclass(frozen=True)
class Item:
    """What differs between requests: the query's text and the choices, none for a generated answer."""

    query: str
    choices: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, str]:
        """The query, and the choices as JSON."""
        return self.query, canonical_json(self.choices)

    @cached_property
    def hashes(self) -> tuple[str, str]:
        """The sha256 of the query and of the choices."""
        return fingerprint(self.query), _hash(self.choices)


@lru_cache(maxsize=1024)
def _hash(choices: tuple[str, ...]) -> str:
    return fingerprint("choices", *choices)


def columns_of(answer: Answer) -> tuple[object, ...]:
    """Return an answer as the eight columns of COLUMNS."""
    scores = None if answer.scores is None else np.array(answer.scores, "<f8").tobytes()
    counts = (None,) * 4 if answer.usage is None else _counts(answer.usage)
    return (answer.text, scores, answer.error, *counts, float(answer.seconds))


def _counts(usage: Usage) -> tuple[object, ...]:
    cost = None if usage.cost is None else float(usage.cost)
    return (int(usage.prompt_tokens), int(usage.completion_tokens), int(usage.cached_tokens), cost)


def answer_of(columns: Sequence[Any]) -> Answer | None:
    """Return the answer that the columns hold, None for a failure."""
    text, scores, error, *counts, seconds = columns
    if error is not None:
        return None
    usage = None if counts[0] is None else Usage(*counts)
    numbers = None if scores is None else tuple(np.frombuffer(scores, "<f8").tolist())
    return Answer(text, numbers, usage=usage, seconds=seconds)


def checksum_of(conditions: Conditions, item: Item, columns: Sequence[object]) -> int:
    """Return the CRC of an answer and of what it answers, so that a wrong link shows as well."""
    return zlib.crc32(repr((conditions.fingerprint, item.hashes, *columns)).encode())
