"""Statistics of evaluations: means and differences with intervals and p-values, over items and seeds.

Items and seeds are both drawn at random, and every seed meets every item: a crossed design. So the bootstrap
resamples both (Owen 2007, the pigeonhole bootstrap), and a difference is held against both (Clark 1973,
min F'). With one seed the items alone are random: what is said then holds for that very prompt.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from icl_plugins.errors import NonFiniteError, SettingError
from icl_plugins.evaluation.metrics import METRICS, Array
from icl_plugins.evaluation.results import Evaluation

Sample: TypeAlias = ArrayLike | Sequence[Evaluation]

_RESAMPLES = 10_000
_LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; items, seeds: how many it rests on, the fewest of all data sets."""

    mean: float
    low: float
    high: float
    items: int
    seeds: int


@dataclass(frozen=True)
class Difference(Interval):
    """A mean difference, its interval and two-sided p-value; seeds: of the side that has fewer."""

    p: float


@dataclass(frozen=True)
class _Estimate:
    """A value and how it varies: bootstrap draws (B,), and (variance, degrees of freedom) of its sources.

    gap, nulls (B,): a difference of pooled seeds, and what it is after items exchanged their sides.
    """

    value: float
    draws: Array
    sources: tuple[tuple[float, float], ...]
    items: int
    seeds: int
    gap: float = 0.0
    nulls: Array | None = None


def mean_interval(sample: Sample, *, seed: int = 0) -> Interval:
    """Return the mean of a sample and its interval: `average_interval` of one data set."""
    return average_interval([sample], seed=seed)


def paired_difference(a: Sample, b: Sample, *, seed: int = 0) -> Difference:
    """Return the mean of a minus that of b on the same items: `average_difference` of one data set."""
    return average_difference([(a, b)], seed=seed)


def average_interval(samples: Sequence[Sample], *, seed: int = 0) -> Interval:
    """Return the average of the samples' means and its interval.

    A sample is values (S, N) of S seeds on N items, or (N,) of one seed, or the S evaluations of a cell, whose
    metric is then used. Each data set gives one sample; the data sets themselves are not drawn at random, so
    the interval holds for these.

    The interval is the bootstrap's percentiles over items and seeds, moved apart from the mean as far as
    Student's t and the unbiased variance ask, since few seeds understate how they vary; it may thus leave
    the metric's range. Raises SettingError for fewer than two items and seeds together or evaluations that
    do not belong together, NonFiniteError for NaN and infinity.
    """
    return _interval(_average([_of_sample(sample, seed) for sample in samples]))


def average_difference(pairs: Sequence[tuple[Sample, Sample]], *, seed: int = 0) -> Difference:
    """Return the average over data sets of the mean of a minus the mean of b, measured on the same items.

    Samples and interval as in `average_interval`; seeds are no pairs. p is that of a paired sign-flip test:
    under the null hypothesis each item could have exchanged its answers between a and b. Where a side has
    several seeds, it is not below that of min F', which asks whether the difference holds for other items
    and for other seeds (Student's t, Satterthwaite's degrees of freedom); it errs on the safe side.
    """
    estimate = _average([_of_pair(a, b, seed) for a, b in pairs])
    p = _sign_flip_p(estimate)
    if len(estimate.sources) > len(pairs):
        p = max(p, _t_p(estimate))
    return Difference(**vars(_interval(estimate)), p=p)
