from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_plugins.algorithms.slots import SlotTable, johnson_lindenstrauss, mean_table, slot_table
from icl_plugins.errors import BudgetError, DataError, NonFiniteError


def draw(seed, slots=3, candidates=6, tokens=4, width=5, vocabulary=9):
    """Gradients, ids with pads, the embeddings of the vocabulary, an anchor, its outcome."""
    generator = np.random.default_rng(seed)
    gradients, anchor = generator.normal(size=(2, slots, tokens, width))
    ids = generator.integers(-1, vocabulary, size=(candidates, tokens))
    return gradients, ids, generator.normal(size=(vocabulary, width)), anchor, float(generator.normal())


def padded(ids, embeddings):
    """The definition: (n, T, h), 0 at pads."""
    return np.array([[embeddings[at] if at >= 0 else 0 * embeddings[0] for at in row] for row in ids])


def every(slots, candidates):
    return np.array(list(permutations(range(candidates), slots)))


@given(st.integers(0, 10_000))
def test_look_ups_are_the_taylor_expansion_of_every_ordered_subset(seed):
    gradients, ids, embeddings, anchor, outcome = draw(seed)
    subsets, texts = every(3, 6), padded(ids, embeddings)
    direct = [outcome + np.sum(gradients * (texts[subset] - anchor)) for subset in subsets]
    table = slot_table(gradients, ids, embeddings, anchor, outcome)
    np.testing.assert_allclose(table.outcomes(subsets), direct, atol=1e-10)


@given(st.integers(0, 10_000))
def test_an_outcome_that_is_linear_in_the_embeddings_is_estimated_exactly(seed):
    """Whatever the anchor, for every ordered subset."""
    weights, ids, embeddings, anchor, offset = draw(seed)

    def outcome(slots):
        return offset + float(np.sum(weights * slots))

    subsets, texts = every(3, 6), padded(ids, embeddings)
    for start in (anchor, texts[[5, 1, 0]]):
        table = slot_table(weights, ids, embeddings, start, outcome(start))
        np.testing.assert_allclose(
            table.outcomes(subsets), [outcome(texts[one]) for one in subsets], atol=1e-10
        )


def test_the_anchor_itself_has_its_own_outcome():
    gradients, ids, embeddings, _, outcome = draw(1)
    anchor = padded(ids, embeddings)[[4, 0, 2]]
    table = slot_table(gradients, ids, embeddings, anchor, outcome)
    assert table.outcomes(np.array([[4, 0, 2]]))[0] == pytest.approx(outcome, abs=1e-12)


def test_pads_add_nothing():
    gradients, ids, embeddings, anchor, outcome = draw(2)
    ids[0], ids[1, :3] = -1, -1
    table = slot_table(gradients, ids, embeddings, anchor, outcome).table
    assert (table[:, 0] == 0).all()
    np.testing.assert_allclose(table[:, 1], gradients[:, 3] @ embeddings[ids[1, 3]], atol=1e-12)


@pytest.mark.parametrize("block", [1, 41, 80, 1 << 26])
def test_the_table_does_not_depend_on_the_blocks_it_is_made_in(block):
    parts = draw(3, slots=7)
    np.testing.assert_allclose(slot_table(*parts, block=block).table, slot_table(*parts).table, atol=1e-12)


def test_single_precision_is_close_to_double():
    *parts, outcome = draw(4, slots=5, candidates=40, tokens=30, width=64)
    gradients, ids, embeddings, anchor = parts
    exact = slot_table(*parts, outcome)
    for kinds in ((np.float32, np.float64), (np.float32, np.float32)):
        table = slot_table(
            gradients.astype(kinds[0]), ids, embeddings.astype(kinds[1]), anchor.astype(kinds[1]), outcome
        )
        assert table.table.dtype == np.float64
        np.testing.assert_allclose(table.table, exact.table, atol=1e-3)
        assert table.constant == pytest.approx(exact.constant, abs=1e-3)


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(4, 8), st.booleans())
def test_the_assignment_is_the_best_of_all_lawful_subsets(seed, slots, candidates, free):
    generator = np.random.default_rng(seed)
    table = SlotTable(generator.normal(size=(slots, candidates)), 1.5)
    allowed = None if free else generator.random(table.table.shape) < 0.7
    subsets = every(slots, candidates)
    if allowed is not None:
        allowed[range(slots), generator.permutation(candidates)[:slots]] = True
        subsets = subsets[allowed[range(slots), subsets].all(axis=1)]
    chosen, value = table.best(allowed)
    assert chosen.tolist() in subsets.tolist()
    assert value == pytest.approx(table.outcomes(subsets).min(), abs=1e-12)


