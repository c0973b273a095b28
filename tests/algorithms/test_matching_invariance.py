"""What must not change a match: the order of the pool, rotation, scale, offset, what is excluded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import PATHS, from_features, heavy_tailed

from icl_plugins.algorithms import features as features_module
from icl_plugins.algorithms.constraints import resolve

every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
seeds = st.integers(0, 10**6)
some = settings(deadline=None, max_examples=25)


@every_path
@some
@given(seed=seeds, shots=st.integers(1, 20))
def test_the_order_of_the_pool_does_not_matter(path, seed, shots):
    features = heavy_tailed(20, 5, seed=seed)
    order = np.random.default_rng(seed).permutation(20)
    shuffled = path(features[order], shots)
    assert order[shuffled.indices].tolist() == path(features, shots).indices.tolist()


@every_path
@some
@given(seed=seeds, shots=st.integers(1, 20))
def test_rotating_the_features_does_not_matter(path, seed, shots):
    features, rng = heavy_tailed(20, 5, seed=seed), np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    found, rotated = path(features, shots), path(features @ rotation, shots)
    assert rotated.indices.tolist() == found.indices.tolist()
    np.testing.assert_allclose(rotated.trace, found.trace, atol=1e-6)


@every_path
@some
@given(seed=seeds, scale=st.sampled_from([1e20, 1e-20, 3.0, 2.0**-40]), shots=st.integers(1, 20))
def test_the_scale_of_the_features_does_not_matter(path, seed, scale, shots):
    features = heavy_tailed(20, 5, seed=seed)
    found, scaled = path(features, shots), path(features * scale, shots)
    assert scaled.indices.tolist() == found.indices.tolist()
    assert (scaled.swaps, scaled.converged) == (found.swaps, found.converged)
    np.testing.assert_allclose(scaled.trace / scale, found.trace, rtol=1e-6, atol=1e-6)
    assert scaled.random_objective == pytest.approx(found.random_objective * scale)


@pytest.mark.parametrize("exponent", [-120, -66, 66, 110])
def test_the_ends_of_float32_are_in_range(exponent):
    features = heavy_tailed(400, 30, seed=5, dtype=np.float32)
    features *= np.abs(features) > 0.02  # what is left stays a normal number when scaled down
    found, scaled = from_features(features, 20), from_features(np.ldexp(features, exponent), 20)
    assert scaled.indices.tolist() == found.indices.tolist()
    np.testing.assert_allclose(np.ldexp(scaled.trace, -exponent), found.trace, rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_the_ends_of_float64_are_in_range(scale):
    features = heavy_tailed(40, 5)
    found, scaled = from_features(features, 6), from_features(features * scale, 6)
    assert scaled.indices.tolist() == found.indices.tolist()
    np.testing.assert_allclose(scaled.trace / scale, found.trace, rtol=1e-6)


@every_path
@some
@given(seed=seeds, shots=st.integers(1, 20))
def test_an_offset_of_all_features_does_not_matter(path, seed, shots):
    features = heavy_tailed(20, 5, seed=seed)
    offset = 100 * np.random.default_rng(seed).standard_normal(5)
    assert path(features + offset, shots).indices.tolist() == path(features, shots).indices.tolist()


@every_path
@some
@given(seed=seeds, shots=st.integers(1, 15), data=st.data())
def test_an_excluded_duplicate_changes_nothing_when_the_target_is_fixed(path, seed, shots, data):
    features = heavy_tailed(15, 4, seed=seed)
    target = features.mean(axis=0)
    more = np.vstack([features, features[data.draw(st.integers(0, 14))]])
    limits = resolve(16, None, shots, exclude=(15,))
    found = path(features, shots, target=target)
    grown = path(more, target=target, constraints=limits)
    assert grown.indices.tolist() == found.indices.tolist()
    np.testing.assert_allclose(grown.trace, found.trace, atol=1e-6)
    np.testing.assert_allclose(grown.scores, found.scores, atol=1e-6)


@pytest.mark.parametrize("tile", [(1, 1), (7, 3), (512, 1024)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_size_of_a_tile_does_not_matter(monkeypatch, tile, dtype):
    features = heavy_tailed(40, 11, dtype=dtype)
    expected = from_features(features, 7)
    monkeypatch.setattr(features_module, "TILE_ROWS", tile[0])
    monkeypatch.setattr(features_module, "TILE_COLUMNS", tile[1])
    found = from_features([features[:, :4], features[:, 4:]], 7)
    assert found.indices.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(found.trace, expected.trace, rtol=1e-9)
