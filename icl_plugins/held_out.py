"""Rows to measure on and rows to learn from: drawn by a seed, and kept apart."""

from collections.abc import Hashable, Iterable, Sequence, Set

import numpy as np

from icl_plugins.duplicates import normalise, plain_text
from icl_plugins.examples import Pool


def drawn(pool: Pool, size: int, seed: Sequence[int]) -> Pool:
    """Return so many rows, or all if there are not more, in the order of the file; more rows add to fewer."""
    order = np.random.default_rng(seed).permutation(len(pool))
    return pool.subset(sorted(order[:size].tolist()))


def asked_by(pools: Iterable[Pool]) -> set[Hashable]:
    """Return what the questions of all pools ask, letters and digits alone."""
    return {way for pool in pools for ways in _questions(pool) for way in ways}


def rows_apart(pool: Pool, asked: Set[Hashable]) -> list[int]:
    """Return the rows that ask nothing of what is asked, in order."""
    return [row for row, ways in enumerate(_questions(pool)) if not ways & asked]


def _questions(pool: Pool) -> list[set[Hashable]]:
    """Return the two ways in which each question is compared: field by field, and as `evaluate` does it."""
    values = (tuple(map(normalise, pool.template.question_values(example))) for example in pool)
    return [{fields, plain_text(text)} for fields, text in zip(values, pool.questions, strict=True)]
