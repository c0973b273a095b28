"""Typicality: how much more a row is like the others of its label than like any other label."""

from collections.abc import Hashable, Sequence

import numpy as np

_LARGEST_TILE = 2**24  # similarities that are held at once


def margins(vectors: np.ndarray, labels: Sequence[Hashable]) -> np.ndarray:
    """Return how much more each row (N, h) is like its own label than like any other: (N,) float64, -2 to 2.

    The cosine with the mean of its label's other rows less the highest with another label's mean. Rows are
    centred and brought to length 1 first. A cosine is 0 where there is nothing to be like: for a row at the
    centre, for its own label without other rows, for other labels without any. Rotation, scale and
    translation change nothing.
    """
    units = _units(vectors - vectors.mean(axis=0))
    groups = _groups(labels)
    sums = np.zeros((groups.max() + 1, units.shape[1]))
    np.add.at(sums, groups, units)
    means = _units(sums)
    own = np.einsum("nh,nh->n", units, _units(sums[groups] - units))
    others = np.empty(len(units))
    step = max(1, _LARGEST_TILE // len(means))
    for start in range(0, len(units), step):
        rows = np.arange(start, min(start + step, len(units)))
        similarities = units[rows] @ means.T
        similarities[np.arange(len(rows)), groups[rows]] = -np.inf
        others[rows] = similarities.max(axis=1)
    # The last bits depend on the order of the rows; without them ties are ties.
    result: np.ndarray = np.round(own - np.where(np.isfinite(others), others, 0.0), 12)
    return result


def places(scores: np.ndarray, labels: Sequence[Hashable]) -> np.ndarray:
    """Return the share of a label's rows that come before each row: (N,), from 0 to below 1.

    By scores (N,), highest first, ties by lowest row.
    """
    groups = _groups(labels)
    order = np.lexsort((np.arange(len(scores)), -scores, groups))
    ordered = groups[order]
    result = np.empty(len(scores))
    result[order] = (np.arange(len(order)) - np.searchsorted(ordered, ordered)) / np.bincount(groups)[ordered]
    return result


def label_by_label(scores: np.ndarray, labels: Sequence[Hashable]) -> np.ndarray:
    """Rank rows: the best of each label by scores (N,), so that the first n have the labels' shares.

    The r-th best of a label with c rows comes at (r - 1/2) / c of the way; ties by score, then lowest row.
    """
    groups = _groups(labels)
    middles = np.round(places(scores, labels) + 0.5 / np.bincount(groups)[groups], 12)
    order: np.ndarray = np.lexsort((np.arange(len(scores)), -scores, middles))
    return order


def _groups(labels: Sequence[Hashable]) -> np.ndarray:
    """Return each label as a number below G."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], dtype=np.int64)


def _units(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    largest = lengths.max(initial=0.0)
    # what is left of a row at the centre is rounding
    units: np.ndarray = np.divide(
        vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-9 * largest
    )
    return units
