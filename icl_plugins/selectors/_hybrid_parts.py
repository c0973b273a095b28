"""Parts of Hybrid: the fixed block, what may stand behind it, and the tokens of both."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.artefacts import fingerprint
from icl_plugins.duplicates import normalise
from icl_plugins.errors import BudgetError, SettingError
from icl_plugins.examples import Pool
from icl_plugins.prompt import ManyShotPrompt
from icl_plugins.selection import Selection
from icl_plugins.selectors._tokens import PromptTokens


@dataclass(frozen=True, eq=False)
class Budget:
    """Tokens of fixed block and nearest demonstrations together, as `counter` counts them.

    fixed: rows of the pool that say what the fixed block does, in its order. base: the tokens of that block
    alone. costs (N,): what each row of the pool adds.
    """

    max_tokens: int
    counter: PromptTokens
    pool: Pool
    fixed: tuple[int, ...]
    base: int
    costs: np.ndarray

    @classmethod
    def of(cls, max_tokens: int, counter: PromptTokens, pool: Pool, fixed: Sequence[int]) -> "Budget":
        """Count what is fixed; raises BudgetError where that alone is too much."""
        base = counter.total(pool, fixed)
        if base > max_tokens:
            raise BudgetError(
                f"a fixed block of {base} tokens in a budget of {max_tokens}",
                expected="a fixed block within the budget, since it is never cut",
                fix="raise the budget, or choose fewer fixed demonstrations",
            )
        costs = np.asarray(counter.costs(pool), dtype=np.int64)
        return cls(max_tokens, counter, pool, tuple(fixed), base, costs)

    def fill(self, ranking: np.ndarray, m: int) -> list[int]:
        """Return the first m rows of a ranking that fit, best first; what does not fit is passed over.

        Tokens may merge or split where texts meet, so the whole is counted and filled with less if need be.
        """
        room = self.max_tokens - self.base
        while chosen := self._take(ranking, m, room):
            excess = self.counter.total(self.pool, (*self.fixed, *reversed(chosen))) - self.max_tokens
            if excess <= 0:
                break
            room -= excess
        return chosen

    def _take(self, ranking: np.ndarray, m: int, room: int) -> list[int]:
        chosen: list[int] = []
        while len(chosen) < m:
            ranking = ranking[self.costs[ranking] <= room]
            if not ranking.size:
                break
            chosen.append(int(ranking[0]))
            room -= int(self.costs[ranking[0]])
            ranking = ranking[1:]
        return chosen


def candidates(fixed: ManyShotPrompt, pool: Pool, exclude: Iterable[int], distinct: str) -> tuple[int, ...]:
    """Return the rows that may be shown behind a fixed block: what it does not say, each thing once.

    distinct: "exact" or "normalised", as `Hybrid` says. Raises BudgetError where no row is left.
    """
    if distinct == "exact":
        seen, keys = {fingerprint(*pair) for pair in fixed.demonstrations}, pool.row_fingerprints
    else:
        seen = {normalise(question) for question, _ in fixed.demonstrations}
        keys = tuple(map(normalise, pool.questions))
    left_out, rows = set(exclude), []
    for row, key in enumerate(keys):
        if key not in seen and row not in left_out:
            seen.add(key)
            rows.append(row)
    if not rows:
        raise BudgetError(
            f"a fixed block that shows all there is to show of {len(pool)} examples",
            expected="examples besides it, for the queries",
            fix="choose fewer fixed demonstrations, or pass a larger pool",
        )
    return tuple(rows)


def shown_rows(fixed: ManyShotPrompt, pool: Pool) -> tuple[int, ...]:
    """Return a row of the pool for each fixed demonstration; raises SettingError for one that has none."""
    first = {key: row for row, key in reversed(list(enumerate(pool.row_fingerprints)))}
    rows = [first.get(fingerprint(*pair)) for pair in fixed.demonstrations]
    if None in rows:
        raise SettingError(
            f"a token budget, and fixed demonstration {rows.index(None)}, which is not in the pool",
            expected="fixed demonstrations from the pool, since tokens are counted in it",
            fix="pass the pool that they were chosen from, or leave out max_tokens",
        )
    return tuple(row for row in rows if row is not None)


def reserved_for(m: int, pool: Pool, counter: PromptTokens, max_tokens: int) -> int:
    """Return the tokens of m demonstrations of mean size; raises BudgetError where they are the budget."""
    costs = counter.costs(pool)
    reserved = ceil(m * sum(costs) / len(costs))
    if reserved >= whole_number("max_tokens", max_tokens, 1):
        raise BudgetError(
            f"a token budget of {max_tokens}, of which the m={m} nearest take about {reserved}",
            expected="room for them and a fixed block",
            fix="raise the budget or lower m",
        )
    return reserved


def counting_with(selector: Any, tokenizer: object) -> Any:
    """Return the selector with another tokenizer, where it, or the selector that it orders, has one."""
    names = [one.name for one in fields(selector)] if is_dataclass(selector) else []
    if tokenizer is not None and "tokenizer" in names:
        return replace(selector, tokenizer=tokenizer)
    if tokenizer is not None and "selector" in names:
        return replace(selector, selector=counting_with(selector.selector, tokenizer))
    return selector


def models_of(selector: Any) -> list[object]:
    """Return what a selector, and the one that it orders, names as proxy."""
    inner = getattr(selector, "selector", None)
    return [getattr(selector, "proxy", None), *([] if inner is None else models_of(inner))]


def block(
    source: Selection | ManyShotPrompt, pool: Pool | None, instruction: str
) -> tuple[ManyShotPrompt, Pool]:
    """Return the fixed prompt and the pool; raises SettingError unless they go together."""
    if isinstance(source, Selection):
        fixed, pool = source.to_prompt(instruction), source.pool if pool is None else pool
    elif isinstance(source, ManyShotPrompt) and not instruction:
        fixed = source
    else:
        raise SettingError(
            f"{type(source).__name__} as the fixed block, and the instruction {instruction!r:.40}",
            expected="a Selection, or a ManyShotPrompt, which has its instruction",
            fix="pass one of them",
        )
    if not isinstance(pool, Pool) or pool.template != fixed.template:
        raise SettingError(
            f"{type(pool).__name__} as pool" + " with another template" * isinstance(pool, Pool),
            expected="the Pool that the nearest come from, with the template of the fixed block",
            fix="pass Pool.from_records(records, prompt.template)",
        )
    return fixed, pool
