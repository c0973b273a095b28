"""evaluate: what one prompt does on one target."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypedDict, cast

from icl_plugins.errors import DataError, SettingError, TargetError
from icl_plugins.evaluation.answers import folded, stripped
from icl_plugins.evaluation.asking import Query
from icl_plugins.evaluation.metrics import Metric, as_metric
from icl_plugins.evaluation.predicting import Labels, Predicted, choose, write
from icl_plugins.evaluation.results import Evaluation
from icl_plugins.evaluation.store import ResultStore
from icl_plugins.evaluation.target import ScoringTarget, Target
from icl_plugins.examples import Pool
from icl_plugins.prompt import ManyShotPrompt

Choices = Sequence[str] | Sequence[Sequence[str]]


def evaluate(
    prompt: ManyShotPrompt,
    items: Pool,
    target: Target,
    *,
    metric: str | Metric | Callable[[str, str], float] = "accuracy",
    choices: Choices | None = None,
    max_tokens: int = 256,
    store: ResultStore | None = None,
    calibrate: bool = False,
    on_overlap: Literal["error", "drop"] = "error",
) -> Evaluation:
    """Ask a target about every item, read its answers, and measure them against the items' own.

    metric: a name of METRICS, a Metric, or a function (prediction, gold) -> float. choices: the answers that
    all items may have (`label_choices`), or those of each item (`item_choices`), in the template's form or
    without the space before them; None for free text. Where choices are known and the target is a
    ScoringTarget, the likeliest is the prediction (sum of log-probabilities, ties to the first); else the
    target writes at most max_tokens, and the answer is read: in layout "single" up to the template's
    separator. calibrate: take off the log-probabilities that the choices have in the same prompt with
    "N/A", "" and "[MASK]" in place of the question's fields (Zhao et al. 2021, contextual calibration).
    store: where answers are kept, and looked up before anything is asked.

    An item that is also a demonstration (the same question, case and space apart) is refused, or with
    on_overlap="drop" left out. A failed request counts as wrong and stands in `errors`. Raises SettingError
    and DataError before anything is asked, TargetError where the target does or where every request failed.
    """
    measure = as_metric(metric)
    _check(prompt, items, measure, choices, max_tokens)
    rows = _rows(prompt, items, on_overlap)
    labels = _labels(choices, len(items))
    queries = [Query(f"item {row}", items.examples[row], labels[row]) for row in rows]
    golds = _golds([items.answers[row] for row in rows], queries, measure)
    if choices is not None and isinstance(target, ScoringTarget):
        predicted = choose(prompt, target, queries, calibrate=calibrate, store=store)
    elif calibrate:
        raise SettingError(
            "calibrate without log-probabilities of choices",
            expected="choices, and a target that scores them",
            fix="pass choices, or leave calibrate out",
        )
    else:
        predicted = write(prompt, target, queries, measure.read, max_tokens=max_tokens, store=store)
    errors = _errors(predicted)
    return Evaluation(
        target=target.name,
        prompt=prompt.fingerprint,
        metric=measure.name,
        golds=golds,
        predictions=predicted.predictions,
        values=measure.values(predicted.predictions, golds),
        errors=errors,
        unparsable=predicted.predictions.count(None) - len(errors),
        reused=sum(one.reused for one in predicted.asked),
        dropped_rows=tuple(sorted(set(range(len(items))) - set(rows))),
        unreachable=_unreachable(golds, queries),
        **_spent(predicted),
    )


def _check(
    prompt: ManyShotPrompt, items: Pool, metric: Metric, choices: Choices | None, max_tokens: int
) -> None:
    shown, own = prompt.template, items.template
    if (shown.question, shown.answer) != (own.question, own.answer):
        raise SettingError(
            "items with another template than the prompt's",
            expected=f"question {shown.question!r:.80} and answer {shown.answer!r:.80}",
            fix="make the pool of items with prompt.template",
        )
    if metric.of_labels and choices is None:
        raise SettingError(
            f"{metric.name} without choices",
            expected="the labels that an answer may name",
            fix="pass choices=label_choices(pool), or a metric of free text such as exact_match",
        )
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1:
        raise SettingError(f"max_tokens={max_tokens!r}", expected="a whole number from 1", fix="pass one")


def _rows(prompt: ManyShotPrompt, items: Pool, on_overlap: str) -> list[int]:
    """Return the rows of the items that are no demonstrations."""
    if on_overlap not in ("error", "drop"):
        raise SettingError(f"on_overlap={on_overlap!r}", expected="'error' or 'drop'", fix="pass one of them")
    shown = {_plain(question) for question, _ in prompt.demonstrations}
    overlap = [row for row, question in enumerate(items.questions) if _plain(question) in shown]
    if overlap and (on_overlap == "error" or len(overlap) == len(items)):
        raise DataError(
            f"{len(overlap)} items that are also demonstrations: {_some(overlap)}",
            expected="items that the prompt does not show",
            fix='leave them out of the pool that is chosen from, or pass on_overlap="drop"',
        )
    return sorted(set(range(len(items))) - set(overlap))


def _plain(question: str) -> str:
    return " ".join(folded(question).split())


def _labels(choices: Choices | None, items: int) -> list[Labels]:
    """Return the choices of each item; empty where none are known."""
    if choices is None:
        return [()] * items
    lists = [choices] * items if _are_texts(choices) else choices
    if isinstance(choices, str) or len(lists) != items or not all(map(_are_texts, lists)):
        raise SettingError(
            f"choices={choices!r:.80} for {items} items",
            expected="a list of texts, or one such list for each item",
            fix="pass label_choices(pool) or item_choices(items)",
        )
    return [tuple(map(str, own)) for own in lists]


def _are_texts(values: object) -> bool:
    listed = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0
    return listed and all(isinstance(value, str) for value in cast(Sequence[object], values))


def _golds(answers: Sequence[str], queries: Sequence[Query], metric: Metric) -> tuple[str, ...]:
    chosen = queries[0].choices
    golds = [answer.strip() if chosen else metric.read(answer) or "" for answer in answers]
    unread = [query.name for query, gold in zip(queries, golds, strict=True) if not gold]
    if unread:
        raise DataError(
            f"{len(unread)} items whose own answer {metric.name} cannot read: {_some(unread)}",
            expected="answers that the metric is made for",
            fix="choose another metric, or correct the items",
        )
    if chosen and _unreachable(golds, queries) == len(golds):
        raise DataError(
            f"no item has one of its choices as answer, such as {golds[0]!r:.80}",
            expected=f"answers such as {queries[0].choices[0].strip()!r:.80}",
            fix="pass label_choices(pool) or item_choices(items)",
        )
    return tuple(golds)


def _unreachable(golds: Sequence[str], queries: Sequence[Query]) -> int:
    """Count golds that are none of the choices."""
    pairs = zip(golds, queries, strict=True)
    return sum(bool(query.choices) and gold not in stripped(query.choices) for gold, query in pairs)


def _errors(predicted: Predicted) -> dict[int, str]:
    asked = predicted.asked
    errors = {item: one.answer.error for item, one in enumerate(asked) if one.answer.error is not None}
    if len(errors) == len(asked):
        raise TargetError(
            f"all {len(asked)} requests failed, the first with: {errors[0]}",
            expected="answers",
            fix="mend that; the next run asks again",
        )
    return errors


class _Spent(TypedDict):
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    cost: float | None
    seconds: float


def _spent(predicted: Predicted) -> _Spent:
    """Sum tokens, cost and seconds over all requests, each once; None where nobody counted."""
    answers = {id(one.answer): one.answer for one in (*predicted.asked, *predicted.besides)}.values()
    counted = [answer.usage for answer in answers if answer.usage is not None]
    costs = [usage.cost for usage in counted if usage.cost is not None]
    return {
        "prompt_tokens": sum(usage.prompt_tokens for usage in counted) if counted else None,
        "cached_tokens": sum(usage.cached_tokens for usage in counted) if counted else None,
        "completion_tokens": sum(usage.completion_tokens for usage in counted) if counted else None,
        "cost": math.fsum(costs) if costs else None,
        "seconds": math.fsum(answer.seconds for answer in answers),
    }


def _some(names: Sequence[object]) -> str:
    return ", ".join(map(str, names[:5])) + (", ..." if len(names) > 5 else "")
