"""Matching equals its definition, index for index, on every path and whatever the data look like."""

import numpy as np
import pytest
from definitions import naive_greedy, naive_match, naive_swaps
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from paths import PATHS, from_features, heavy_tailed
from test_constraints import resolved, wishes

from icl_plugins.algorithms.constraints import resolve
from icl_plugins.algorithms.matching import match

every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
whole = st.integers(-3, 3).map(float)


@every_path
@settings(deadline=None, max_examples=60)
@given(data=st.data(), dtype=st.sampled_from([np.float16, np.float32, np.float64]))
def test_matching_equals_the_definition_with_every_constraint(path, data, dtype):
    wish = data.draw(wishes())
    limits = resolved(wish)
    features = data.draw(arrays(dtype, (wish[0][0], data.draw(st.integers(1, 3))), elements=whole))
    target = data.draw(st.none() | arrays(np.float64, features.shape[1], elements=whole))
    swaps = data.draw(st.integers(0, 3))
    expected = naive_greedy(features, limits, target)
    assert path(features, target=target, swaps=0, constraints=limits).indices.tolist() == expected
    found = path(features, target=target, swaps=swaps, constraints=limits)
    expected, accepted, converged = naive_match(features, limits, swaps, target)
    assert (found.indices.tolist(), found.swaps) == (expected, accepted)
    assert found.converged == (converged and swaps > 0)


@every_path
@settings(deadline=None, max_examples=40)
@given(features=arrays(np.float64, st.tuples(st.integers(1, 8), st.integers(1, 3)), elements=whole))
def test_greedy_equals_brute_force_for_every_number_of_shots(path, features):
    for shots in range(1, len(features) + 1):
        expected = naive_greedy(features, resolve(len(features), None, shots))
        assert path(features, shots, swaps=0).indices.tolist() == expected


def float_definition(features, shots):
    """Greedy and best swaps in float64, a norm for every candidate."""
    features = features.astype(np.float64)
    centred, chosen = features - features.mean(axis=0), []
    for _ in range(shots):
        norms = np.linalg.norm(centred[chosen].sum(axis=0) + centred, axis=1)
        norms[chosen] = np.inf
        chosen.append(int(norms.argmin()))
    for accepted in range(33):
        total, best = centred[chosen].sum(axis=0), (np.inf,)
        for position, row in enumerate(chosen):
            norms = np.linalg.norm(total - centred[row] + centred, axis=1)
            norms[chosen] = np.inf
            best = min(best, (norms.min(), int(norms.argmin()), position))
        if not best[0] ** 2 < (1 - 1e-6) * (total @ total):
            return chosen, accepted
        chosen[best[2]] = best[1]
    raise AssertionError


@every_path
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("rows", "width", "shots"), [(150, 40, 6), (300, 33, 6), (300, 33, 24), (60, 7, 59)])
def test_picks_of_low_precision_features_are_those_of_float64(path, dtype, rows, width, shots):
    features = heavy_tailed(rows, width, seed=9, dtype=dtype)
    expected, swaps = float_definition(features, shots)
    found = path(features, shots)
    assert (found.indices.tolist(), found.swaps) == (expected, swaps)
    assert found.converged


def test_swaps_do_fire_on_the_data_of_these_tests():
    assert match(heavy_tailed(300, 33, seed=9), 6).swaps > 3


@every_path
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_of_equal_rows_the_lowest_is_taken_wherever_they_lie(path, dtype):
    """Tiles and BLAS kernels round equal rows differently at different places; that must not decide."""
    rng = np.random.default_rng(1)
    copies = rng.permutation(np.repeat(np.arange(220), 5))
    features = heavy_tailed(220, 1100, rank=40, seed=2, dtype=dtype)[copies]
    features = features if path is not PATHS["gram"] else features[:, :60]
    seen = set()
    for row in path(features, 30, swaps=0).indices:
        lower = set(np.flatnonzero(copies[:row] == copies[row]).tolist())
        assert lower <= seen
        seen.add(int(row))


@every_path
def test_equal_swaps_take_the_lowest_row_and_then_the_lowest_position(path):
    # Greedy takes rows 2, 5, 3; a swap of the -6 for either -1 brings the sum to -2, and is the best.
    features = np.array([[-7.0], [-9], [-1], [5], [-6], [-1]])
    limits = resolve(6, None, 3)
    start = naive_greedy(features, limits, [0])
    assert (start, naive_swaps(features, start, limits, 9, [0])[0]) == ([2, 5, 3], [4, 5, 3])
    assert path(features, 3, target=np.zeros(1)).indices.tolist() == [4, 5, 3]


@every_path
def test_rows_that_differ_in_the_last_bit_are_told_apart(path):
    """Their scores differ by less than the rounding of a float32 product."""
    features = heavy_tailed(60, 50, rank=20, seed=4, dtype=np.float32)
    twins = features.copy()
    twins[:, 7] = np.nextafter(twins[:, 7], np.float32(0))
    features = np.vstack([features, twins])[np.random.default_rng(0).permutation(120)]
    for shots in (4, 30):
        expected, swaps = float_definition(features, shots)
        found = path(features, shots)
        assert (found.indices.tolist(), found.swaps) == (expected, swaps)


