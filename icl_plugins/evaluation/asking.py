"""Asking: every request of an evaluation once, and nothing that the store knows."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from secrets import SystemRandom
from typing import NamedTuple, TypeAlias, cast

from icl_plugins.artefacts import canonical_json
from icl_plugins.errors import TargetError, TooLongError
from icl_plugins.evaluation.records import Conditions, Item
from icl_plugins.evaluation.store import ResultStore
from icl_plugins.evaluation.target import Answer, OnAnswer, ScoringTarget, Target
from icl_plugins.progress import tell_progress
from icl_plugins.prompt import ManyShotPrompt
from icl_plugins.selectors.hybrid_prompt import HybridPrompt

Prompt: TypeAlias = ManyShotPrompt | HybridPrompt

_BATCH = 64


@dataclass(frozen=True)
class Query:
    """One request: its name in errors, the fields of the question, the choices as they continue it.

    Without choices the answer is generated.
    """

    name: str
    fields: Mapping[str, object]
    choices: tuple[str, ...] = ()


class Asked(NamedTuple):
    """An answer, and whether it came from the store."""

    answer: Answer
    reused: bool


def ask(
    prompt: Prompt,
    target: Target,
    queries: Sequence[Query],
    *,
    max_tokens: int | None,
    store: ResultStore | None,
) -> list[Asked]:
    """Answer every query; equal ones share one answer, the same object.

    max_tokens: of a generated answer, None where a ScoringTarget scores choices. Requests go out in batches.
    With a store these come in random order, and what another run has answered in the meantime is not
    asked again, so that two runs on one store share the work. An answer that is not what was asked for
    becomes an error of its query. Raises what the target raises.
    """
    items = [Item(_own_text(prompt, query), query.choices) for query in queries]
    of_item = dict(zip(items, queries, strict=True))
    conditions = _conditions(prompt, target, queries[0], max_tokens)
    asked = _stored(store, conditions, of_item)
    batches = _batches([item for item in of_item if item not in asked], shuffled=store is not None)
    for batch in batches:
        asked.update(_stored(store, conditions, batch))
        missing = [item for item in batch if item not in asked]

        def keep(index: int, answer: Answer, missing: list[Item] = missing) -> None:
            item = missing[index]
            asked[item] = Asked(_checked(answer, item.choices), reused=False)
            if store is not None:
                store.keep(conditions, item, asked[item].answer)
            tell_progress("answers", len(asked), len(of_item))

        for index, answer in enumerate(
            _send(prompt, target, [of_item[i] for i in missing], max_tokens, keep)
        ):
            if missing[index] not in asked:  # a target that did not tell
                keep(index, answer)
    return [asked[item] for item in items]


def _own_text(prompt: Prompt, query: Query) -> str:
    """Return what of a request is the query's own: a hybrid's nearest demonstrations belong to it."""
    if isinstance(prompt, HybridPrompt):
        return prompt.tail(query.fields)
    return prompt.template.render_question(query.fields)


def _stored(store: ResultStore | None, conditions: Conditions, items: Iterable[Item]) -> dict[Item, Asked]:
    if store is None:
        return {}
    found = ((item, store.answer(conditions, item)) for item in items)
    return {item: Asked(answer, reused=True) for item, answer in found if answer is not None}


def _conditions(prompt: Prompt, target: Target, query: Query, max_tokens: int | None) -> Conditions:
    fixed = prompt.fixed if isinstance(prompt, HybridPrompt) else prompt
    before = fixed.messages(query.fields, target.layout)[:-1]
    return Conditions(
        target=target.fingerprint,
        prompt=prompt.fingerprint,
        layout=target.layout,
        kind="score" if max_tokens is None else "generate",
        settings=canonical_json({} if max_tokens is None else {"max_tokens": max_tokens}),
        prefix=prompt.prefix if target.layout == "single" else canonical_json(before),
    )


def _batches(items: list[Item], *, shuffled: bool) -> list[list[Item]]:
    batches = [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
    if shuffled:
        SystemRandom().shuffle(batches)
    return batches


def _send(
    prompt: Prompt, target: Target, queries: Sequence[Query], max_tokens: int | None, keep: OnAnswer
) -> list[Answer]:
    if not queries:
        return []
    requests = [prompt.messages(query.fields, target.layout) for query in queries]
    try:
        if max_tokens is not None:
            answers = target.generate(requests, max_tokens=max_tokens, on_answer=keep)
        else:
            choices = [query.choices for query in queries]
            answers = cast(ScoringTarget, target).score(requests, choices, on_answer=keep)
    except TooLongError as error:
        names = ", ".join(query.name for query in queries)
        got = f"{error.got}, where the requests are {names}"
        raise TooLongError(got, expected=error.expected, fix=error.fix) from error
    if len(answers) != len(queries):
        raise TargetError(
            f"{len(answers)} answers for {len(queries)} requests",
            expected="one for each",
            fix="mend the target",
        )
    return answers


def _checked(answer: Answer, choices: tuple[str, ...]) -> Answer:
    """Return the answer; with an error in it, and nothing else, where it is not what was asked for."""
    fault = answer.error or (
        _score_fault(answer.scores, len(choices)) if choices else _text_fault(answer.text)
    )
    if fault is None:
        return answer
    return replace(answer, text=None, scores=None, error=fault.encode("utf-8", "replace").decode())


def _score_fault(scores: tuple[float, ...] | None, choices: int) -> str | None:
    if scores is None or len(scores) != choices:
        return f"{len(scores or ())} log-probabilities for {choices} choices"
    if any(math.isnan(score) or score == math.inf for score in scores) or max(scores) == -math.inf:
        return "log-probabilities that are not finite"
    return None


def _text_fault(text: object) -> str | None:
    if not isinstance(text, str):
        return f"{type(text).__name__} instead of text"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "text with a lone surrogate, which UTF-8 cannot hold"
    return None
