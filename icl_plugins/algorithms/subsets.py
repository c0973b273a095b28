"""Random subsets in which every candidate occurs as often as every other."""

from collections.abc import Sequence

import numpy as np


def balanced_subsets(
    groups: np.ndarray, slots: np.ndarray, count: int, seed: int | Sequence[int]
) -> np.ndarray:
    """Return ordered subsets (count, k) of candidates, each slot with a candidate of its group.

    groups: (n,) of the candidates, slots: (k,) of the slots; a group has as many candidates as slots at
    least. Within a group no candidate occurs more than once oftener than another, so that all are covered
    as soon as there are as many places as candidates, and a candidate is as likely in each of its slots.
    """
    generator = np.random.default_rng(seed)
    subsets = np.empty((count, len(slots)), dtype=np.int64)
    for group in np.unique(slots):
        members, places = np.flatnonzero(groups == group), np.flatnonzero(slots == group)
        shuffled = np.empty(0, dtype=np.int64)
        for row in range(count):
            late = len(places) - len(shuffled)
            if late > 0:
                fresh = generator.permutation(members)
                first = fresh[~np.isin(fresh, shuffled)][:late]  # none twice in this subset
                shuffled = np.concatenate([shuffled, first, fresh[~np.isin(fresh, first)]])
            subsets[row, places] = generator.permutation(shuffled[: len(places)])
            shuffled = shuffled[len(places) :]
    return subsets
