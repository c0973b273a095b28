"""SelectorFewShot: a DSPy optimizer that gives each predictor the demonstrations a selector chooses."""

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import dspy
from dspy.teleprompt.teleprompt import Teleprompter

from dspy_icl.bootstrapping import Bootstrapped, Metric, bootstrap_demos, share_lms
from dspy_icl.leaks import check_apart
from dspy_icl.rendering import pool_of
from dspy_icl.training import (
    check_inputs,
    check_outputs,
    check_student,
    check_teacher,
    examples_of,
    fields_to_make,
    only_teacher,
)
from icl_plugins.algorithms.checks import whole_number
from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.errors import SettingError
from icl_plugins.selection import Selection, Selector

logger = logging.getLogger(__name__)

_LEAST = {"k": 1, "max_tokens": 1, "num_threads": 1, "max_errors": 1, "seed": 0}
_CAUSES = ("failed", "rejected", "contradicted")


class SelectorFewShot(Teleprompter):  # type: ignore[misc]  # dspy has no types
    """Give each predictor the demonstrations that `selector` chooses of its examples as rendered.

    At most `k` demonstrations, rendered within `max_tokens`, for each predictor; `quotas` as selectors take
    them, by the value of the output field. Where the trainset has all fields of a predictor (the reasoning of
    ChainOfThought aside), its examples are used as they are, without calling an LM; for the others the
    teacher, else the student, is run over the trainset, and what `metric` accepts is used, without one what
    no label contradicts. `bootstrap`: True runs it for all predictors, False never. `num_threads` and
    `max_errors` of these runs are as in ``dspy.Evaluate``; `seed` draws among several calls of one predictor.
    `mark_compiled`: whether the result is frozen inside other programs; BootstrapFewShot and MIPROv2 refuse a
    marked student, so False for them.

    Raises SettingError for bad settings.
    """

    def __init__(
        self,
        selector: Selector,
        *,
        k: int | None = 16,
        max_tokens: int | None = None,
        quotas: Quotas = None,
        metric: Metric | None = None,
        bootstrap: bool | None = None,
        num_threads: int | None = None,
        max_errors: int | None = None,
        seed: int = 0,
        mark_compiled: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(selector, type) or not isinstance(selector, Selector):
            raise SettingError(
                f"selector={selector!r:.80}", expected="a selector, e.g. GradientMatching()", fix="pass one"
            )
        if k is None and max_tokens is None:
            raise SettingError("neither k nor max_tokens", expected="at least one of them", fix="pass k=16")
        if metric is not None and not callable(metric):
            raise SettingError(
                f"metric={metric!r:.80}", expected="metric(example, prediction, trace)", fix="pass a function"
            )
        if bootstrap not in (None, True, False):
            raise SettingError(f"bootstrap={bootstrap!r:.80}", expected="True, False or None", fix="pass one")
        self.selector = selector
        self.k = k
        self.max_tokens = max_tokens
        self.quotas = quotas
        self.metric = metric
        self.bootstrap = bootstrap
        self.num_threads = num_threads
        self.max_errors = max_errors
        self.seed = seed
        self.mark_compiled = mark_compiled
        self.progress = progress
        for name, least in _LEAST.items():
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), least)

    def compile(
        self,
        student: Any,
        *,
        trainset: Iterable[Any],
        teacher: Any = None,
        valset: Iterable[Any] | None = None,
    ) -> Any:
        """Return a copy of `student` with demonstrations, its LMs kept; neither program is changed.

        The copy has ``selection_reports``, predictor -> report of its selection, with ``rows``,
        and ``candidate_programs``, itself with its score on `valset` (None without valset or metric).
        Raises DataError for examples without inputs and for a valset that asks what the trainset does (on the
        inputs that both have, whatever the case and space),
        SettingError for programs that do not fit, BootstrapError, and what the selector raises.
        """
        check_student(student)
        trainset, valset = examples_of(trainset, "trainset"), examples_of(valset, "valset")
        check_apart(trainset, valset)
        compiled = share_lms(student.reset_copy(), student)
        compiled.selection_reports = {}
        for name, (demos, told) in self._offers(student, only_teacher(teacher), trainset).items():
            if not demos:
                logger.warning("No demonstrations for %s: no accepted run of the program calls it.", name)
                continue
            predictor = dict(compiled.named_predictors())[name]
            selection = self._select(predictor.signature, list(demos.values()))
            rows = [list(demos)[i] for i in selection.indices]
            predictor.demos = [copy.deepcopy(demos[row]) for row in rows]
            told = {**told, "rows": rows, "scores": list(selection.scores)}
            compiled.selection_reports[name] = {**told, **selection.report()}
        compiled._compiled = self.mark_compiled
        compiled.candidate_programs = [{"score": self._score(compiled, valset), "program": compiled}]
        return compiled

    def _offers(
        self, student: Any, teacher: Any, trainset: Sequence[Any]
    ) -> dict[str, tuple[Mapping[int, Any], dict[str, Any]]]:
        """Return, for each predictor, row of the trainset -> demonstration, and where they are from."""
        made = {
            name: fields_to_make(name, predictor.signature, trainset, self.bootstrap)
            for name, predictor in student.named_predictors()
        }
        runs = self._run(student, teacher, trainset, made) if any(made.values()) else None
        rows = dict(enumerate(trainset))
        told = {} if runs is None else {name: getattr(runs, name) for name in _CAUSES}
        return {
            name: (rows, {"source": "labels"})
            if runs is None or not fields
            else (runs.demos[name], {"source": "runs", **told})
            for name, fields in made.items()
        }

    def _run(
        self, student: Any, teacher: Any, trainset: Sequence[Any], made: Mapping[str, Sequence[str]]
    ) -> Bootstrapped:
        program = student if teacher is None else teacher
        check_inputs(program, trainset)
        if teacher is None and self.metric is None and not self.bootstrap:
            check_outputs(student, trainset, made)
        check_teacher(program, student, made)
        if self.metric is None:
            logger.warning("No metric: runs are used unless they fail or contradict the trainset's labels.")
        runs = bootstrap_demos(
            share_lms(program.deepcopy(), program),
            trainset,
            self.metric,
            num_threads=self.num_threads,
            max_errors=self.max_errors,
            seed=self.seed,
            progress=self.progress,
        )
        counts = (f"{len(getattr(runs, name))} {name}" for name in _CAUSES)
        logger.info("Ran the program on %d examples: %s.", len(trainset), ", ".join(counts))
        return runs

    def _select(self, signature: Any, demos: Sequence[Any]) -> Selection:
        pool = pool_of(signature, demos)
        shots = None if self.k is None else min(self.k, len(pool))
        with _progress() if self.progress else nullcontext():
            return self.selector.select(pool, shots, max_tokens=self.max_tokens, quotas=self.quotas)

    def _score(self, program: Any, valset: Sequence[Any]) -> float | None:
        """Return the percentage on the valset, as dspy.Evaluate gives it."""
        if not valset or self.metric is None:
            return None
        evaluate = dspy.Evaluate(
            devset=valset,
            metric=self.metric,
            num_threads=self.num_threads,
            max_errors=self.max_errors,
            display_progress=self.progress,
        )
        return float(evaluate(program).score)


def _progress() -> AbstractContextManager[None]:
    from icl_plugins.cli.progress import shown_progress  # the command line is loaded by who wants its bars

    return shown_progress(downloads=True)
