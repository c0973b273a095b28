import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import bootstrap, t

from icl_plugins.errors import NonFiniteError, SettingError
from icl_plugins.evaluation.metrics import METRICS
from icl_plugins.evaluation.results import Evaluation
from icl_plugins.evaluation.samples import RESAMPLES, read, signs, weights
from icl_plugins.evaluation.statistics import (
    average_difference,
    average_interval,
    mean_interval,
    paired_difference,
)

LABELS = ("a", "b", "c")
VALUES = arrays(
    np.float64, st.tuples(st.integers(1, 3), st.integers(2, 8)), elements=st.floats(-4, 4, width=16)
)


def answered(rng, seeds, items, right=0.6, spread=0.3, difficulty=None):
    """Right and wrong answers (S, N) of seeds that are better or worse on items that are easy or hard."""
    difficulty = rng.normal(0, 1, items) if difficulty is None else difficulty
    logits = np.log(right / (1 - right)) + difficulty + rng.normal(0, spread, (seeds, 1))
    return (rng.random((seeds, items)) < 1 / (1 + np.exp(-logits))).astype(float)


def evaluation(golds, predictions, metric="macro_f1"):
    values = METRICS["accuracy"].values(predictions, golds)
    return Evaluation("target", "prompt", metric, tuple(golds), tuple(predictions), values)


@settings(deadline=None, max_examples=15)
@given(VALUES)
def test_the_mean_is_the_mean_and_lies_in_its_interval(values):
    found = mean_interval(values)
    assert found.mean == pytest.approx(values.mean())
    assert found.low <= found.mean + 1e-9 and found.mean - 1e-9 <= found.high
    assert (found.seeds, found.items) == values.shape


@settings(deadline=None, max_examples=15)
@given(VALUES, st.floats(-3, 3), st.sampled_from([0.5, 2.0]))
def test_the_interval_moves_and_stretches_with_the_values(values, shift, factor):
    found, moved = mean_interval(values), mean_interval(values * factor + shift)
    expected = np.array([found.mean, found.low, found.high]) * factor + shift
    assert [moved.mean, moved.low, moved.high] == pytest.approx(expected.tolist(), abs=1e-6)


def test_with_one_seed_the_interval_is_that_of_the_percentile_bootstrap():
    values = answered(np.random.default_rng(0), 1, 400)
    found = mean_interval(values[0])
    reference = bootstrap((values[0],), np.mean, method="percentile", rng=np.random.default_rng(1))
    assert [found.low, found.high] == pytest.approx(list(reference.confidence_interval), abs=0.004)


def test_the_draws_equal_the_loop_that_defines_them():
    """Items are drawn once for all seeds; here by the weights that say how often each was drawn."""
    values = answered(np.random.default_rng(0), 3, 7)
    drawn = weights(7, (0, 0))
    assert drawn.shape == (RESAMPLES, 7) and (drawn.sum(axis=1) == 7).all()
    sample = read(values)
    fast = sample.total(np.einsum("bn,snk->bsk", drawn.astype(float), sample.counts))
    for draw in range(20):
        items = [item for item in range(7) for _ in range(int(drawn[draw, item]))]
        assert fast[draw] == pytest.approx(values[:, items].mean(axis=1))


def coverage(make, runs=200):
    inside = [found.low <= truth <= found.high for found, truth in (make(run) for run in range(runs))]
    return float(np.mean(inside))


def test_intervals_over_few_seeds_hold_what_they_promise():
    """Ten seeds whose prompts differ a lot; without the widening of few seeds about 0.90."""

    def make(run):
        rng = np.random.default_rng(run)
        return mean_interval(rng.normal(0, 1, (6, 1)) + rng.normal(0, 1, 80) + rng.normal(0, 1, (6, 80))), 0.0

    assert 0.92 <= coverage(make) <= 0.99


