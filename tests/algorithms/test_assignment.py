from itertools import permutations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from icl_plugins.algorithms.assignment import assign, assign_near
from icl_plugins.errors import BudgetError

seeds = st.integers(0, 100_000)


def total(costs, rows):
    return costs[np.arange(len(costs)), rows].sum(axis=-1)


def draw(seed, masked):
    """Costs (k, n), what is allowed, tokens (n,), and all ordered subsets that are allowed."""
    generator = np.random.default_rng(seed)
    slots = int(generator.integers(1, 5))
    candidates = int(generator.integers(slots, 7))
    costs = generator.normal(size=(slots, candidates))
    allowed = generator.random(costs.shape) < 0.6 if masked else None
    subsets = np.array(list(permutations(range(candidates), slots)))
    if masked:
        subsets = subsets[allowed[range(slots), subsets].all(axis=1)]
    return costs, allowed, generator.integers(1, 6, size=candidates), subsets, generator


@given(seeds, st.booleans())
def test_nothing_that_is_allowed_costs_less(seed, masked):
    costs, allowed, _, subsets, _ = draw(seed, masked)
    if not len(subsets):
        with pytest.raises(BudgetError, match=f"{len(costs)} slots for {costs.shape[1]} candidates"):
            assign(costs, allowed)
        return
    chosen = assign(costs, allowed)
    assert chosen.tolist() in subsets.tolist()
    assert total(costs, chosen) == pytest.approx(total(costs, subsets).min(), abs=1e-12)


@given(seeds, st.booleans())
def test_the_budget_is_kept_wherever_something_fits_it(seed, masked):
    costs, allowed, tokens, subsets, generator = draw(seed, masked)
    assume(len(subsets))
    spent = tokens[subsets].sum(axis=1)
    most = int(generator.integers(spent.min() - 2, spent.max() + 1))
    if most < spent.min():
        with pytest.raises(BudgetError, match="cheapest candidates take"):
            assign(costs, allowed, tokens=tokens, most=most)
        return
    chosen = assign(costs, allowed, tokens=tokens, most=most)
    assert chosen.tolist() in subsets.tolist() and tokens[chosen].sum() <= most


@given(seeds, st.booleans())
def test_a_budget_that_does_not_bind_changes_nothing(seed, masked):
    costs, allowed, tokens, subsets, _ = draw(seed, masked)
    assume(len(subsets))
    free = assign(costs, allowed)
    for most in (tokens[free].sum(), tokens.sum(), None):
        assert (assign(costs, allowed, tokens=tokens, most=most) == free).all()


@given(seeds, st.booleans())
def test_a_budget_costs_no_more_than_the_best_price_of_a_token(seed, masked):
    """Of all subsets that are the best at some price, the best that fits: brute force over prices."""
    costs, allowed, tokens, subsets, generator = draw(seed, masked)
    assume(len(subsets))
    spent, sums = tokens[subsets].sum(axis=1), total(costs, subsets)
    most = int(generator.integers(spent.min(), spent.max() + 1))
    priced = (sums + np.linspace(0, 40, 2000)[:, None] * spent).argmin(axis=1)
    expected = sums[priced[spent[priced] <= most]].min()
    found = total(costs, assign(costs, allowed, tokens=tokens, most=most))
    assert sums[spent <= most].min() - 1e-12 <= found <= expected + 1e-9


def test_a_price_is_found_even_where_one_token_less_moves_every_slot():
    """Slot j may hold j or j + 1, so that who is left out decides: 4 for a sum of 3.6, 0 for one of 7.6."""
    slots = np.arange(8)
    allowed = np.isin(np.arange(9) - slots[:, None], [0, 1])
    costs = np.zeros((8, 9))
    costs[slots, slots + 1] = np.where(slots < 4, 1.0, 0.9)
    tokens = np.full(9, 10)
    tokens[[4, 0]] = 11, 12
    chosen = assign(costs, allowed, tokens=tokens, most=int(tokens.sum()) - 11)
    assert total(costs, chosen) == pytest.approx(3.6)


