"""Scales act as if the scaled features had been stored, and nothing is copied to apply them."""

import numpy as np
import pytest
from paths import heavy_tailed

from icl_plugins.algorithms.features import Features
from icl_plugins.algorithms.matching import centered_gram, match, match_gram
from icl_plugins.algorithms.scaling import scale_blocks
from icl_plugins.errors import NonFiniteError, SettingError


def written_out(blocks, how):
    """The definition: the scaled features as one array."""
    whole = np.hstack([block.astype(np.float64) for block in blocks])
    if how == "none":
        return whole
    if how == "checkpoint":
        means = [np.linalg.norm(block.astype(np.float64), axis=1).mean() for block in blocks]
        return np.hstack([block / (mean or 1) for block, mean in zip(blocks, means, strict=True)])
    norms = np.linalg.norm(whole, axis=1, keepdims=True)
    return whole / np.where(norms > 0, norms, 1)


def checkpoints(dtype=np.float64):
    blocks = [heavy_tailed(200, 7, seed=1), 50 * heavy_tailed(200, 5, seed=2), np.zeros((200, 2))]
    for block in blocks:
        block[3] = 0
    return [block.astype(dtype) for block in blocks]


@pytest.mark.parametrize("how", ["none", "checkpoint", "example"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scales_act_like_scaled_features(how, dtype):
    blocks = checkpoints(dtype)
    scaled, expected = scale_blocks(blocks, how), written_out(blocks, how)
    everything = scaled.centred(np.arange(200), np.zeros(14))
    np.testing.assert_allclose(everything, expected, rtol=1e-12)
    np.testing.assert_allclose(scaled.mean(), expected.mean(axis=0), rtol=1e-9, atol=1e-12)
    for shots in (5, 60):
        found, direct = match(scaled, shots), match(expected, shots)
        assert found.indices.tolist() == direct.indices.tolist()
        np.testing.assert_allclose(found.trace, direct.trace, rtol=1e-9)
        assert found.random_objective == pytest.approx(direct.random_objective)
    gram = centered_gram(scaled)
    np.testing.assert_allclose(gram, centered_gram(expected), atol=1e-9 * np.abs(gram).max())
    assert match_gram(gram, 5).indices.tolist() == match(expected, 5).indices.tolist()


def test_norms_after_scaling_are_one():
    blocks = checkpoints()
    by_checkpoint = written_out(blocks, "checkpoint")
    np.testing.assert_allclose(np.linalg.norm(by_checkpoint[:, :7], axis=1).mean(), 1)
    everything = scale_blocks(blocks, "example").centred(np.arange(200), np.zeros(14))
    norms = np.linalg.norm(everything, axis=1)
    np.testing.assert_allclose(np.delete(norms, 3), 1)
    assert norms[3] == 0


@pytest.mark.parametrize("how", ["none", "checkpoint", "example"])
def test_nothing_is_copied(how):
    blocks = checkpoints()
    scaled = scale_blocks(blocks, how)
    assert all(np.shares_memory(ours, given) for ours, given in zip(scaled.blocks, blocks, strict=True))


@pytest.mark.parametrize("how", ["checkpoint", "example"])
@pytest.mark.parametrize("scale", [1e-300, 1e-20, 1e20, 1e300])
def test_scaling_takes_extreme_features_to_unit_size(how, scale):
    features = heavy_tailed(50, 6)
    found = match(scale_blocks([features * scale], how), 4)
    expected = match(scale_blocks([features], how), 4)
    assert found.indices.tolist() == expected.indices.tolist()
    np.testing.assert_allclose(found.trace, expected.trace, rtol=1e-9)


def test_some_rows_match_as_if_they_were_the_pool():
    features, rows = heavy_tailed(80, 6), np.random.default_rng(0).permutation(80)[:50]
    for how in ("none", "checkpoint", "example"):
        chosen = Features.of([features[:, :2], features[:, 2:]]).take(rows)
        found = match(scale_blocks(chosen, how), 4)
        expected = match(scale_blocks([features[rows][:, :2], features[rows][:, 2:]], how), 4)
        assert found.indices.tolist() == expected.indices.tolist()
        np.testing.assert_allclose(found.trace, expected.trace)
    assert len(chosen.take(np.array([1, 2]))) == 2


def test_unknown_scalings_and_rows_that_are_not_finite_are_refused():
    with pytest.raises(SettingError, match="'epoch'"):
        scale_blocks([np.ones((2, 2))], "epoch")
    for how in ("checkpoint", "example"):
        with pytest.raises(NonFiniteError, match=r"\[1\]"):
            scale_blocks([np.array([[1.0], [np.nan]])], how)