@pytest.mark.parametrize(("seeds", "others", "spread"), [(1, 1, 0.0), (3, 10, 0.5), (4, 4, 0.3)])
def test_a_true_null_hypothesis_is_rejected_at_most_as_often_as_promised(seeds, others, spread):
    """Both sides answer alike on the same items; a side of one seed is the prompt that it is: no spread."""
    rejected = []
    for run in range(200):
        rng = np.random.default_rng(run)
        difficulty = rng.normal(0, 1.5, 80)
        a = answered(rng, seeds, 80, spread=spread, difficulty=difficulty)
        b = answered(rng, others, 80, spread=spread, difficulty=difficulty)
        rejected.append(paired_difference(a, b).p < 0.05)
    assert np.mean(rejected) <= 0.08  # 0.05 and two standard errors of 200 runs


def test_a_true_difference_is_found_and_its_interval_leaves_zero_out():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 1, 300)
    a = answered(rng, 3, 300, right=0.8, difficulty=difficulty)
    b = answered(rng, 10, 300, right=0.6, difficulty=difficulty)
    found = paired_difference(a, b)
    assert found.p < 0.01 and found.low > 0
    assert found.mean == pytest.approx(a.mean() - b.mean())
    assert (found.items, found.seeds) == (300, 3)


def test_the_p_value_of_few_items_is_that_of_all_sign_flips():
    a, b = np.array([1, 1, 0, 1, 1, 1, 0, 1.0]), np.array([0, 1, 0, 0, 0, 1, 1, 0.0])
    flips = np.array(list(itertools.product([-1, 1], repeat=8))) @ (a - b)
    exact = np.mean(np.abs(flips) >= abs((a - b).sum()) - 1e-12)
    assert paired_difference(a, b).p == pytest.approx(exact, abs=0.015)


def test_few_items_are_as_uncertain_as_students_t_says():
    values = np.array([-2.0, -1, 0, 1, 2])
    found = mean_interval(values)
    assert (found.low, found.high) == pytest.approx(
        t.interval(0.95, 4, 0, values.std(ddof=1) / 5**0.5), rel=0.05
    )


def test_two_data_sets_with_the_same_difference_say_more_than_one():
    a, b = np.array([1, 1, 0, 1, 1, 1, 0, 1.0]), np.array([0, 1, 0, 0, 0, 1, 1, 0.0])
    assert average_difference([(a, b), (a, b)]).p < 0.6 * paired_difference(a, b).p


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6))
def test_the_other_side_sees_the_difference_mirrored(seed):
    rng = np.random.default_rng(seed)
    a, b = answered(rng, 2, 20), answered(rng, 2, 20)
    ab, ba = paired_difference(a, b), paired_difference(b, a)
    assert ab.mean == pytest.approx(-ba.mean)
    assert ab.p == pytest.approx(ba.p)


def test_pairing_removes_what_both_sides_share():
    difficulty = np.random.default_rng(0).normal(0, 5, 200)
    found = paired_difference(difficulty + 0.1, difficulty)
    assert (found.low, found.high) == pytest.approx((0.1, 0.1))
    assert found.p < 0.001


def test_equal_sides_differ_by_nothing():
    values = answered(np.random.default_rng(0), 2, 30)
    found = paired_difference(values, values)
    assert (found.mean, found.p) == (0.0, 1.0)


def test_the_average_over_data_sets_is_more_certain_than_each():
    rng = np.random.default_rng(0)
    pairs = [(answered(rng, 4, n, 0.75), answered(rng, 4, n, 0.6)) for n in (60, 90, 120)]
    found, each = average_difference(pairs), [paired_difference(a, b) for a, b in pairs]
    assert found.mean == pytest.approx(np.mean([one.mean for one in each]))
    assert found.high - found.low < min(one.high - one.low for one in each)
    assert average_interval([a for a, _ in pairs]).mean == pytest.approx(
        np.mean([a.mean() for a, _ in pairs])
    )
    assert (found.items, found.seeds) == (60, 4)


