"""HybridExampleSelector: the same fixed examples for every query, then those nearest to it."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import fields
from threading import Lock
from typing import Any, Self

from langchain_core.runnables import run_in_executor

from icl_plugins import GradientMatching
from icl_plugins.algorithms.checks import whole_number
from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.errors import BudgetError, DataError, NonFiniteError, SettingError
from icl_plugins.examples import Pool
from icl_plugins.selection import Selector
from icl_plugins.selectors._kept import keeping
from icl_plugins.selectors.hybrid import Hybrid, HybridPrompt
from icl_plugins.template import Template
from langchain_icl.growing import FixedBlock, GrowingSelection, Snapshot
from langchain_icl.lazy import _dropped
from langchain_icl.selector import ICLExampleSelector
from langchain_icl.templates import checked_key, checked_keys, plain_template


class HybridExampleSelector(ICLExampleSelector):
    """The fixed examples, in their chosen order, and behind them the ones nearest to the query, nearest last.

    Made with ``from_examples``. The fixed ones are the same for every query until ``refresh``, which chooses
    anew from all that was added while queries go on with the old ones; what ``add_example`` adds may be
    retrieved from the next call on. Of the input variables a call reads the fields of the template's
    question. Any number of threads and tasks may call. Copies and pickles; a loaded proxy goes along.
    """

    def __init__(
        self,
        source: GrowingSelection,
        hybrid: Hybrid,
        *,
        max_tokens: int | None = None,
        input_keys: Iterable[str] = (),
    ) -> None:
        super().__init__(source, input_keys=input_keys)
        self._growing, self._hybrid, self._max_tokens = source, hybrid, max_tokens
        self._built: tuple[Snapshot, HybridPrompt] | None = None
        self._building = Lock()

    @classmethod
    def from_examples(
        cls,
        examples: Iterable[Mapping[str, object]],
        template: Template | None = None,
        *,
        k: int | None = None,
        m: int = 4,
        max_tokens: int | None = None,
        selector: Selector | None = None,
        input_keys: Iterable[str] | None = None,
        output_key: str | None = None,
        quotas: Quotas = None,
        progress: bool = False,
        **settings: Any,
    ) -> Self:
        """Choose ``k`` fixed examples, when they are first asked for, and ``m`` for each query.

        ``selector`` chooses the fixed ones, ``GradientMatching()`` unless given. ``max_tokens`` is for both
        together. ``template``, ``input_keys``, ``output_key``, ``quotas`` and ``progress``: see
        ICLExampleSelector. ``settings``: those of ``icl_plugins.selectors.hybrid.Hybrid``, such as
        ``nearest``, ``proxy`` or ``leave_out_same``.

        Raises DataError for examples that cannot be rendered, SettingError and BudgetError for the rest.
        """
        known = [one.name for one in fields(Hybrid) if one.name not in ("fixed", "m")]
        if unknown := [name for name in settings if name not in known]:
            raise SettingError(
                f"the settings {unknown}",
                expected=f"settings of Hybrid: {', '.join(known)}",
                fix="correct the names; those of the method belong to the selector",
            )
        hybrid = Hybrid(GradientMatching() if selector is None else selector, m=m, **settings)
        keys, label = checked_keys(input_keys or ()), checked_key(output_key)
        if template is None:
            template = plain_template(keys, output_key or "")
        if not isinstance(template, Template):
            raise SettingError(
                f"a {type(template).__name__} as template", expected="an icl_plugins.Template", fix="pass one"
            )
        pool = Pool.from_records(examples, template, label_field=label)
        _check_room(k, hybrid.m, max_tokens, len(pool))
        fixed = FixedBlock(hybrid, getattr(selector, "store", None))
        limits: dict[str, Any] = {"max_tokens": max_tokens, "quotas": quotas}
        source = GrowingSelection(fixed, pool, k, **limits, renew="refresh", progress=progress)
        return cls(source, hybrid, max_tokens=max_tokens, input_keys=template.question_fields)

    @property
    def prompt(self) -> HybridPrompt:
        """The prompt in force, without an instruction; made now if it is not, as ``select_examples`` says."""
        snapshot, built = self._growing.snapshot(), self._built
        if built is not None and built[0].same(snapshot):
            return built[1]
        with self._building:
            return self._build()

    def select_examples(self, input_variables: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the fixed examples, then those nearest to the inputs, with all their fields, copied anew.

        The first call chooses, which may take minutes; the first call after ``add_example`` indexes anew.
        Raises TemplateError for a missing input. An added example that cannot be used (a row too long for
        the model, say) one call gets as an error that names it; the next goes on without it.
        """
        prompt = self.prompt
        nearest = (prompt.pool.examples[row] for row in prompt.rows_for(input_variables))
        fixed = () if prompt.selection is None else prompt.selection.examples
        return [copy.deepcopy(dict(example)) for example in (*fixed, *nearest)]

    async def aselect_examples(self, input_variables: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Do what ``select_examples`` does in another thread."""
        return await run_in_executor(None, self.select_examples, input_variables)

    def _build(self) -> HybridPrompt:
        snapshot, built = self._growing.snapshot(), self._built
        if built is not None and built[0].same(snapshot):
            return built[1]
        try:
            with keeping(self._growing.memory):
                prompt = self._hybrid.around(snapshot.selection, snapshot.all, max_tokens=self._max_tokens)
        except (DataError, SettingError, NonFiniteError) as error:
            if not (new := snapshot.newer_than(None if built is None else built[0])):
                raise
            self._growing.forget(new)
            raise _dropped([pool.examples[0] for pool in new], error) from error
        self._built = (snapshot, prompt)
        return prompt

    def __getstate__(self) -> dict[str, object]:
        """Return what a copy or pickle takes along: neither lock nor index."""
        return {**self.__dict__, "_built": None, "_building": None}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        """Take over a state, with a lock of its own."""
        self.__dict__.update(state, _building=Lock())


def _check_room(k: int | None, m: int, max_tokens: int | None, examples: int) -> None:
    """Check under its name here what the library calls shots."""
    if k is None and max_tokens is None:
        raise SettingError("neither k nor max_tokens", expected="one of them", fix="pass k=64")
    if (1 if k is None else whole_number("k", k, 1)) + m > examples:
        raise BudgetError(
            f"k={k} and m={m} from {examples} examples", expected="at most as many", fix="lower k or m"
        )
