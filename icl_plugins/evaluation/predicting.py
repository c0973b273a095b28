"""Predictions of one prompt on one target: the likeliest choice, or what a written answer says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax, logsumexp

from icl_plugins.errors import TargetError
from icl_plugins.evaluation.answers import continued, read_label
from icl_plugins.evaluation.asking import Asked, Prompt, Query, ask
from icl_plugins.evaluation.golds import Labels
from icl_plugins.evaluation.metrics import Array
from icl_plugins.evaluation.store import ResultStore
from icl_plugins.evaluation.target import Target

_CONTENT_FREE = ("N/A", "", "[MASK]")


@dataclass(frozen=True)
class Predicted:
    """Predictions (N,), None where there is none; what was asked for each (N,), and what besides."""

    predictions: tuple[str | None, ...]
    asked: tuple[Asked, ...]
    besides: tuple[Asked, ...] = ()


def choose(
    prompt: Prompt,
    target: Target,
    queries: Sequence[Query],
    *,
    calibrate: bool,
    store: ResultStore | None,
) -> Predicted:
    """Let a ScoringTarget choose one of the choices of each query; ties go to the first.

    The choices go to the target as they continue the request. calibrate: as `evaluate` says.
    """
    sent = [
        Query(query.name, query.fields, continued(query.choices, prompt.template, target.layout))
        for query in queries
    ]
    free = _content_free(prompt, sent) if calibrate else []
    besides = ask(prompt, target, free, max_tokens=None, store=store) if free else []
    priors = _priors(free, besides)
    asked = ask(prompt, target, sent, max_tokens=None, store=store)
    predictions = tuple(
        None
        if one.answer.scores is None
        else query.choices[_likeliest(one.answer.scores, priors.get(to.choices))].strip()
        for query, to, one in zip(queries, sent, asked, strict=True)
    )
    return Predicted(predictions, tuple(asked), tuple(besides))


def write(
    prompt: Prompt,
    target: Target,
    queries: Sequence[Query],
    read: Callable[[str], str | None],
    *,
    max_tokens: int,
    store: ResultStore | None,
) -> Predicted:
    """Let the target write an answer to each query, and read it: the choice that it names, or by `read`."""
    sent = [Query(query.name, query.fields) for query in queries]
    asked = ask(prompt, target, sent, max_tokens=max_tokens, store=store)
    end = prompt.template.separator if target.layout == "single" else None
    predictions = tuple(
        None if one.answer.text is None else _read(one.answer.text, end, query.choices, read)
        for query, one in zip(queries, asked, strict=True)
    )
    return Predicted(predictions, tuple(asked))


def _likeliest(scores: Sequence[float], prior: Array | None) -> int:
    """Return the choice with the highest score above its prior; one that is impossible stays so."""
    above = np.array(scores)
    if prior is not None:
        np.subtract(above, prior, out=above, where=np.isfinite(above))
    return int(above.argmax())


def _read(text: str, end: str | None, choices: Labels, read: Callable[[str], str | None]) -> str | None:
    if end is not None:  # behind it a model that continues text makes up the next demonstration
        text = text.lstrip().partition(end)[0]
    return read_label(text, choices) if choices else read(text)


def _content_free(prompt: Prompt, queries: Sequence[Query]) -> list[Query]:
    """Return the content-free inputs for each list of choices, in the order of _CONTENT_FREE."""
    fields = prompt.template.question_fields
    return [
        Query(f"the content-free input {text!r}", dict.fromkeys(fields, text), choices)
        for choices in dict.fromkeys(query.choices for query in queries)
        for text in _CONTENT_FREE
    ]


def _priors(queries: Sequence[Query], asked: Sequence[Asked]) -> Mapping[Labels, Array]:
    """Return, for each list of choices, log of their mean probability (C,) given content-free inputs."""
    scores: dict[Labels, list[tuple[float, ...]]] = {}
    for query, one in zip(queries, asked, strict=True):
        if one.answer.scores is None:
            raise TargetError(
                f"no log-probabilities for {query.name}: {one.answer.error}",
                expected="an answer to each content-free input",
                fix="run again, or leave calibrate out",
            )
        scores.setdefault(query.choices, []).append(one.answer.scores)
    return {
        choices: logsumexp(log_softmax(np.array(rows), axis=1), axis=0) - np.log(len(rows))
        for choices, rows in scores.items()
    }