@given(seeds, st.booleans(), st.booleans())
def test_no_more_slots_change_than_may_and_the_incumbent_is_never_bettered_for_the_worse(
    seed, masked, budgeted
):
    costs, allowed, tokens, subsets, generator = draw(seed, masked)
    spent = tokens[subsets].sum(axis=1)
    most = int(generator.integers(spent.min(), spent.max() + 1)) if budgeted and len(subsets) else None
    lawful = subsets if most is None else subsets[spent <= most]
    assume(len(lawful))
    incumbent = lawful[generator.integers(len(lawful))]
    for changes in range(len(costs) + 1):
        found = assign_near(costs, incumbent, changes, allowed, tokens=tokens, most=most)
        assert found.tolist() in lawful.tolist()
        assert (found != incumbent).sum() <= changes
        assert total(costs, found) <= total(costs, incumbent) + 1e-12


def test_what_lies_between_two_prices_of_a_token_does_not_replace_a_better_incumbent():
    """The incumbent costs 1 and is the best that fits, but the best at no price of a token."""
    costs, incumbent = np.array([[2.0, 0, 1], [1, 4, 0]]), np.array([1, 0])
    budget = {"tokens": np.array([2, 5, 3]), "most": 7}
    assert total(costs, assign(costs, **budget)) == 2
    for changes in range(3):
        assert (assign_near(costs, incumbent, changes, **budget) == incumbent).all()


@given(seeds, st.booleans())
def test_with_as_many_changes_as_slots_it_is_the_assignment_and_with_none_the_incumbent(seed, masked):
    costs, allowed, _, subsets, generator = draw(seed, masked)
    assume(len(subsets))
    incumbent = subsets[generator.integers(len(subsets))]
    best = assign(costs, allowed)
    for changes in (len(costs), len(costs) + 3):
        assert (assign_near(costs, incumbent, changes, allowed) == best).all()
    assert (assign_near(costs, incumbent, 0, allowed) == incumbent).all()


@given(seeds)
def test_few_changes_are_the_best_at_some_price_of_a_change(seed):
    costs, _, _, subsets, generator = draw(seed, False)
    incumbent = subsets[generator.integers(len(subsets))]
    changed, sums = (subsets != incumbent).sum(axis=1), total(costs, subsets)
    for changes in range(len(costs) + 1):
        priced = (sums + np.linspace(0, 40, 2000)[:, None] * changed).argmin(axis=1)
        expected = sums[priced[changed[priced] <= changes]].min()
        found = total(costs, assign_near(costs, incumbent, changes))
        assert sums[changed <= changes].min() - 1e-12 <= found <= expected + 1e-9


def test_slots_that_cannot_be_filled_are_refused():
    costs = np.zeros((2, 3))
    nowhere = np.array([[True, False, False], [True, False, False]])
    for call in (
        lambda: assign(np.zeros((3, 2))),
        lambda: assign(costs, nowhere),
        lambda: assign_near(costs, np.array([0, 1]), 2, nowhere),
    ):
        with pytest.raises(BudgetError, match="as many candidates as slots"):
            call()
    with pytest.raises(BudgetError, match="take 4 tokens"):
        assign_near(costs, np.array([0, 1]), 2, tokens=np.array([2, 2, 2]), most=3)


@given(st.integers(0, 10_000))
def test_the_best_single_change_is_the_best_of_all(seed):
    costs = np.random.default_rng(seed).normal(size=(4, 8))
    incumbent = np.random.default_rng(seed).permutation(8)[:4]
    found = assign_near(costs, incumbent, 1)
    every = [incumbent]
    for slot in range(4):
        for candidate in set(range(8)) - set(incumbent.tolist()):
            changed = incumbent.copy()
            changed[slot] = candidate
            every.append(changed)
    least = min(costs[np.arange(4), rows].sum() for rows in every)
    assert costs[np.arange(4), found].sum() == pytest.approx(least)
    assert costs[np.arange(4), assign_near(costs, incumbent, 2)].sum() <= least + 1e-12