@every_path
def test_trace_scores_and_random_objective_are_what_they_say(path):
    features = heavy_tailed(40, 6)
    found = path(features, 9)
    gaps = [features[found.indices[:t]].mean(axis=0) - features.mean(axis=0) for t in range(1, 10)]
    np.testing.assert_allclose(found.trace, np.linalg.norm(gaps, axis=1), rtol=1e-7)
    assert found.trace.dtype == found.scores.dtype == np.float64 and found.indices.dtype == np.int64
    for position, score in enumerate(found.scores):
        rest = np.delete(found.indices, position)
        without = np.linalg.norm(features[rest].mean(axis=0) - features.mean(axis=0))
        assert score == pytest.approx(without - found.trace[-1], rel=1e-6, abs=1e-9)
    assert match(features, 1).scores.tolist() == [0.0]


@every_path
@pytest.mark.parametrize("target", [None, [1.0, -2.0, 0.5]])
def test_the_random_objective_is_that_of_random_sets(path, target):
    features, rng = heavy_tailed(30, 3, rank=3), np.random.default_rng(0)
    goal = features.mean(axis=0) if target is None else np.array(target)
    sets = np.array([rng.permutation(30)[:7] for _ in range(40_000)])
    squares = ((features[sets].mean(axis=1) - goal) ** 2).sum(axis=1)
    error = squares.std() / np.sqrt(len(squares))
    claimed = path(features, 7, target=target).random_objective ** 2
    assert abs(squares.mean() - claimed) < 4 * error < 0.1 * claimed


@every_path
def test_greedy_selections_are_nested(path):
    features = heavy_tailed(60, 8)
    longest = path(features, 40, swaps=0).indices.tolist()
    for shots in (1, 2, 5, 39):
        assert path(features, shots, swaps=0).indices.tolist() == longest[:shots]


def test_clusters_are_shown_in_their_proportions():
    rng = np.random.default_rng(3)
    cluster = rng.permutation(np.repeat([0, 1, 2], [100, 60, 40]))
    features = 10 * np.eye(3)[cluster] + 0.05 * rng.standard_normal((200, 3))
    for shots in (10, 20, 35):
        counts = np.bincount(cluster[match(features, shots).indices], minlength=3)
        assert np.abs(counts - shots * np.array([0.5, 0.3, 0.2])).max() <= 1


def test_matching_beats_random_sets_and_these_beat_the_farthest_rows():
    features = heavy_tailed(100, 10)
    centred, farthest = features - features.mean(axis=0), []
    for _ in range(12):
        norms = np.linalg.norm(centred[farthest].sum(axis=0) + centred, axis=1)
        norms[farthest] = -1
        farthest.append(int(norms.argmax()))
    found = match(features, 12)
    worst = np.linalg.norm(centred[farthest].mean(axis=0))
    assert 10 * found.trace[-1] < found.random_objective < worst


@every_path
@pytest.mark.parametrize("swaps", [0, 1, 32])
@pytest.mark.parametrize("seed", range(5))
def test_with_a_budget_and_no_shots_rows_are_picked_until_none_fits(path, swaps, seed):
    features, rng = heavy_tailed(30, 4, seed=seed), np.random.default_rng(seed)
    costs = rng.integers(3, 30, 30)
    limits = resolve(30, None, None, costs=costs, max_cost=100)
    found = path(features, constraints=limits, swaps=swaps).indices
    assert costs[found].sum() <= 100
    assert costs[np.setdiff1d(np.arange(30), found)].min() > 100 - costs[found].sum()


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), rows=st.integers(2, 12), shots=st.integers(1, 12))
def test_the_objective_never_rises_and_the_end_is_swap_optimal(seed, rows, shots):
    assume(shots <= rows)
    features = heavy_tailed(rows, 3, rank=2, seed=seed)
    ends = [from_features(features, shots, swaps=limit) for limit in range(6)]
    objectives = [end.trace[-1] for end in ends]
    for limit, end in enumerate(ends):
        assert end.swaps <= limit
        assert end.swaps == 0 or objectives[end.swaps] < objectives[end.swaps - 1]
    end = from_features(features, shots, swaps=100)
    centred = features - features.mean(axis=0)
    assert end.converged
    for position in range(shots):
        for row in set(range(rows)) - set(end.indices.tolist()):
            swapped = end.indices.copy()
            swapped[position] = row
            least = (1 - 2e-6) * end.trace[-1] ** 2 - 1e-20
            assert np.linalg.norm(centred[swapped].mean(axis=0)) ** 2 > least


def test_reaching_the_limit_of_swaps_is_not_called_converged():
    features = heavy_tailed(300, 33, seed=9)
    free = match(features, 24)
    assert free.swaps >= 2 and free.converged
    short = match(features, 24, swaps=free.swaps - 1)
    assert short.swaps == free.swaps - 1 and not short.converged
    assert match(features, 24, swaps=free.swaps).converged
    coarse = match(features, 24, rtol=0.999999)
    assert coarse.swaps == 0 and coarse.converged


def test_progress_is_told_pick_by_pick_and_swap_by_swap():
    heard = []
    features = np.random.default_rng(0).normal(size=(200, 8))
    found = match(features, 5, progress=lambda *told: heard.append(told))
    assert heard[:5] == [("greedy", done, 5) for done in range(1, 6)]
    assert found.converged and heard[-1] == ("swaps", found.swaps, found.swaps)
