"""Predictors that add, to each call, the demonstrations nearest to its inputs."""

import asyncio
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dspy

from dspy_icl.rendering import pool_of
from icl_plugins import ManyShotPrompt, Pool
from icl_plugins.selectors._rankers import Ranker, build_ranker
from icl_plugins.selectors._tokens import prompt_tokens
from icl_plugins.selectors.hybrid import Hybrid, HybridPrompt


@dataclass(frozen=True, eq=False)
class Nearest:
    """Where the nearest demonstrations of a predictor come from: `offered`, rendered as `pool`.

    hybrid: its settings, model and index loaded. Never changed, and shared by all copies of a program.
    """

    hybrid: Hybrid
    pool: Pool
    offered: tuple[Any, ...]
    max_tokens: int | None

    @classmethod
    def of(cls, hybrid: Hybrid, signature: Any, offered: Sequence[Any], max_tokens: int | None) -> "Nearest":
        """Index what is offered; raises what rendering, loading and reading raise."""
        pool = pool_of(signature, offered)
        ranker, _ = build_ranker(hybrid.nearest, pool, range(len(pool)), hybrid.proxy, hybrid.on_too_long)
        counter = None if max_tokens is None else prompt_tokens(hybrid.budget_tokenizer)
        loaded = replace(hybrid, nearest=_Built(ranker), tokenizer=counter or hybrid.tokenizer)
        return cls(loaded, pool, tuple(offered), max_tokens)

    def around(self, signature: Any, demos: Sequence[Any]) -> HybridPrompt:
        """Return what finds the nearest that `demos` do not show; raises what `Hybrid.around` raises."""
        shown = pool_of(signature, demos) if demos else None
        texts = () if shown is None else tuple(zip(shown.questions, shown.answers, strict=True))
        fixed = ManyShotPrompt(self.pool.template, texts, ({},) * len(texts))
        return self.hybrid.around(fixed, self.pool, max_tokens=self.max_tokens)

    def demos(self, prompt: HybridPrompt, signature: Any, inputs: Mapping[str, Any]) -> list[Any]:
        """Return copies of the demonstrations nearest to the inputs, the nearest last."""
        # rendered with some demonstration's outputs, as the pool is: what lacks outputs reads otherwise
        outputs = {name: self.offered[0].get(name) for name in signature.output_fields}
        query = {**{name: value for name, value in outputs.items() if value is not None}, **inputs}
        rows = prompt.rows_for(pool_of(signature, [query]).examples[0])
        return [copy.deepcopy(self.offered[row]) for row in rows]

    def __deepcopy__(self, memo: object) -> "Nearest":
        """Return itself: copies of programs share pool, index and model."""
        return self


@dataclass(frozen=True, eq=False)
class _Built:
    """Gives a ranker that is there already; rows that are not wanted the prompt leaves out."""

    made: Ranker

    def ranker(self, pool: Pool, rows: Sequence[int]) -> Ranker:
        """Return it."""
        return self.made


class NearestPredict(dspy.Predict):  # type: ignore[misc]  # dspy has no types
    """A predictor that shows its `demos`, and behind them those nearest to the inputs of the call.

    Nothing of it changes in a call, so threads and tasks may share it. A call that brings its own ``demos``
    gets these. Its saved state is that of dspy.Predict, with `demos` only; `nearest` stays when a state is
    loaded, and goes when the predictor is reset.
    """

    nearest: Nearest | None = None
    _found: tuple[tuple[Any, ...], HybridPrompt] | None = None

    def reset(self) -> None:
        """Forget demonstrations, LM and traces, and where the nearest come from."""
        super().reset()
        self.nearest, self._found = None, None

    def forward(self, **kwargs: Any) -> Any:
        """Predict with the demonstrations of this call."""
        return super().forward(**self._with_demos(kwargs))

    async def aforward(self, **kwargs: Any) -> Any:
        """Predict with the demonstrations of this call, which are found in another thread."""
        return await super().aforward(**await asyncio.to_thread(self._with_demos, kwargs))

    def demos_for(self, **inputs: Any) -> list[Any]:
        """Return all demonstrations that a call with these inputs shows, in their order."""
        call: dict[str, Any] = {"demos": self.demos, **self._with_demos(inputs)}
        return list(call["demos"])

    def _with_demos(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        fields = self.signature.input_fields
        inputs = {name: kwargs[name] for name in fields if kwargs.get(name) is not None}
        if self.nearest is None or "demos" in kwargs or not inputs:
            return kwargs
        demos = tuple(self.demos)  # a copy: what another thread sets now is for its next call
        nearest = self.nearest.demos(self._around(self.nearest, demos), self.signature, inputs)
        return {**kwargs, "demos": [*demos, *nearest]}

    def _around(self, nearest: Nearest, demos: tuple[Any, ...]) -> HybridPrompt:
        """Return what finds the nearest around these demonstrations, kept until there are others."""
        found = self._found
        if found is None or [*map(id, found[0])] != [*map(id, demos)]:
            self._found = found = (demos, nearest.around(self.signature, demos))
        return found[1]

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles take along: all but the index, which is made anew."""
        state: dict[str, Any] = super().__getstate__()
        return {**state, "_found": None}


def give_nearest(predictor: Any, nearest: Nearest) -> None:
    """Let a predictor add the nearest demonstrations to its own; raises what `Nearest.around` raises."""
    # in place, since a program may hold the predictor under several names, or be one
    kind = type(predictor)
    if kind is dspy.Predict:
        predictor.__class__ = NearestPredict
    elif not issubclass(kind, NearestPredict):
        predictor.__class__ = type(kind.__name__, (NearestPredict, kind), {})
    predictor.nearest = nearest
    predictor._found = (tuple(predictor.demos), nearest.around(predictor.signature, predictor.demos))
