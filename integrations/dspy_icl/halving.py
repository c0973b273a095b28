"""Successive halving: many candidates on few examples, few candidates on many."""

from collections.abc import Sequence
from typing import NamedTuple

from icl_plugins.errors import SettingError


class Round(NamedTuple):
    """So many candidates have seen so many examples when the round is over."""

    candidates: int
    examples: int


def rounds(candidates: int, examples: int, budget: int) -> list[Round]:
    """Return the rounds that a budget of single evaluations allows (Jamieson and Talwalkar 2016).

    In each round half of the candidates of the round before, rounded up, have seen twice its examples; the
    last round is that of two candidates, or the first in which all examples were seen. Slices are nested, so
    that no candidate meets an example twice, and the first is the largest that the budget allows. Raises
    SettingError for a budget that does not give every candidate an example.
    """
    plans = (_plan(candidates, examples, first) for first in range(examples, 0, -1))
    plan = next((plan for plan in plans if cost(plan) <= budget), None)
    if plan is None:
        raise SettingError(
            f"{budget} metric calls for {candidates} candidates",
            expected=f"at least {cost(_plan(candidates, examples, 1))}",
            fix="raise max_metric_calls, or pass fewer candidates",
        )
    return plan


def cost(plan: Sequence[Round]) -> int:
    """Return the number of single evaluations of a plan."""
    before = [0, *(one.examples for one in plan)]
    return sum(one.candidates * (one.examples - seen) for one, seen in zip(plan, before, strict=False))


def _plan(candidates: int, examples: int, first: int) -> list[Round]:
    plan = [Round(candidates, min(first, examples))]
    while plan[-1].candidates > 2 and plan[-1].examples < examples:
        plan.append(Round(-(-plan[-1].candidates // 2), min(2 * plan[-1].examples, examples)))
    return plan
