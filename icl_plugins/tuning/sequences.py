"""A many-shot sequence: whole examples, one behind the other, and how much each token's prediction counts."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from icl_plugins.errors import DataError, SettingError
from icl_plugins.proxy.encoding import TextEncoder
from icl_plugins.selectors._settings import check_choice, check_real
from icl_plugins.template import Template


@dataclass(frozen=True)
class Shown:
    """The examples of a sequence in their order; factors: what the loss of each answer is multiplied by."""

    questions: list[str]
    answers: list[str]
    template: Template
    factors: list[float]

    def first(self, count: int) -> "Shown":
        """Return so many of the examples, from the first."""
        return replace(
            self,
            questions=self.questions[:count],
            answers=self.answers[:count],
            factors=self.factors[:count],
        )


@dataclass(frozen=True)
class Sequence:
    """Tokens of one task, or of a piece of plain text, which has no answers.

    ids: (L,). answers: (start, stop) of each answer's tokens. ends: the number of tokens up to the end of
    each example, its separator included. factors: as in Shown. task: its name, "" for plain text.
    """

    ids: list[int]
    answers: tuple[tuple[int, int], ...] = ()
    ends: tuple[int, ...] = ()
    factors: tuple[float, ...] = ()
    task: str = ""


@dataclass(frozen=True)
class Weighting:
    """Which predictions count, and how much (arXiv 2506.11103).

    targets: "all" answers of the context; the "last" one alone; or all the "text", questions too. unit: what
    counts the same: every "token" of the answers, as in the mean that trainers take, or every "answer",
    however long. ends: whether the token behind an answer is learnt with it, so that the model stops there.
    positions: weights of the answers by the number of examples in front of them, from 0; the last one holds
    for all that follow; neither it nor unit is there for "text". text: weight of the mean loss of plain text,
    against the mean loss of the answers. Raises SettingError for what cannot be.
    """

    targets: Literal["all", "last", "text"] = "all"
    unit: Literal["token", "answer"] = "token"
    ends: bool = True
    positions: tuple[float, ...] = (1.0,)
    text: float = 0.1

    def __post_init__(self) -> None:
        """Check all of it."""
        check_choice("targets", self.targets, ("all", "last", "text"))
        check_choice("unit", self.unit, ("token", "answer"))
        check_real("text", self.text)
        for weight in self.positions:
            check_real("positions", weight)
        if not any(self.positions):
            raise SettingError(
                f"positions={self.positions!r}", expected="at least one weight above 0", fix="pass one"
            )

    def of(self, sequence: Sequence) -> np.ndarray:
        """Return (L,) float32: the weight of the prediction of each token, 0 where nothing is learnt.

        Nothing stands in front of the first token, which is therefore never learnt.
        """
        weights = np.zeros(len(sequence.ids), dtype=np.float32)
        if not sequence.answers or self.targets == "text":
            weights[1:] = max(sequence.factors, default=1.0)
            return weights
        first = len(sequence.answers) - 1 if self.targets == "last" else 0
        for shots, (start, stop) in enumerate(sequence.answers[first:], first):
            stop = min(stop + self.ends, len(weights))
            share = 1.0 if self.unit == "token" else 1.0 / (stop - start)
            weight = self.positions[min(shots, len(self.positions) - 1)]
            weights[start:stop] = sequence.factors[shots] * weight * share
        weights[:1] = 0.0
        return weights


def encode(encoder: TextEncoder, shown: Shown, limit: int, task: str = "") -> Sequence | None:
    """Tokenize as many of the examples, from the first on, as fit the limit whole; None where not one does.

    The text is tokenized in one piece, as it is where the model reads a prompt, with the tokens that the
    tokenizer puts in front (BOS). A token belongs to an answer when it covers one of its characters. Raises
    DataError for an answer without a token.
    """
    count = len(shown.questions)
    while count:
        sequence = _encode(encoder, shown.first(count), task)
        if len(sequence.ids) <= limit:
            return sequence
        count = min(count - 1, sum(end <= limit for end in sequence.ends))
    return None


def _encode(encoder: TextEncoder, shown: Shown, task: str) -> Sequence:
    separator = shown.template.separator
    pairs = list(zip(shown.questions, shown.answers, strict=True))
    ids, spans = encoder.tokenize(["".join(q + a + separator for q, a in pairs)])[0]
    while not spans[-1][1]:  # what the tokenizer puts behind a text
        ids, spans = ids[:-1], spans[:-1]
    begun, reached = np.array(spans).T
    ends = np.cumsum([len(q) + len(a) + len(separator) for q, a in pairs])
    stops = ends - len(separator)
    starts = stops - [len(a) for _, a in pairs]
    first = np.searchsorted(reached, starts, side="right")
    last = np.searchsorted(begun, stops, side="left")
    if (last <= first).any():
        answer = pairs[int((last <= first).argmax())][1]
        raise DataError(
            f"task {task!r}: the answer {answer!r:.40} has no tokens",
            expected="an answer of at least one token in every example",
            fix="remove these examples or complete their answers",
        )
    return Sequence(
        ids,
        tuple(zip(first.tolist(), last.tolist(), strict=True)),
        tuple(np.searchsorted(begun, ends, side="left").tolist()),
        tuple(shown.factors),
        task,
    )
