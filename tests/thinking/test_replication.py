from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom

from icl_plugins.errors import SettingError
from icl_plugins.thinking.replication import best_steps_on_evaluation_set, null_of_best

RIGHT = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 6)))


def noisy(rng, items, steps, rate, alike=0.8):
    """Answers, a share of which a coin decides anew after step 1, mostly the same coin at all steps."""
    first, coin = rng.random((2, items, 1)) < 0.5
    own = rng.random((items, steps)) < 0.5
    later = np.where(rng.random((items, steps)) < alike, coin, own)
    return np.concatenate([first, np.where(rng.random((items, 1)) < rate, later, first)], axis=1)


@given(RIGHT)
def test_the_best_is_the_highest_accuracy_and_never_below_one_step(right):
    found = best_steps_on_evaluation_set(right)
    accuracies = right.mean(axis=0)
    assert found.accuracy == pytest.approx(accuracies.max()) == accuracies[found.steps - 1]
    assert found.gain == pytest.approx(accuracies.max() - accuracies[0])
    assert found.gain >= 0


def test_of_equal_steps_the_later_is_taken_as_in_the_published_code():
    right = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 1], [0, 0, 0, 1, 0]], dtype=bool)
    assert best_steps_on_evaluation_set(right).steps == 4
    assert best_steps_on_evaluation_set(np.ones((3, 7), dtype=bool)).steps == 7


@given(RIGHT, st.sampled_from(["together", "apart"]), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_null_asks_nothing_of_the_order_of_items(right, steps, random):
    order = random.sample(range(len(right)), len(right))
    assert null_of_best(right, steps=steps, draws=50) == null_of_best(right[order], steps=steps, draws=50)


@pytest.mark.parametrize("steps", ["together", "apart"])
def test_where_no_answer_changes_nothing_is_gained_by_luck(steps):
    right = np.repeat(np.array([[True], [False], [True]]), 15, axis=1)
    found = null_of_best(right, steps=steps)
    assert (found.gain, found.p) == (0.0, 1.0)


def test_steps_together_is_the_mean_over_all_ways_to_exchange_gained_and_lost():
    right = np.random.default_rng(3).random((9, 5)) < 0.5
    changed = right.astype(int) - right[:, :1]
    best = [(np.array(signs) @ changed).max() for signs in product((-1, 1), repeat=9)]
    found = null_of_best(right, draws=40_000)
    assert found.gain == pytest.approx(np.mean(best) / 9, abs=0.004)
    assert found.p == pytest.approx(np.mean(best >= changed.sum(axis=0).max()), abs=0.01)


def test_steps_apart_is_the_best_of_independent_binomials():
    right = np.random.default_rng(4).random((40, 6)) < 0.5
    counts = (right != right[:, :1]).sum(axis=0)
    at_least = [1 - np.prod(binom.cdf((gain - 1 + counts) // 2, counts, 0.5)) for gain in range(1, 41)]
    assert null_of_best(right, steps="apart", draws=40_000).gain == pytest.approx(
        sum(at_least) / 40, abs=0.001
    )


def test_steps_that_are_copies_of_one_give_no_more_luck_than_one_unless_drawn_apart():
    rng = np.random.default_rng(5)
    two = rng.random((200, 2)) < 0.5
    copies = np.concatenate([two, *[two[:, 1:]] * 13], axis=1)
    one = null_of_best(two).gain
    assert null_of_best(copies).gain == pytest.approx(one, rel=0.05)
    assert null_of_best(copies, steps="apart").gain > 2 * one


def test_luck_alone_is_seldom_called_more_and_a_true_gain_is_found():
    rng = np.random.default_rng(6)
    found = [null_of_best(noisy(rng, 100, 14, 0.2), draws=200).p for _ in range(300)]
    assert 0.01 < np.mean(np.array(found) <= 0.05) < 0.09
    better = noisy(rng, 100, 14, 0.1)
    better[:, 7:] |= rng.random((100, 1)) < 0.3
    assert null_of_best(better).p < 0.01


@pytest.mark.parametrize(
    "right", [np.ones(3, dtype=bool), np.ones((3, 4)), np.ones((0, 4), dtype=bool), [[True, False]]]
)
def test_what_is_no_table_of_answers_is_refused(right):
    for ask in (best_steps_on_evaluation_set, null_of_best):
        with pytest.raises(SettingError, match=r"\(N, T\) bool"):
            ask(right)


def test_wrong_settings_of_the_null_are_refused():
    right = np.ones((3, 4), dtype=bool)
    for wrong in ({"steps": "one by one"}, {"draws": 0}, {"seed": -1}):
        with pytest.raises(SettingError):
            null_of_best(right, **wrong)
