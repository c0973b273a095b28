from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, spearmanr

from icl_plugins.algorithms.honesty import Measured, estimate_quality
from icl_plugins.errors import DataError, NonFiniteError


def draw(seed, sizes, agreement=0.5):
    """Groups whose estimates and real outcomes share a part, each with a level of its own."""
    generator = np.random.default_rng(seed)
    groups = []
    for size in sizes:
        real, noise = generator.normal(size=(2, size))
        level = 5 + generator.normal()
        groups.append(Measured(level + agreement * real + noise, level + real, level))
    return groups


def relative(one, other):
    larger = max(abs(one), abs(other))
    return abs(one - other) / larger if larger else 0.0


def slow(groups):
    """The definitions, one number after the other."""
    pairs = [(e, r, g.anchor) for g in groups for e, r in zip(g.estimates, g.real, strict=True)]
    ours = [relative(estimate, real) for estimate, real, _ in pairs]
    constant = [relative(anchor, real) for _, real, anchor in pairs]
    inside = [
        (e - sum(g.estimates) / len(g.estimates), r - sum(g.real) / len(g.real))
        for g in groups
        for e, r in zip(g.estimates, g.real, strict=True)
    ]
    correlation = spearmanr(*zip(*inside, strict=True))[0]
    free = len(pairs) - (len(groups) - 1)
    wide = norm.ppf(0.975) * np.sqrt((1 + correlation**2 / 2) / (free - 3))
    regrets, constants = [], []
    for group in groups:
        top = max(1, len(group.real) // 10)
        ranked = sorted(range(len(group.real)), key=lambda at: group.estimates[at])
        best = sum(sorted(group.real)[:top]) / top
        regrets.append(sum(group.real[at] for at in ranked[:top]) / top - best)
        constants.append(sum(group.real) / len(group.real) - best)
    left = sum((estimate - real) ** 2 for estimate, real, _ in pairs)
    return (
        len(pairs),
        np.mean(ours),
        np.mean([one**2 for one in ours]),
        np.mean(constant),
        np.mean([one**2 for one in constant]),
        correlation,
        np.tanh(np.arctanh(correlation) - wide),
        np.tanh(np.arctanh(correlation) + wide),
        np.mean(regrets),
        np.mean(constants),
        1 - left / sum((anchor - real) ** 2 for _, real, anchor in pairs),
    )


@given(st.integers(0, 10_000), st.lists(st.integers(2, 30), min_size=1, max_size=5))
def test_every_figure_is_that_of_its_definition(seed, sizes):
    groups = draw(seed, [8, *sizes])
    np.testing.assert_allclose(astuple(estimate_quality(groups)), slow(groups), rtol=1e-9, atol=1e-9)


def test_ties_and_outcomes_of_0_are_counted_as_in_the_definition():
    estimates = np.array([0, 0, 1, 1, 2, 0, 3.0])
    group = Measured(estimates, np.array([0, 1, 1, 0, 2, 2, 2.0]), 0.5)
    np.testing.assert_allclose(astuple(estimate_quality([group])), slow([group]), atol=1e-12)


@given(st.integers(0, 10_000), st.sampled_from([np.exp, np.arctan, np.cbrt, lambda one: 1e-9 * one]))
def test_increasing_maps_of_the_estimates_of_one_group_keep_their_rank_correlation(seed, increasing):
    (group,) = draw(seed, [40])
    mapped = estimate_quality([Measured(increasing(group.estimates), group.real, group.anchor)])
    plain = estimate_quality([group])
    assert mapped.rank_correlation == pytest.approx(plain.rank_correlation, abs=1e-12)
    assert (mapped.regret, mapped.trusted) == (plain.regret, plain.trusted)


@given(st.integers(0, 10_000), st.integers(4, 60))
def test_perfect_estimates_are_trusted(seed, size):
    (group,) = draw(seed, [size])
    found = estimate_quality([Measured(group.real, group.real, group.anchor)])
    assert found.trusted and found.rank_correlation == pytest.approx(1)
    assert found.regret == found.relative_error == 0 and found.explained == 1


@pytest.mark.parametrize("sizes", [[200], [25] * 8, [4] * 8, [2] * 8])
def test_noise_is_not_trusted_more_often_than_the_interval_says(sizes):
    """In 2.5 % of all cases the interval lies above 0; in 1000 of them, 4 standard errors are 2 %."""
    found = [estimate_quality(draw(seed, sizes, agreement=0)) for seed in range(1000)]
    assert np.mean([one.low > 0 for one in found]) < 0.045
    assert np.mean([one.trusted for one in found]) <= np.mean([one.low > 0 for one in found])


def test_the_opposite_of_the_truth_is_not_trusted():
    (group,) = draw(0, [100])
    found = estimate_quality([Measured(-group.real, group.real, group.anchor)])
    assert not found.trusted and found.rank_correlation == pytest.approx(-1)
    assert found.regret > found.constant_regret


@pytest.mark.parametrize("level", [0.1, 1234.567, 1e8 / 3])
def test_a_constant_has_the_correlation_0_and_is_not_trusted(level):
    """Though its mean is rounded, by each group in another way."""
    groups = [
        Measured(np.full(len(one.real), level + at / 3), one.real, level + at / 3)
        for at, one in enumerate(draw(1, [30, 7, 11]))
    ]
    found = estimate_quality(groups)
    assert found.rank_correlation == 0 and not found.trusted
    assert found.low == -found.high < 0
    assert found.explained == 0
    assert found.relative_error == found.constant_relative_error


def test_outcomes_that_are_all_the_same_leave_nothing_to_rank():
    found = estimate_quality([Measured(np.arange(5.0), np.full(5, 2.0), 2.0)])
    assert (found.rank_correlation, found.regret, found.constant_regret, found.explained) == (0, 0, 0, 0)
    assert not found.trusted


def test_what_tells_groups_apart_does_not_count():
    """Noise around levels that estimates and outcomes share: raw ranks would agree almost perfectly."""
    levels = np.arange(8) * 100.0
    correlations = []
    for seed in range(200):
        groups = [
            Measured(one.estimates + level, one.real + level, one.anchor + level)
            for one, level in zip(draw(seed, [25] * 8, agreement=0), levels, strict=True)
        ]
        correlations.append(estimate_quality(groups).rank_correlation)
    raw = [np.concatenate([getattr(one, name) for one in groups]) for name in ("estimates", "real")]
    assert spearmanr(*raw)[0] > 0.9
    assert abs(np.mean(correlations)) < 4 / np.sqrt(200 * 200)


def test_moving_a_group_changes_neither_ranks_nor_regrets():
    groups = draw(2, [20, 30])
    moved = [Measured(one.estimates + 64, one.real - 32, one.anchor) for one in groups]
    plain, other = estimate_quality(groups), estimate_quality(moved)
    for name in ("rank_correlation", "low", "high", "regret", "constant_regret"):
        assert getattr(other, name) == pytest.approx(getattr(plain, name), abs=1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_the_interval_holds_the_truth_in_95_of_100_cases(correlation):
    """Of 60 bivariate normals; Spearman's is then 6 / pi asin(r / 2)."""
    truth, generator = 6 / np.pi * np.arcsin(correlation / 2), np.random.default_rng(0)
    inside = []
    for _ in range(1200):
        one, noise = generator.normal(size=(2, 60))
        other = correlation * one + np.sqrt(1 - correlation**2) * noise
        found = estimate_quality([Measured(one, other, 0.0)])
        inside.append(found.low < truth < found.high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("sizes", [[1], [3], [2, 2], [3, 1, 1]])
def test_with_three_degrees_of_freedom_or_fewer_even_perfect_estimates_are_not_trusted(sizes):
    groups = [Measured(one.real, one.real, one.anchor) for one in draw(0, sizes)]
    found = estimate_quality(groups)
    assert (found.low, found.high, found.trusted) == (-1, 1, False)
    assert found.subsets == sum(sizes) and found.regret == found.relative_error == 0


def test_no_subsets_and_what_is_not_finite_are_refused():
    for groups in ([], [Measured(np.empty(0), np.empty(0), 1.0)]):
        with pytest.raises(DataError, match="no subsets to measure on"):
            estimate_quality(groups)
    (whole,) = draw(0, [8])
    wrong = np.where(np.arange(8) == 2, np.nan, whole.real)
    for parts in ((wrong, whole.real, 0.0), (whole.real, wrong, 0.0), (whole.real, whole.real, np.inf)):
        with pytest.raises(NonFiniteError):
            estimate_quality([Measured(*parts)])
