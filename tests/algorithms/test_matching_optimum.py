"""How far matching is from the best there is: the exhaustive optimum, and the picks of projected features."""

from itertools import combinations

import numpy as np
import pytest
from paths import PATHS, heavy_tailed

from icl_plugins.algorithms.matching import match


def objective(features, rows):
    """J of some rows: the distance of their mean from the mean of all."""
    return np.linalg.norm(features[list(rows)].mean(axis=0) - features.mean(axis=0))


def optimum(features, shots):
    """The best set of all, by trying each."""
    return min(combinations(range(len(features)), shots), key=lambda rows: objective(features, rows))


def projection(features, seed):
    """512 random directions: squared distances keep their mean."""
    directions = np.random.default_rng(100 + seed).standard_normal((features.shape[1], 512))
    return features @ directions / np.sqrt(512)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_end_is_never_below_the_exhaustive_optimum_and_mostly_it(path):
    """A single swap at a time can end elsewhere: the gap is bounded in units of a random set's J."""
    gaps = []
    for seed in range(40):
        features, shots = heavy_tailed(8 + seed % 7, 6, seed=seed), 2 + seed % 4
        found = path(features, shots)
        gaps.append(
            (found.trace[-1] - objective(features, optimum(features, shots))) / found.random_objective
        )
    assert min(gaps) > -1e-7
    assert np.mean(np.array(gaps) < 1e-7) > 0.5
    assert max(gaps) < 0.5


@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_of_projected_features_is_nearly_that_of_the_full_ones(seed):
    features = heavy_tailed(12, 2000, rank=20, seed=seed)
    best = objective(features, optimum(features, 4))
    assert best <= objective(features, optimum(projection(features, seed), 4)) <= 1.25 * best


@pytest.mark.parametrize("shots", [1, 8, 32])
@pytest.mark.parametrize("seed", range(3))
def test_picks_from_projected_features_are_nearly_as_good_in_full_space(seed, shots):
    """Of Gaussian rows; where tails are heavy, two local searches may end further apart."""
    features = np.random.default_rng(seed).standard_normal((200, 2000))
    picks = match(projection(features, seed), shots).indices
    assert objective(features, picks) <= 1.25 * match(features, shots).trace[-1]
