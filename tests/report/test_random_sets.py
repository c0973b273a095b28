from collections import Counter
from itertools import combinations
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_plugins.report.random_sets import expected_label_kl, label_range, objective_curve, range_factors
from icl_plugins.selection import label_kl


@given(labels=st.lists(st.sampled_from("abc"), min_size=1, max_size=8), data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_label_kl_of_random_sets_is_the_mean_over_all_of_them(labels, data):
    shots = data.draw(st.integers(1, len(labels)))
    pool = Counter(labels)
    slow = fmean(label_kl(Counter(chosen), pool) for chosen in combinations(labels, shots))
    assert expected_label_kl(pool, shots) == pytest.approx(slow, abs=1e-12)


@given(size=st.integers(1, 9), data=st.data())
@settings(max_examples=40, deadline=None)
def test_the_range_of_a_label_leaves_a_fortieth_of_random_sets_on_either_side(size, data):
    count, shots = data.draw(st.integers(0, size)), data.draw(st.integers(1, size))
    shown = sorted(sum(row < count for row in chosen) for chosen in combinations(range(size), shots))
    low, high = label_range(count, size, shots)
    below = [sum(value < edge for value in shown) / len(shown) for edge in (low, low + 1, high, high + 1)]
    assert below[0] < 0.025 <= below[1] + 1e-12
    assert below[2] < 0.975 <= below[3] + 1e-12


def test_the_objective_of_random_sets_is_the_root_mean_square_over_all_of_them():
    features = np.random.default_rng(0).normal(size=(7, 3))
    features -= features.mean(axis=0)
    spread = float(np.sqrt((features**2).sum(axis=1).mean()))
    slow = [
        np.sqrt(
            np.mean([(features[list(rows)].mean(axis=0) ** 2).sum() for rows in combinations(range(7), k)])
        )
        for k in range(1, 8)
    ]
    assert objective_curve(spread, 7, range(1, 8)) == pytest.approx(slow, abs=1e-12)


@pytest.mark.parametrize("decay", [0.0, 0.5, 2.0])
def test_the_band_holds_about_nineteen_of_twenty_random_sets(decay):
    """For flat and for steep spectra: the share that simulated sets of 16 of 400 give."""
    generator = np.random.default_rng(1)
    features = generator.normal(size=(400, 20)) * np.arange(1, 21) ** -decay
    features -= features.mean(axis=0)
    low, high = range_factors(features @ features.T)
    spread = float(np.sqrt((features**2).sum(axis=1).mean()))
    (mean,) = objective_curve(spread, 400, [16])
    sets = (generator.permutation(400)[:16] for _ in range(4000))
    drawn = np.array([np.linalg.norm(features[rows].mean(axis=0)) for rows in sets])
    assert 0.93 < ((drawn > low * mean) & (drawn < high * mean)).mean() < 0.98


def test_equal_features_have_no_band():
    assert range_factors(np.zeros((4, 4))) == (1.0, 1.0)