@given(st.integers(0, 10_000))
def test_the_table_of_mean_gradients_is_the_mean_of_the_tables(seed):
    gradients, ids, embeddings, anchor, _ = draw(seed)
    generator = np.random.default_rng(seed + 1)
    more, outcomes = generator.normal(size=(5, *gradients.shape)), generator.normal(size=5)
    of_mean = slot_table(more.mean(axis=0), ids, embeddings, anchor, outcomes.mean())
    mean = mean_table(
        [slot_table(one, ids, embeddings, anchor, value) for one, value in zip(more, outcomes, strict=True)]
    )
    np.testing.assert_allclose(of_mean.table, mean.table, atol=1e-10)
    assert of_mean.constant == pytest.approx(mean.constant)


def test_the_mean_of_tables_around_several_anchors_has_the_mean_of_their_estimates():
    subsets = every(3, 6)
    tables = [slot_table(*draw(seed)) for seed in range(4)]
    np.testing.assert_allclose(
        mean_table(tables).outcomes(subsets), np.mean([table.outcomes(subsets) for table in tables], axis=0)
    )


def test_mean_scores_are_the_means_over_all_subsets_that_hold_a_candidate():
    """Up to a constant and a factor: GradRE with as many subsets as there are."""
    table = SlotTable(np.random.default_rng(0).normal(size=(3, 6)), 0.7)
    subsets = every(3, 6)
    outcomes = table.outcomes(subsets)
    means = np.array([outcomes[(subsets == row).any(axis=1)].mean() for row in range(6)])
    scores = table.mean_scores()
    np.testing.assert_allclose(means - means.mean(), (1 - 2 / 5) * (scores - scores.mean()))


def test_with_a_slot_for_each_label_mean_scores_rank_within_a_label_as_all_lawful_subsets_do():
    table, labels = (
        SlotTable(np.random.default_rng(1).normal(size=(3, 7)), 0.7),
        np.array([0, 1, 0, 1, 0, 1, 0]),
    )
    allowed = np.array([0, 1, 0])[:, None] == labels
    subsets = every(3, 7)
    subsets = subsets[allowed[range(3), subsets].all(axis=1)]
    outcomes = table.outcomes(subsets)
    means = np.array([outcomes[(subsets == row).any(axis=1)].mean() for row in range(7)])
    for label in (0, 1):
        own = labels == label
        assert (table.mean_scores(allowed)[own].argsort() == means[own].argsort()).all()


def test_a_candidate_that_may_stand_nowhere_is_scored_by_all_slots():
    table = SlotTable(np.array([[1.0, 3.0, 5.0], [2.0, 4.0, 9.0]]), 0.0)
    allowed = np.array([[True, False, True], [True, False, False]])
    assert table.mean_scores(allowed).tolist() == [1.5, 3.5, 5]


def test_permuted_candidates_give_the_same_choice():
    gradients, ids, embeddings, anchor, outcome = draw(2)
    order = np.random.default_rng(0).permutation(6)
    chosen, value = slot_table(gradients, ids, embeddings, anchor, outcome).best()
    again, same = slot_table(gradients, ids[order], embeddings, anchor, outcome).best()
    assert order[again].tolist() == chosen.tolist() and same == pytest.approx(value)


def test_the_numbers_that_tokens_go_by_change_nothing():
    gradients, ids, embeddings, anchor, outcome = draw(5)
    order = np.random.default_rng(0).permutation(len(embeddings))
    other = np.where(ids >= 0, np.argsort(order)[ids], -1)
    np.testing.assert_allclose(
        slot_table(gradients, other, embeddings[order], anchor, outcome).table,
        slot_table(gradients, ids, embeddings, anchor, outcome).table,
        atol=1e-12,
    )


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
    gradients, ids, embeddings, anchor, outcome = draw(0)
    table = slot_table(gradients, ids, embeddings, anchor, outcome)
    for wrong in ([[0, 1]], [[0, 1, 6]], [[0, 1, -1]], [[0.0, 1.0, 2.0]], [0, 1, 2]):
        with pytest.raises(DataError, match="whole numbers from 0 to 5"):
            table.outcomes(np.array(wrong))
    for parts in (
        (gradients, ids, embeddings, anchor[:2]),
        (gradients[0], ids, embeddings, anchor[0]),
        (gradients, ids[:, :3], embeddings, anchor),
        (gradients, ids, embeddings[:, :3], anchor),
        (gradients, np.where(ids == 0, 9, ids), embeddings, anchor),
        (gradients, np.where(ids == 0, -2, ids), embeddings, anchor),
    ):
        with pytest.raises(DataError, match="shapes"):
            slot_table(*parts, outcome)
    for parts in ((gradients * np.nan, outcome), (gradients, np.inf)):
        with pytest.raises(NonFiniteError):
            slot_table(parts[0], ids, embeddings, anchor, parts[1])
    with pytest.raises(BudgetError, match="3 slots for 2 candidates"):
        slot_table(gradients, ids[:2], embeddings, anchor, outcome).best()
