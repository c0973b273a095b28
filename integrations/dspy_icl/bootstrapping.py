"""Demonstrations of inner predictors, from runs of the program over the trainset."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
import numpy as np
from dspy.utils.parallelizer import ParallelExecutor

from dspy_icl.leaks import asks
from icl_plugins.errors import IclError, SettingError

Metric = Callable[..., Any]
Call = tuple[str, Any]  # predictor's name, demonstration


class BootstrapError(IclError, RuntimeError):
    """Running the program over the trainset gave no demonstrations."""


@dataclass(frozen=True)
class Bootstrapped:
    """What the runs gave: predictor -> row of the trainset -> demonstration; failed and rejected rows."""

    demos: Mapping[str, Mapping[int, Any]]
    failed: tuple[int, ...]
    rejected: tuple[int, ...]


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

    An example never meets itself, told by its values, among the program's own demonstrations. Of several
    calls of a predictor on one example one is kept, drawn with `seed`; calls that miss a field are not kept.
    Raises BootstrapError when `max_errors` runs failed (None: as in ``dspy.settings``), or no run gave a
    demonstration.
    """
    failures: dict[int, Exception] = {}

    def run(row: int) -> list[Call] | None:
        try:
            return _accepted_calls(program, trainset[row], metric)
        except Exception as error:
            failures[row] = error
            raise

    executor = ParallelExecutor(num_threads, max_errors, disable_progress_bar=not progress)
    try:
        runs = executor.execute(run, range(len(trainset)))
    except Exception:
        if not failures:
            raise
        raise _failure(len(trainset), failures) from next(iter(failures.values()))
    rejected = tuple(row for row, calls in enumerate(runs) if calls is None and row not in failures)
    if not any(runs):
        raise _failure(len(trainset), failures, rejected)
    demos: dict[str, dict[int, Any]] = {name: {} for name, _ in program.named_predictors()}
    for row, calls in enumerate(runs):
        for name, of_predictor in _by_predictor(calls or ()).items():
            demos[name][row] = of_predictor[np.random.default_rng([seed, row]).integers(len(of_predictor))]
    return Bootstrapped(demos, tuple(sorted(failures)), rejected)


def check_teacher(teacher: Any, student: Any) -> None:
    """Raise SettingError unless the teacher has the student's predictors, with the same fields, and LMs."""
    predictors = dict(teacher.named_predictors())
    for name, predictor in student.named_predictors():
        fields = list(predictor.signature.fields)
        if name not in predictors or list(predictors[name].signature.fields) != fields:
            raise SettingError(
                f"a teacher without a predictor {name!r} of the fields {', '.join(fields)}",
                expected="a teacher of the student's structure",
                fix="make it of the same class, or leave it out",
            )
    if dspy.settings.lm is None and not all(predictor.lm for predictor in predictors.values()):
        raise SettingError(
            "no LM to run the program with",
            expected="an LM, since the trainset does not label every predictor",
            fix="dspy.configure(lm=...), program.set_lm(...), or label all fields of the trainset",
        )


def _accepted_calls(program: Any, example: Any, metric: Metric | None) -> list[Call] | None:
    """Run once; return the complete calls of all predictors, None if the metric rejects the outcome."""
    program = _without(program, example)
    with dspy.context(trace=[]):
        prediction = program(**example.inputs())
        trace = list(dspy.settings.trace)
    if metric is not None and not _holds(metric(example, prediction, trace)):
        return None
    names = {id(predictor): name for name, predictor in program.named_predictors()}
    calls = []
    for predictor, inputs, outputs in trace:
        demo = dspy.Example(augmented=True, **inputs, **outputs)
        if id(predictor) in names and all(
            demo.get(field) is not None for field in predictor.signature.fields
        ):
            calls.append((names[id(predictor)], demo))
    return calls


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


def _failure(size: int, failures: Mapping[int, Exception], rejected: Sequence[int] = ()) -> BootstrapError:
    got = f"no demonstration in {size} runs: the metric rejects {len(rejected)}, the others lack fields"
    if failures:
        row, error = next(iter(failures.items()))
        why = f"{len(failures)} of {size} examples failed, example {row}: {type(error).__name__}: {error}"
        got = f"{why}; the metric rejects {len(rejected)}" if rejected else why
    return BootstrapError(
        got,
        expected="runs of the program that succeed and pass the metric",
        fix="look at the failure, raise max_errors, pass a stronger teacher, or label all fields",
    )
