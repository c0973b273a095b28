"""A candidate of a search on its trial: its program, its scores so far, and what they say."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy
import numpy as np
from dspy.utils.parallelizer import ParallelExecutor

from dspy_icl.rendering import render_demos
from icl_plugins.errors import SettingError
from icl_plugins.evaluation.statistics import mean_interval


@dataclass(eq=False)
class Trial:
    """A candidate's program and how it has done.

    tokens: of its demonstrations. position: among the candidates. scores: of the examples so far, in their
    order; an example on which the program failed counts 0. error: why it is out.
    """

    name: str
    program: Any = field(repr=False)
    tokens: int
    position: int
    scores: list[float] = field(default_factory=list)
    failures: int = 0
    error: str | None = None

    @property
    def mean(self) -> float:
        """The mean score, 0 without any."""
        return math.fsum(self.scores) / max(1, len(self.scores))

    def rank(self) -> tuple[float, int, int]:
        """Return what sorts the best first: the mean score, then fewer tokens."""
        return (-self.mean, self.tokens, self.position)

    def evaluate(
        self,
        examples: Sequence[Any],
        metric: Callable[..., Any],
        *,
        num_threads: int | None,
        max_errors: int | None,
        progress: bool,
    ) -> None:
        """Add the scores of some examples, or say why the trial is out: `max_errors` of them failed.

        Raises SettingError for a metric that gives no finite number.
        """
        failures: dict[int, Exception] = {}

        def run(row: int) -> tuple[Any]:
            try:
                return (metric(examples[row], self.program(**examples[row].inputs())),)
            except Exception as error:
                failures[row] = error
                raise

        executor = ParallelExecutor(num_threads, max_errors, disable_progress_bar=not progress)
        try:
            results = executor.execute(run, range(len(examples)))
        except Exception:
            if not failures:
                raise
            first = next(iter(failures.values()))
            self.error = f"{len(failures)} examples failed, the first with {type(first).__name__}: {first}"
            return
        self.failures += len(failures)
        self.scores += [0.0 if result is None else number(result[0]) for result in results]

    def told(self) -> dict[str, Any]:
        """Return what is known of the candidate, as JSON can hold it: score and interval in percent."""
        return {
            "candidate": self.name,
            "score": 100 * self.mean if self.scores else None,
            "interval": interval(self.scores),
            "examples": len(self.scores),
            "failures": self.failures,
            "error": self.error,
            "tokens": self.tokens,
        }

    def attached(self) -> dict[str, Any]:
        """Return what stands in ``candidate_programs``."""
        return {**self.told(), "program": self.program, "subscores": list(self.scores)}


def number(value: Any) -> float:
    """Return what a metric gave as a number; raises SettingError for anything else."""
    score = value.score if isinstance(value, dspy.Prediction) else value
    if not isinstance(score, bool | int | float | np.number | np.bool_) or not math.isfinite(score):
        raise SettingError(
            f"a metric that returns {score!r:.80}",
            expected="True, False or a finite number",
            fix="correct the metric",
        )
    return float(score)


def interval(scores: Sequence[float]) -> list[float] | None:
    """Return the 95 % interval of the mean in percent: Wilson's for right and wrong, else the bootstrap's.

    None for fewer than two scores.
    """
    if len(scores) < 2:
        return None
    if set(scores) <= {0.0, 1.0}:
        from scipy.stats import binomtest  # takes its time to load

        found = binomtest(int(sum(scores)), len(scores)).proportion_ci(method="wilson")
    else:
        found = mean_interval(scores)
    return [100 * float(found.low), 100 * float(found.high)]


def rendered(program: Any) -> str:
    """Return the demonstrations of all predictors as the LM will read them."""
    texts = [
        text
        for _, predictor in program.named_predictors()
        for _, text in render_demos(predictor.signature, predictor.demos)
    ]
    return "\n\n".join(texts)
