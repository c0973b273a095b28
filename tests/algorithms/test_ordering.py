from fractions import Fraction
from itertools import permutations as all_permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_plugins.algorithms.features import Features
from icl_plugins.algorithms.ordering import ascending, distances_to_mean, interleaved, permutations
from icl_plugins.errors import NonFiniteError


def deviation(labels):
    """The definition: how far a label's count strays from its share, over all beginnings and labels."""
    shares = {label: Fraction(labels.count(label), len(labels)) for label in labels}
    return max(
        abs(labels[:size].count(label) - size * share)
        for size in range(len(labels) + 1)
        for label, share in shares.items()
    )


def in_order(labels):
    return [labels[position] for position in interleaved(labels)]


def least_deviation(counts):
    """The least deviation that any order has, by trying all ways to every vector of counts so far."""
    size, best = sum(counts), {(0,) * len(counts): Fraction(0)}
    for seen in range(1, size + 1):
        reached = {}
        for taken, worst in best.items():
            for label, count in enumerate(counts):
                if taken[label] < count:
                    now = (*taken[:label], taken[label] + 1, *taken[label + 1 :])
                    off = max(abs(n - Fraction(seen * c, size)) for n, c in zip(now, counts, strict=True))
                    reached[now] = min(reached.get(now, size), max(worst, off))
        best = reached
    return best[tuple(counts)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.randoms())
def test_no_order_spreads_the_labels_more_evenly(counts, shuffler):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    shuffler.shuffle(labels)
    assert deviation(in_order(labels)) == least_deviation(counts)


def test_the_least_deviation_is_that_of_the_best_permutation():
    for counts in ([3, 2, 1], [1, 1, 4], [5, 1], [2, 2, 2], [2, 1, 1, 1]):
        labels = [label for label, count in enumerate(counts) for _ in range(count)]
        assert least_deviation(counts) == min(deviation(list(other)) for other in all_permutations(labels))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=120))
def test_labels_stray_less_than_one_from_their_shares(labels):
    """With m labels at most 1 - 1 / (2 m - 2), whatever their counts (Tijdeman 1980)."""
    kinds = len(set(labels))
    assert deviation(in_order(labels)) <= (1 - Fraction(1, 2 * kinds - 2) if kinds > 1 else 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40))
def test_interleaving_keeps_the_order_within_a_label(labels):
    positions = interleaved(labels).tolist()
    assert sorted(positions) == list(range(len(labels)))
    for label in set(labels):
        own = [position for position in positions if labels[position] == label]
        assert own == sorted(own)


def test_labels_that_are_all_different_stay_in_their_order():
    assert interleaved("edcba").tolist() == [0, 1, 2, 3, 4]


def test_two_labels_of_equal_share_alternate():
    assert "".join(in_order("aaabbb")) in ("ababab", "abbaab", "ababba", "abbaba")
    assert deviation(in_order(list("aaabbb"))) == Fraction(1, 2)


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 10**6)), min_size=1, max_size=20, unique=True))
def test_ascending_sorts_by_value_then_by_row(pairs):
    values, rows = np.array([value for value, _ in pairs], dtype=float), [row for _, row in pairs]
    assert [pairs[position] for position in ascending(values, rows)] == sorted(pairs)


def test_values_that_differ_by_rounding_are_a_tie():
    assert ascending(np.array([2.0, 2.0 - 1e-9, 1.0]), [4, 7, 9]).tolist() == [2, 0, 1]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused_by_row(wrong):
    with pytest.raises(NonFiniteError, match=r"1 values .* rows \[7\]"):
        ascending(np.array([1.0, wrong]), [4, 7])


def test_permutations_begin_with_the_given_order_and_are_those_of_the_seed():
    orders = permutations(6, 4, seed=3)
    assert orders[0].tolist() == list(range(6)) and len(orders) == 4
    assert all(sorted(order.tolist()) == list(range(6)) for order in orders)
    assert [order.tolist() for order in permutations(6, 2, seed=3)] == [o.tolist() for o in orders[:2]]
    assert len({tuple(permutations(6, 2, seed=seed)[1]) for seed in range(5)}) > 1


def test_distances_are_those_from_the_mean_of_all_rows():
    blocks = [np.random.default_rng(0).normal(size=(9, 3)), np.random.default_rng(1).normal(size=(9, 2))]
    whole = np.concatenate(blocks, axis=1)
    expected = np.linalg.norm(whole - whole.mean(axis=0), axis=1)
    np.testing.assert_allclose(distances_to_mean(Features.of(blocks), [5, 0]), expected[[5, 0]])
