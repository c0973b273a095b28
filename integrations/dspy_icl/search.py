"""ManyShotSearch: a DSPy optimizer that tries selectors, shots and orders on a valset, within a budget."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dspy
import numpy as np
from dspy.teleprompt.teleprompt import Teleprompter

from dspy_icl.bootstrapping import Metric
from dspy_icl.candidates import Candidate, Sharing, default_candidates, distinct
from dspy_icl.few_shot import SelectorFewShot
from dspy_icl.halving import rounds
from dspy_icl.leaks import check_apart
from dspy_icl.training import check_student, examples_of, fields_to_make, only_teacher
from dspy_icl.trials import Trial, rendered
from icl_plugins.algorithms.checks import whole_number
from icl_plugins.errors import DataError, IclError, SettingError
from icl_plugins.selectors._tokens import token_counter

logger = logging.getLogger(__name__)


class SearchError(IclError, RuntimeError):
    """No candidate could be evaluated."""


class ManyShotSearch(Teleprompter):  # type: ignore[misc]  # dspy has no types
    """Try `candidates` on the valset, with at most `max_metric_calls` evaluations, and keep the best.

    Successive halving: all candidates on a small slice of the valset, the better half on one twice as large,
    which holds the first, and so on; ties go to the demonstrations of fewer tokens. Candidates that show the
    same are tried once; one that fails on `max_errors` examples is out; other failures count 0. Where the
    program has to be run over the trainset to make demonstrations, it is run once for all candidates, and
    these calls are part of the budget. `seed` draws the slices. `bootstrap`, `num_threads`, `max_errors` and
    `mark_compiled` are as in SelectorFewShot. `candidates` by default: gradient matching, k-means and random
    with 4, 16 and 64 shots, as chosen and with labels interleaved.

    Raises SettingError for bad settings.
    """

    def __init__(
        self,
        *,
        metric: Metric,
        candidates: Iterable[Candidate] | None = None,
        max_metric_calls: int = 1000,
        bootstrap: bool | None = None,
        num_threads: int | None = None,
        max_errors: int | None = None,
        seed: int = 0,
        mark_compiled: bool = True,
        progress: bool = False,
    ) -> None:
        super().__init__()
        self.candidates = tuple(default_candidates() if candidates is None else candidates)
        wrong = [one for one in self.candidates if not isinstance(one, Candidate)]
        if wrong or not self.candidates:
            raise SettingError(
                f"candidates={wrong or self.candidates!r:.80}", expected="dspy_icl.Candidate", fix="pass some"
            )
        if not callable(metric):
            raise SettingError(
                f"metric={metric!r:.80}", expected="metric(example, prediction, trace)", fix="pass a function"
            )
        self.metric = metric
        self.max_metric_calls = whole_number("max_metric_calls", max_metric_calls, 1)
        self.seed = whole_number("seed", seed, 0)
        self.threads: dict[str, Any] = {
            "num_threads": num_threads,
            "max_errors": max_errors,
            "progress": progress,
        }
        self.options: dict[str, Any] = {
            "bootstrap": bootstrap,
            "seed": seed,
            "mark_compiled": mark_compiled,
            **self.threads,
        }
        SelectorFewShot(self.candidates[0].selector, **self.options)  # checks the others

    def compile(
        self, student: Any, *, trainset: Iterable[Any], teacher: Any = None, valset: Iterable[Any]
    ) -> Any:
        """Return a copy of `student` with the best demonstrations, its LMs kept; no program is changed.

        The copy has ``selection_reports`` as of SelectorFewShot; ``candidate_programs``, those of the last
        slice, best first, and ``mb_candidate_programs``, the others, each a dict of program, candidate,
        score (percent), interval (95 %), examples, subscores, failures and tokens; ``search_report``, what
        was spent and found. The score is that of the best of many on the examples that chose it, and thus
        optimistic. Raises what SelectorFewShot raises, SettingError for too small a budget, DataError
        without a valset, SearchError if no candidate is left.
        """
        check_student(student)
        trainset, valset = examples_of(trainset, "trainset"), _checked(valset)
        check_apart(trainset, valset)
        _check_lm(student)
        metric = _Counted(self.metric)
        signatures = {name: predictor.signature for name, predictor in student.named_predictors()}
        bootstrap = self.options["bootstrap"]
        runs = any(fields_to_make(name, one, trainset, bootstrap) for name, one in signatures.items())
        rounds(len(self.candidates), len(valset), self.max_metric_calls - len(trainset) * runs)
        runner = SelectorFewShot(self.candidates[0].selector, metric=metric, **self.options)
        offers = runner._offers(student, only_teacher(teacher), trainset)
        trials = self._choose(student, trainset, offers)
        ranked, dropped = self._halve(trials, valset, metric)
        best = ranked[0].program
        best.candidate_programs = [trial.attached() for trial in ranked]
        best.mb_candidate_programs = [trial.attached() for trial in dropped]
        best.search_report = _report(ranked, dropped, len(self.candidates), len(metric.calls))
        logger.info(best.search_report["summary"])
        return best

    def _choose(self, student: Any, trainset: Sequence[Any], offers: Mapping[str, Any]) -> "list[Trial]":
        """Return the candidates with their programs, without those that show what another does."""
        programs = []
        with TemporaryDirectory(prefix="icl-plugins-", ignore_cleanup_errors=True) as folder:
            for candidate in self.candidates:
                selector = Sharing(candidate.selector, Path(folder))
                chooser = _Chooser(selector, **candidate.limits, **self.options)
                chooser.given = offers
                programs.append(chooser.compile(student, trainset=trainset))
        kept = distinct(programs)
        tokens = token_counter("micro")([rendered(programs[at]) for at in kept])
        return [
            Trial(self.candidates[at].name, programs[at], count, at)
            for at, count in zip(kept, tokens, strict=True)
        ]

    def _halve(
        self, trials: "list[Trial]", valset: Sequence[Any], metric: "_Counted"
    ) -> "tuple[list[Trial], list[Trial]]":
        """Return those that saw the last slice, best first, and the others, by how far they came."""
        drawn = np.random.default_rng(self.seed).permutation(len(valset)).tolist()
        alive, seen = trials, 0
        for size, examples in rounds(len(trials), len(valset), self.max_metric_calls - len(metric.calls)):
            alive = sorted(alive, key=Trial.rank)[:size]
            for trial in alive:
                trial.evaluate([valset[row] for row in drawn[seen:examples]], metric, **self.threads)
            if all(trial.error for trial in alive):
                raise SearchError(
                    f"no candidate is left of {len(trials)}: {alive[0].error}",
                    expected="runs on the valset that succeed",
                    fix="look at the cause, raise max_errors, or try fewer shots",
                )
            alive, seen = [trial for trial in alive if not trial.error], examples
        dropped = [trial for trial in trials if trial not in alive]
        return sorted(alive, key=Trial.rank), sorted(dropped, key=lambda t: (-len(t.scores), *t.rank()))


class _Chooser(SelectorFewShot):
    """Chooses from what was made once for all candidates."""

    given: Mapping[str, Any]

    def _offers(self, *_: Any) -> Any:
        return self.given


class _Counted:
    """A metric that counts its calls, from any thread."""

    def __init__(self, metric: Metric) -> None:
        self.metric, self.calls = metric, list[None]()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.calls.append(None)
        return self.metric(*arguments, **named)


def _report(ranked: Sequence[Trial], dropped: Sequence[Trial], candidates: int, calls: int) -> dict[str, Any]:
    best = ranked[0].told()
    within = "" if best["interval"] is None else " ({:.1f} to {:.1f})".format(*best["interval"])
    summary = (
        f"{best['candidate']}: {best['score']:.1f} %{within} on {best['examples']} examples of the valset. "
        f"As the best of {len(ranked) + len(dropped)} on the examples that chose it, this is optimistic: "
        "measure it on examples that took no part."
    )
    return {"best": best, "candidates": candidates, "metric_calls": calls, "summary": summary}


def _checked(valset: Iterable[Any]) -> list[Any]:
    examples = examples_of(valset, "valset")
    if not examples:
        raise DataError(
            "no valset", expected="labelled examples apart from the trainset", fix="hold some examples out"
        )
    return examples


def _check_lm(student: Any) -> None:
    if dspy.settings.lm is None and not all(
        predictor.lm for _, predictor in student.named_sub_modules(dspy.Predict)
    ):
        raise SettingError(
            "no LM to try candidates with",
            expected="an LM",
            fix="dspy.configure(lm=...) or student.set_lm(...)",
        )
