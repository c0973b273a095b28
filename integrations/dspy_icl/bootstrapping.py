"""Demonstrations of inner predictors, from runs of the program over the trainset."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
import numpy as np
from dspy.utils.parallelizer import ParallelExecutor

from dspy_icl.leaks import asks, content
from dspy_icl.rendering import REASONING
from icl_plugins.errors import IclError

Metric = Callable[..., Any]
Call = tuple[str, Any]  # predictor's name, demonstration


class BootstrapError(IclError, RuntimeError):
    """Running the program over the trainset gave no demonstrations."""


@dataclass(frozen=True)
class Bootstrapped:
    """What the runs gave: predictor -> row of the trainset -> demonstration; and the rows without, by cause.

    ``contradicted``: rows of which a call was dropped, because its output is not the label of that name.
    """

    demos: Mapping[str, Mapping[int, Any]]
    failed: tuple[int, ...]
    rejected: tuple[int, ...]
    contradicted: tuple[int, ...]


@dataclass(frozen=True)
class _Run:
    """The usable calls of one run, and why others are not."""

    calls: Sequence[Call]
    contradicted: bool
    lacking: frozenset[str] = frozenset()


def bootstrap_demos(
    program: Any,
    trainset: Sequence[Any],
    metric: Metric | None = None,
    *,
    num_threads: int | None = None,
    max_errors: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Bootstrapped:
    """Run `program` on every example; keep what each predictor was asked and answered, where `metric` holds.

    A call whose output is neither the example's label of that name nor what the metric accepted is dropped;
    without a metric, all calls of a run whose outcome contradicts a label. An example never meets itself,
    told by its values, among the program's own demonstrations. Of several calls of a predictor on one example
    one is kept, drawn with `seed`; calls that miss a field are not kept. Raises BootstrapError when
    `max_errors` runs failed (None: as in ``dspy.settings``), or no run gave a demonstration.
    """
    failures: dict[int, Exception] = {}

    def run(row: int) -> _Run | None:
        try:
            return _run_once(program, trainset[row], metric)
        except Exception as error:
            failures[row] = error
            raise

    executor = ParallelExecutor(num_threads, max_errors, disable_progress_bar=not progress)
    try:
        results = executor.execute(run, range(len(trainset)))
    except Exception:
        if not failures:
            raise
        raise _failure(len(trainset), failures) from next(iter(failures.values()))
    runs = {row: result for row, result in enumerate(results) if result is not None}
    rejected = tuple(row for row in range(len(trainset)) if row not in runs and row not in failures)
    if not any(result.calls for result in runs.values()):
        raise _failure(len(trainset), failures, rejected, tuple(runs.values()))
    demos: dict[str, dict[int, Any]] = {name: {} for name, _ in program.named_predictors()}
    for row, result in runs.items():
        for name, of_predictor in _by_predictor(result.calls).items():
            demos[name][row] = of_predictor[np.random.default_rng([seed, row]).integers(len(of_predictor))]
    contradicted = tuple(row for row, result in runs.items() if result.contradicted)
    return Bootstrapped(demos, tuple(sorted(failures)), rejected, contradicted)


def _run_once(program: Any, example: Any, metric: Metric | None) -> _Run | None:
    """Return the usable calls of all predictors, None if the metric rejects the outcome."""
    program = _without(program, example)
    with dspy.context(trace=[]):
        prediction = program(**example.inputs())
        trace = list(dspy.settings.trace)
    if metric is None:
        accepted: Mapping[str, Any] = {}
        if isinstance(prediction, dspy.Prediction) and _contradicts(prediction, example, accepted):
            return _Run([], contradicted=True)
    else:
        if not _holds(metric(example, prediction, trace)):
            return None
        accepted = dict(prediction.items()) if isinstance(prediction, dspy.Prediction) else {}
    names = {id(predictor): name for name, predictor in program.named_predictors()}
    calls, lacking, contradicted = [], set(), False
    for predictor, inputs, outputs in trace:
        if id(predictor) not in names:
            continue
        demo = dspy.Example(augmented=True, **inputs, **outputs)
        if lacks := {field for field in predictor.signature.fields if demo.get(field) is None}:
            lacking |= lacks
        elif _contradicts(outputs, example, accepted):
            contradicted = True
        else:
            calls.append((names[id(predictor)], demo))
    return _Run(calls, contradicted, frozenset(lacking))


def _contradicts(outputs: Mapping[str, Any], example: Any, accepted: Mapping[str, Any]) -> bool:
    """Say whether an output is neither the label of that name nor what the metric accepted for it."""

    def same(value: Any, right: Any) -> bool:
        return bool(value == right) or content(value) == content(right)

    return any(
        not same(outputs[name], label) and not (name in accepted and same(outputs[name], accepted[name]))
        for name, label in example.labels().items()
        if label is not None and name != REASONING and name in outputs
    )


def _without(program: Any, example: Any) -> Any:
    """Return the program, or where a demonstration asks what the example does, a copy that lacks it."""
    others = {
        name: [demo for demo in predictor.demos if not asks(demo, predictor.signature.input_fields, example)]
        for name, predictor in program.named_sub_modules(dspy.Predict)
    }
    if all(len(others[name]) == len(p.demos) for name, p in program.named_sub_modules(dspy.Predict)):
        return program
    copied = share_lms(program.deepcopy(), program)
    for name, predictor in copied.named_sub_modules(dspy.Predict):
        predictor.demos = others.get(name, predictor.demos)
    return copied


def share_lms(copied: Any, original: Any) -> Any:
    """Put the LMs of a program back into its copy, those of frozen sub-modules too; return the copy."""
    lms = {name: predictor.lm for name, predictor in original.named_sub_modules(dspy.Predict)}
    for name, predictor in copied.named_sub_modules(dspy.Predict):
        predictor.lm = lms.get(name, predictor.lm)
    return copied


def _holds(value: Any) -> bool:
    return bool(value.score if isinstance(value, dspy.Prediction) else value)


def _by_predictor(calls: Sequence[Call]) -> dict[str, list[Any]]:
    grouped: dict[str, list[Any]] = {}
    for name, demo in calls:
        grouped.setdefault(name, []).append(demo)
    return grouped


def _failure(
    size: int, failures: Mapping[int, Exception], rejected: Sequence[int] = (), runs: Sequence[_Run] = ()
) -> BootstrapError:
    causes = []
    if failures:
        row, error = next(iter(failures.items()))
        causes.append(
            f"{len(failures)} of {size} examples failed, example {row}: {type(error).__name__}: {error}"
        )
    if rejected:
        causes.append(f"the metric rejects {len(rejected)}")
    if contradicted := sum(run.contradicted for run in runs):
        causes.append(f"{contradicted} contradict the labels")
    if lacking := sorted(set().union(*(run.lacking for run in runs))):
        causes.append(f"calls lack fields: {', '.join(map(repr, lacking))}")
    return BootstrapError(
        f"no demonstration in {size} runs: {'; '.join(causes) or 'no predictor is called'}",
        expected="runs of the program that succeed, agree with the labels and pass the metric",
        fix="look at the cause; raise max_errors, pass a metric that accepts other words than the labels', "
        "pass a stronger teacher, or label all fields",
    )
