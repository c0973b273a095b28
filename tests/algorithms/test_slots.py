from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_plugins.algorithms.slots import SlotTable, johnson_lindenstrauss, slot_table
from icl_plugins.errors import BudgetError, DataError, NonFiniteError


def draw(seed, slots=3, candidates=6, tokens=4, width=5):
    generator = np.random.default_rng(seed)
    gradients, anchor = generator.normal(size=(2, slots, tokens, width))
    return gradients, generator.normal(size=(candidates, tokens, width)), anchor, float(generator.normal())


def every(slots, candidates):
    return np.array(list(permutations(range(candidates), slots)))


@given(st.integers(0, 10_000))
def test_look_ups_are_the_taylor_expansion_of_every_ordered_subset(seed):
    gradients, embeddings, anchor, outcome = draw(seed)
    subsets = every(3, 6)
    direct = [outcome + np.sum(gradients * (embeddings[subset] - anchor)) for subset in subsets]
    table = slot_table(gradients, embeddings, anchor, outcome)
    np.testing.assert_allclose(table.outcomes(subsets), direct, atol=1e-10)


def test_the_anchor_itself_has_its_own_outcome():
    gradients, embeddings, _, outcome = draw(1)
    table = slot_table(gradients, embeddings, embeddings[[4, 0, 2]], outcome)
    assert table.outcomes(np.array([[4, 0, 2]]))[0] == pytest.approx(outcome, abs=1e-12)


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(4, 8))
def test_the_assignment_is_the_best_of_all_ordered_subsets(seed, slots, candidates):
    table = SlotTable(np.random.default_rng(seed).normal(size=(slots, candidates)), 1.5)
    chosen, value = table.best()
    assert len(set(chosen.tolist())) == slots
    assert value == pytest.approx(table.outcomes(every(slots, candidates)).min(), abs=1e-12)


@given(st.integers(0, 10_000))
def test_the_table_of_mean_gradients_is_the_mean_of_the_tables(seed):
    gradients, embeddings, anchor, outcome = draw(seed)
    more = np.random.default_rng(seed + 1).normal(size=(5, *gradients.shape))
    mean = slot_table(more.mean(axis=0), embeddings, anchor, outcome)
    each = [slot_table(one, embeddings, anchor, outcome) for one in more]
    np.testing.assert_allclose(mean.table, np.mean([one.table for one in each], axis=0), atol=1e-10)
    assert mean.constant == pytest.approx(np.mean([one.constant for one in each]))


def test_mean_scores_are_the_means_over_all_subsets_that_hold_a_candidate():
    """Up to a constant: GradRE with as many subsets as there are."""
    table = SlotTable(np.random.default_rng(0).normal(size=(3, 6)), 0.7)
    subsets = every(3, 6)
    outcomes = table.outcomes(subsets)
    means = np.array([outcomes[(subsets == row).any(axis=1)].mean() for row in range(6)])
    np.testing.assert_allclose(means - means.mean(), table.mean_scores() - table.mean_scores().mean())


def test_permuted_candidates_give_the_same_choice():
    gradients, embeddings, anchor, outcome = draw(2)
    order = np.random.default_rng(0).permutation(6)
    chosen, value = slot_table(gradients, embeddings, anchor, outcome).best()
    again, same = slot_table(gradients, embeddings[order], anchor, outcome).best()
    assert order[again].tolist() == chosen.tolist() and same == pytest.approx(value)


def test_projections_keep_inner_products_in_the_mean():
    u, v = np.random.default_rng(3).normal(size=(2, 40))
    products = [
        (u @ projection) @ (v @ projection)
        for projection in (johnson_lindenstrauss(40, 16, seed=seed) for seed in range(3000))
    ]
    variance = ((u @ u) * (v @ v) + (u @ v) ** 2) / 16
    assert abs(np.mean(products) - u @ v) < 4 * np.sqrt(variance / 3000)
    assert np.var(products) == pytest.approx(variance, rel=0.15)


def test_what_does_not_belong_together_is_refused():
    gradients, embeddings, anchor, outcome = draw(0)
    table = slot_table(gradients, embeddings, anchor, outcome)
    for wrong in ([[0, 1]], [[0, 1, 6]], [[0, 1, -1]], [[0.0, 1.0, 2.0]], [0, 1, 2]):
        with pytest.raises(DataError, match="whole numbers from 0 to 5"):
            table.outcomes(np.array(wrong))
    with pytest.raises(DataError, match="an anchor of 2"):
        slot_table(gradients, embeddings, anchor[:2], outcome)
    with pytest.raises(DataError, match="shapes"):
        slot_table(gradients, embeddings[:, :3], anchor, outcome)
    with pytest.raises(NonFiniteError):
        slot_table(gradients * np.nan, embeddings, anchor, outcome)
    with pytest.raises(BudgetError, match="3 slots for 2 candidates"):
        slot_table(gradients, embeddings[:2], anchor, outcome).best()
