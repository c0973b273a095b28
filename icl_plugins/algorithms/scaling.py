"""Scaling of features: so that no checkpoint and no long example drowns the others."""

from typing import Any

import numpy as np

from icl_plugins.algorithms.features import Features
from icl_plugins.errors import SettingError

SCALINGS = ("none", "checkpoint", "example")


def scale_blocks(blocks: Any, how: str) -> Features:
    """Return features with scales on rows or blocks; nothing is copied, the scales act as the data are read.

    blocks: (N, d), or a sequence of (N, d_e), one per checkpoint. how: "none", the paper's; "checkpoint",
    every block to mean row norm 1; "example", every row (all its blocks together) to norm 1. Zero rows and
    zero blocks stay zero. Raises SettingError for another `how`, NonFiniteError for NaN and infinity.
    """
    if how not in SCALINGS:
        raise SettingError(f"scaling {how!r}", expected=f"one of {', '.join(SCALINGS)}", fix="choose one")
    features = Features.of(blocks)
    if how == "none":
        return features
    norms, units = block_norms(features)
    if how == "checkpoint":
        # Divided in two steps: the unit may be as small as the data, its product with a norm may not be.
        means = norms.mean(axis=1)
        return Features(
            features.blocks,
            np.where(means > 0, 1 / np.where(means > 0, means, 1), 1) / units,
            None,
            features.rows,
        )
    exponents = np.log2(units)
    top = exponents.max()
    lengths = np.sqrt(((norms * 2.0 ** (exponents - top)[:, None]) ** 2).sum(axis=0))
    row_scale = np.where(lengths > 0, 1 / np.where(lengths > 0, lengths, 1), 1)
    return Features(features.blocks, features.block_scale * 2.0**-top, row_scale, features.rows)


def block_norms(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return (norms (E, N), units (E,)): the row norms of the blocks as stored are norms * units."""
    units = np.exp2(np.clip(np.frexp(features.largest())[1], -1000, 1000).astype(np.float64))
    squares = np.zeros((len(units), len(features)))
    for block, unit in enumerate(units):
        for rows in features.spans():
            for _, tile in features.tiles(block, rows):
                small = tile.astype(np.float64) / unit
                squares[block, rows] += np.einsum("ij,ij->i", small, small)
    return np.sqrt(squares), units
