"""What the selectors share: checked arguments, rankings under constraints, the finished Selection."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from icl_plugins.algorithms.constraints import Constraints, resolve, take_in_order
from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.errors import BudgetError, NonFiniteError
from icl_plugins.examples import Pool
from icl_plugins.selection import Selection
from icl_plugins.selectors._settings import settings
from icl_plugins.selectors._tokens import PromptTokens, Tokenizer, prompt_tokens
from icl_plugins.values import plain

Chosen = TypeVar("Chosen")


def by_score(scores: np.ndarray, rows: Sequence[int] | None = None) -> np.ndarray:
    """Rank rows by scores (N,), highest first, ties by lowest index; raises NonFiniteError naming bad rows.

    rows: only these, in increasing order (default all).
    """
    ranked = np.arange(len(scores)) if rows is None else np.asarray(rows, dtype=np.int64)
    bad = ranked[~np.isfinite(scores[ranked])]
    if bad.size:
        raise NonFiniteError(
            f"{bad.size} scores that are NaN or infinite, rows {bad[:5].tolist()}",
            expected="a finite score for every example",
            fix='look at these examples, or load the proxy with dtype="float32"',
        )
    return ranked[np.argsort(-scores[ranked], kind="stable")]


@dataclass(frozen=True)
class Request:
    """The arguments of one `select` call, checked before a tokenizer or proxy is loaded.

    `take` and `choose` are the only ways to indices, so no selector can pass the token budget: a
    demonstration costs the tokens that it adds alone, and since tokens may merge or split where texts meet,
    the whole is counted too and the choice repeated with less while it is over.
    """

    pool: Pool
    shots: int | None
    max_tokens: int | None
    quotas: Quotas
    include: tuple[int, ...]
    exclude: tuple[int, ...]
    tokenizer: Tokenizer
    skipped: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @classmethod
    def check(
        cls,
        pool: Pool,
        shots: int | None,
        max_tokens: int | None,
        quotas: Quotas,
        include: Iterable[int],
        exclude: Iterable[int],
        tokenizer: Tokenizer,
    ) -> "Request":
        """Check what `select` was given; raises BudgetError or SettingError.

        Only a token budget loads anything, and then no more than the tokenizer.
        """
        request = cls(pool, shots, max_tokens, quotas, tuple(include), tuple(exclude), tokenizer)
        # Every demonstration costs a token at least: what fails even so fails before the tokenizer is loaded.
        request._resolve(np.ones(len(pool), dtype=np.int64), max_tokens)
        _ = request.constraints
        return request

    def without(self, rows: Iterable[int], reason: str) -> "Request":
        """Return the request less rows that the method cannot use; raises BudgetError if too few are left."""
        left_out = tuple(int(row) for row in rows)
        needed = sorted(set(left_out) & set(self.include))
        if needed:
            raise BudgetError(
                f"rows {needed[:5]} are to be included but were skipped: {reason}",
                expected="included examples that the method can use",
                fix="include others, or change these examples",
            )
        request = replace(self, skipped={**self.skipped, reason: left_out} if left_out else self.skipped)
        _ = request.constraints
        return request

    @cached_property
    def constraints(self) -> Constraints:
        """The arguments as index based constraints, tokens counted."""
        return self._resolve(self._costs, self._room)

    def take(self, ranking: Sequence[int] | np.ndarray) -> tuple[int, ...]:
        """Walk a ranking of pool indices, best first, and return those that fit every constraint."""
        return self.choose(lambda constraints: take_in_order(ranking, constraints), tuple)

    def choose(
        self, method: Callable[[Constraints], Chosen], indices: Callable[[Chosen], Sequence[int]]
    ) -> Chosen:
        """Return what `method` makes of the constraints; `indices` reads the pool indices out of it."""
        chosen = method(self.constraints)
        budget = self._room
        while budget is not None and self.max_tokens is not None:
            excess = (self.tokens(indices(chosen)) or 0) - self.max_tokens
            if excess <= 0:
                break
            budget -= excess
            chosen = method(self._resolve(self._costs, budget))
        return chosen

    def tokens(self, indices: Sequence[int]) -> int | None:
        """Count what the budget counts with these demonstrations; None where there is no token budget."""
        return None if self._counter is None else self._counter.total(self.pool, indices)

    def selection(
        self,
        selector: Any,
        indices: Sequence[int],
        scores: Iterable[float],
        *,
        objective: Iterable[float] = (),
        details: Mapping[str, object] | None = None,
    ) -> Selection:
        """Make the Selection: config from the selector's fields and the request, tokens counted."""
        arguments = {name: plain(getattr(self, name)) for name in _ARGUMENTS}
        tokens = self.tokens(indices)
        counted = {} if tokens is None else {"tokens": tokens}
        skipped = {"skipped": {reason: list(rows) for reason, rows in self.skipped.items()}}
        return Selection(
            pool=self.pool,
            indices=tuple(int(i) for i in indices),
            scores=tuple(float(score) for score in scores),
            objective=tuple(float(value) for value in objective),
            config={**settings(selector), **arguments},
            details={**counted, **(skipped if self.skipped else {}), **(details or {})},
        )

    @cached_property
    def _counter(self) -> PromptTokens | None:
        return None if self.max_tokens is None else prompt_tokens(self.tokenizer)

    @cached_property
    def _costs(self) -> np.ndarray | None:
        return None if self._counter is None else np.asarray(self._counter.costs(self.pool), dtype=np.int64)

    @cached_property
    def _room(self) -> int | None:
        """The budget less what the prompt takes without any demonstration."""
        if self._counter is None or self.max_tokens is None:
            return None
        fixed = self._counter.fixed(self.pool)
        if fixed >= self.max_tokens:
            raise BudgetError(
                f"a token budget of {self.max_tokens}, of which instruction and query take {fixed}",
                expected="room for them and at least one demonstration",
                fix="raise the budget or shorten the instruction",
            )
        return self.max_tokens - fixed

    def _resolve(self, costs: np.ndarray | None, budget: int | None) -> Constraints:
        skipped = {row for rows in self.skipped.values() for row in rows}
        return resolve(
            len(self.pool),
            self.pool.labels,
            self.shots,
            costs=None if budget is None else costs,
            max_cost=budget,
            quotas=self.quotas,
            include=self.include,
            exclude=(*self.exclude, *sorted(skipped.difference(self.exclude))),
        )


_ARGUMENTS = ("shots", "max_tokens", "quotas", "include", "exclude")