def test_data_sets_vary_each_on_their_own():
    """The same values twice: the average of independent data sets errs less by the root of 2."""
    values = answered(np.random.default_rng(0), 1, 400)
    one, two = mean_interval(values), average_interval([values, values])
    assert (one.high - one.low) / (two.high - two.low) == pytest.approx(2**0.5, rel=0.05)


def test_a_metric_that_is_no_mean_is_resampled_as_a_whole():
    rng = np.random.default_rng(0)
    golds = rng.choice(LABELS, 60, p=[0.6, 0.3, 0.1])
    predictions = np.where(rng.random(60) < 0.5, golds, rng.choice(LABELS, 60))
    metric, draws = METRICS["macro_f1"], rng.integers(60, size=(1500, 60))
    slow = np.quantile([metric.value(predictions[items], golds[items]) for items in draws], [0.025, 0.975])
    found = mean_interval([evaluation(golds.tolist(), predictions.tolist())])
    assert found.mean == pytest.approx(metric.value(predictions, golds))
    assert [found.low, found.high] == pytest.approx(slow.tolist(), abs=0.02)


def test_the_value_of_several_evaluations_is_the_mean_of_theirs():
    golds = "aabbc"
    seeds = [evaluation(golds, answers) for answers in ("aabbc", "aaaaa", ["b", None, "b", "b", "c"])]
    assert mean_interval(seeds).mean == pytest.approx(np.mean([one.value for one in seeds]))
    mine = [Evaluation("t", "p", "mine", ("x", "y"), ("x", "y"), values) for values in ((0.5, 1), (0, 0.25))]
    assert mean_interval(mine).mean == pytest.approx(1.75 / 4)


def test_exchanged_answers_are_the_null_of_a_metric_that_is_no_mean():
    """Every flip of four items by hand, macro-F1 of both sides computed anew each time."""
    golds, a, b = "aabb", ["a", "a", "b", "a"], ["b", "a", "a", None]
    metric, gaps = METRICS["macro_f1"], []
    for flips in itertools.product([False, True], repeat=4):
        one = [y if flip else x for x, y, flip in zip(a, b, flips, strict=True)]
        two = [x if flip else y for x, y, flip in zip(a, b, flips, strict=True)]
        gaps.append(abs(metric.value(one, golds) - metric.value(two, golds)))
    exact = np.mean(np.array(gaps) >= gaps[0] - 1e-12)
    assert paired_difference([evaluation(golds, a)], [evaluation(golds, b)]).p == pytest.approx(
        exact, abs=0.02
    )


def test_flips_are_fair():
    assert abs(signs(50, (0, 0)).mean()) < 0.01


def test_equal_seeds_give_equal_results_and_others_do_not():
    values = answered(np.random.default_rng(0), 2, 50)
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_one_item_is_judged_by_its_seeds_alone():
    found = mean_interval([[0.0], [1.0], [1.0]])
    assert (found.items, found.seeds) == (1, 3)
    assert found.low < 2 / 3 < found.high


def test_one_item_and_one_seed_say_nothing_about_others():
    with pytest.raises(SettingError, match="one item and one seed"):
        mean_interval([1.0])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(wrong):
    with pytest.raises(NonFiniteError, match="1 values"):
        mean_interval([0.0, 1.0, wrong])


@pytest.mark.parametrize("wrong", [[], [[]], np.zeros((2, 2, 2)), ["a"], None, [[1.0], [1.0, 2.0]]])
def test_what_is_no_table_of_values_is_refused(wrong):
    with pytest.raises(SettingError, match="a sample of shape"):
        mean_interval(wrong)


def test_no_data_sets_have_no_average():
    with pytest.raises(SettingError, match="no samples"):
        average_interval([])


def test_samples_of_different_items_are_not_paired():
    with pytest.raises(SettingError, match="different items"):
        paired_difference([0.0, 1.0], [0.0, 1.0, 1.0])
    one, other = evaluation("ab", "ab"), evaluation("ba", "ba")
    with pytest.raises(SettingError, match="different items"):
        paired_difference([one], [other])
    with pytest.raises(SettingError, match="in one sample"):
        mean_interval([one, other])
