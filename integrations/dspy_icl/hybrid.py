"""HybridFewShot: a DSPy optimizer that fixes demonstrations, and lets each call add those nearest to it."""

import copy
import logging
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from inspect import signature
from typing import Any

from dspy_icl.bootstrapping import share_lms
from dspy_icl.few_shot import SelectorFewShot, _progress
from dspy_icl.leaks import check_apart
from dspy_icl.nearest import Nearest, give_nearest
from dspy_icl.training import check_student, examples_of, only_teacher
from icl_plugins import GradientMatching, Pool
from icl_plugins.errors import SettingError
from icl_plugins.selection import Selection, Selector
from icl_plugins.selectors.hybrid import Hybrid

logger = logging.getLogger(__name__)

_OF_HYBRID = ("nearest", "proxy", "on_too_long", "tokenizer", "distinct", "leave_out_same")


class HybridFewShot(SelectorFewShot):
    """Give each predictor `k` demonstrations that `selector` fixes, and each call the `m` nearest to it.

    The fixed ones are the same for every call, so the provider's prefix cache pays for them. They are chosen
    as SelectorFewShot chooses, by ``GradientMatching()`` unless `selector` is given; the nearest come from
    the same examples (those that runs gave where it has run the program), as the adapter in force at
    ``compile`` renders them. `max_tokens` is for both together. `nearest`, `proxy`, `on_too_long`,
    `tokenizer`, `distinct`, `leave_out_same`: as `Hybrid` takes them; all other settings as SelectorFewShot.

    No call changes the program: it may run in any number of threads and tasks, and ``acall`` searches off the
    event loop. Where the program is run on its own trainset, as other optimizers do, each example would find
    itself with its answer: pass ``leave_out_same=True`` then.

    A saved state has the fixed demonstrations only. ``attach`` gives a program that was loaded its nearest
    ones back; a whole program saved with ``save_program=True`` has them along.
    """

    def __init__(
        self, selector: Selector | None = None, *, m: int = 4, nearest: Any = "bm25", **settings: Any
    ) -> None:
        known = [*_OF_HYBRID, *(name for name in signature(SelectorFewShot).parameters if name != "selector")]
        if unknown := sorted(set(settings) - set(known)):
            raise SettingError(
                f"HybridFewShot has no setting {', '.join(map(repr, unknown))}",
                expected=f"some of m, nearest, {', '.join(known)}",
                fix="correct the name",
            )
        of_hybrid = {name: settings.pop(name) for name in _OF_HYBRID if name in settings}
        super().__init__(GradientMatching() if selector is None else selector, **settings)
        self.hybrid = Hybrid(self.selector, nearest, m, **of_hybrid)

    def compile(
        self,
        student: Any,
        *,
        trainset: Iterable[Any],
        teacher: Any = None,
        valset: Iterable[Any] | None = None,
    ) -> Any:
        """Return a copy of `student` with fixed demonstrations and what finds the nearest.

        Of a trainset with less than k + m examples fewer are fixed. Raises BudgetError where not one is left
        to fix, and what `SelectorFewShot.compile` and `Hybrid.fit` raise.
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
            predictor, rows = dict(compiled.named_predictors())[name], list(demos)
            source = self._nearest(predictor.signature, demos)
            selection = self._fixed(source.pool)
            predictor.demos = [copy.deepcopy(source.offered[i]) for i in selection.indices]
            give_nearest(predictor, source)
            told = {**told, "rows": [rows[i] for i in selection.indices], "scores": list(selection.scores)}
            compiled.selection_reports[name] = {**told, **selection.report()}
        compiled._compiled = self.mark_compiled
        compiled.candidate_programs = [{"score": self._score(compiled, valset), "program": compiled}]
        return compiled

    def attach(self, program: Any, *, trainset: Iterable[Any], teacher: Any = None) -> Any:
        """Return a copy of a program that keeps its demonstrations, with what finds the nearest besides.

        For a program that was loaded: ``HybridFewShot(m=4).attach(program, trainset=trainset)``. What its
        demonstrations show is not shown again. Raises as ``compile`` does.
        """
        check_student(program)
        attached = share_lms(program.deepcopy(), program)
        offers = self._offers(program, only_teacher(teacher), examples_of(trainset, "trainset"))
        for name, (demos, _) in offers.items():
            if demos:
                predictor = dict(attached.named_predictors())[name]
                give_nearest(predictor, self._nearest(predictor.signature, demos))
        return attached

    def _nearest(self, signature: Any, demos: Mapping[int, Any]) -> Nearest:
        return Nearest.of(self.hybrid, signature, list(demos.values()), self.max_tokens)

    def _fixed(self, pool: Pool) -> Selection:
        shots = None if self.k is None else max(1, min(self.k, len(pool) - self.hybrid.m))
        with _progress() if self.progress else nullcontext():
            return self.hybrid.select_fixed(pool, shots, max_tokens=self.max_tokens, quotas=self.quotas)
