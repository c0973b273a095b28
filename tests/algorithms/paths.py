"""The ways to the same match, so that every promise is tested on each of them."""

from unittest import mock

import numpy as np

from icl_plugins.algorithms import matching


def from_features(features, *args, **options):
    """One product with all features for each pick."""
    with mock.patch.object(matching, "_LARGEST_GRAM", 0):
        return matching.match(features, *args, **options)


def from_blocks(features, *args, **options):
    """As two checkpoints, whatever the number of shots makes `match` choose."""
    half = features.shape[1] // 2 or None
    blocks = [features[:, :half], features[:, half:]] if half else [features]
    return matching.match(blocks, *args, **options)


def from_gram(features, *args, target=None, **options):
    """From a Gram matrix that adds up over single columns."""
    columns = (features[:, number : number + 1] for number in range(features.shape[1]))
    return matching.match_gram(matching.centered_gram(columns, target=target), *args, **options)


PATHS = {"features": from_features, "blocks": from_blocks, "gram": from_gram}


def heavy_tailed(rows, width, rank=4, seed=0, dtype=np.float64):
    """Low-rank, heavy-tailed rows with an offset: data on which swaps fire."""
    rng = np.random.default_rng(seed)
    made = rng.standard_t(2, (rows, rank)) @ rng.standard_normal((rank, width))
    return (made + 0.1 * rng.standard_normal((rows, width)) + 1).astype(dtype)
