"""evaluate: what one prompt does on one target."""

import math
from collections.abc import Callable, Iterator
from typing import Literal, TypedDict

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.duplicates import plain_text
from icl_plugins.errors import DataError, SettingError, TargetError
from icl_plugins.evaluation.asking import Prompt, Query
from icl_plugins.evaluation.golds import Choices, golds_of, labels_of, some_items, unreachable
from icl_plugins.evaluation.metrics import Metric, as_metric
from icl_plugins.evaluation.predicting import Predicted, choose, write
from icl_plugins.evaluation.results import Evaluation
from icl_plugins.evaluation.store import ResultStore
from icl_plugins.evaluation.target import ScoringTarget, Target
from icl_plugins.examples import Pool
from icl_plugins.selectors.hybrid_prompt import HybridPrompt


def evaluate(
    prompt: Prompt,
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

    prompt: the same for every item, or a hybrid, which adds what is nearest to each. metric: a name of
    METRICS, a Metric, or a function (prediction, gold) -> float. choices: the answers that all items may have
    (`label_choices`), or those of each item (`item_choices`), in the template's form or without the space
    before them; None for free text. Where choices are known and the target is a
    ScoringTarget, the likeliest is the prediction (sum of log-probabilities, ties to the first; see
    `answers.continued` for choices of which one is the beginning of another); else the
    target writes at most max_tokens, and the answer is read: in layout "single" up to the template's
    separator. calibrate: take off the log-probabilities that the choices have in the same prompt with
    "N/A", "" and "[MASK]" in place of the question's fields (Zhao et al. 2021, contextual calibration).
    store: where answers are kept, and looked up before anything is asked.

    An item that is also a demonstration (the same question, case and space apart) is refused, or with
    on_overlap="drop" left out; so is one that a hybrid may retrieve. A failed request counts as wrong and
    stands in `errors`. Raises SettingError and DataError before anything is asked, TargetError where the
    target does or where every request failed.
    """
    measure = as_metric(metric)
    _check(prompt, items, measure, choices)
    max_tokens = whole_number("max_tokens", max_tokens, 1)
    rows = _rows(prompt, items, on_overlap)
    of_all = labels_of(choices, len(items))
    labels = [of_all[row] for row in rows]
    golds = golds_of(items, rows, labels, measure)
    queries = [Query(f"item {row}", items.examples[row], own) for row, own in zip(rows, labels, strict=True)]
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
        unreachable=unreachable(golds, labels),
        **_spent(predicted),
    )


def _check(prompt: Prompt, items: Pool, metric: Metric, choices: Choices | None) -> None:
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


def _rows(prompt: Prompt, items: Pool, on_overlap: str) -> list[int]:
    """Return the rows of the items that are no demonstrations."""
    if on_overlap not in ("error", "drop"):
        raise SettingError(f"on_overlap={on_overlap!r}", expected="'error' or 'drop'", fix="pass one of them")
    shown = {plain_text(question) for question in _questions(prompt)}
    overlap = [row for row, question in enumerate(items.questions) if plain_text(question) in shown]
    if overlap and (on_overlap == "error" or len(overlap) == len(items)):
        raise DataError(
            f"{len(overlap)} items that are also demonstrations: {some_items(overlap)}",
            expected="items that the prompt does not show",
            fix='leave them out of the pool that is chosen from, or pass on_overlap="drop"',
        )
    return sorted(set(range(len(items))) - set(overlap))


def _questions(prompt: Prompt) -> Iterator[str]:
    """Return all questions that the prompt may show with their answers."""
    fixed = prompt.fixed if isinstance(prompt, HybridPrompt) else prompt
    yield from (question for question, _ in fixed.demonstrations)
    if isinstance(prompt, HybridPrompt):
        yield from (prompt.pool.questions[row] for row in prompt.rows)


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
    """Sum tokens, cost and seconds over all requests, each once; None where an answer came uncounted."""
    answers = {id(one.answer): one.answer for one in (*predicted.asked, *predicted.besides)}.values()
    usages = [answer.usage for answer in answers if answer.usage is not None or answer.error is None]
    counted = [usage for usage in usages if usage is not None]
    known = bool(counted) and len(counted) == len(usages)  # the sum of a part would look like the whole
    costs = [usage.cost for usage in counted if usage.cost is not None]
    return {
        "prompt_tokens": sum(usage.prompt_tokens for usage in counted) if known else None,
        "cached_tokens": sum(usage.cached_tokens for usage in counted) if known else None,
        "completion_tokens": sum(usage.completion_tokens for usage in counted) if known else None,
        "cost": math.fsum(costs) if known and len(costs) == len(counted) else None,
        "seconds": math.fsum(answer.seconds for answer in answers),
    }
