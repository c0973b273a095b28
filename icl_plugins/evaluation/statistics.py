"""Statistics of evaluations: means and differences with intervals and p-values, over items and seeds.

Items and seeds are both drawn at random, and every seed meets every item: a crossed design. So the bootstrap
resamples both (Owen 2007, the pigeonhole bootstrap), and a difference is held against both (Clark 1973,
min F'). With one seed the items alone are random: what is said then holds for that very prompt.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from icl_plugins.errors import SettingError
from icl_plugins.evaluation.metrics import Array
from icl_plugins.evaluation.samples import (
    RESAMPLES,
    Counts,
    Sample,
    product,
    read,
    read_pair,
    signs,
    weights,
)

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


def mean_interval(sample: Sample, *, seed: int = 0) -> Interval:
    """Return the mean of a sample and its interval: `average_interval` of one data set."""
    return average_interval([sample], seed=seed)


def paired_difference(a: Sample, b: Sample, *, seed: int = 0) -> Difference:
    """Return the mean of a minus that of b on the same items: `average_difference` of one data set."""
    return average_difference([(a, b)], seed=seed)


def average_interval(samples: Sequence[Sample], *, seed: int = 0) -> Interval:
    """Return the average of the samples' means and its interval.

    A sample is values (S, N) of S seeds on N items, or (N,) of one seed, or the S evaluations of a cell,
    whose metric is then used. Each data set gives one sample; the data sets themselves are not drawn at
    random, so the interval holds for these.

    The interval is the bootstrap's percentiles over items and seeds, moved apart from the mean as far as
    Student's t and the unbiased variance ask, since few seeds understate how they vary; it may thus leave
    the metric's range. Raises SettingError for fewer than two items and seeds together or evaluations that
    do not belong together, NonFiniteError for NaN and infinity.
    """
    return _interval(_average([_of_sample(read(one), (seed, at)) for at, one in enumerate(samples)]))


def average_difference(pairs: Sequence[tuple[Sample, Sample]], *, seed: int = 0) -> Difference:
    """Return the average over data sets of the mean of a minus the mean of b, measured on the same items.

    Samples and interval as in `average_interval`; seeds are no pairs. p is that of a paired sign-flip test:
    under the null hypothesis each item could have exchanged its answers between a and b. Where a side has
    several seeds, it is not below that of min F', which asks whether the difference holds for other items
    and for other seeds (Student's t, Satterthwaite's degrees of freedom). That errs on the safe side, but for
    two seeds that differ a lot: then a true null hypothesis is rejected at 0.05 in 0.08 of the cases.
    """
    counts = [read_pair(a, b) for a, b in pairs]
    estimate = _average([_of_pair(a, b, (seed, at)) for at, (a, b) in enumerate(counts)])
    p = _sign_flip_p([_flipped(a, b, (seed, at)) for at, (a, b) in enumerate(counts)])
    if estimate.seed_variances:
        p = max(p, _min_f_p(estimate))
    return Difference(**vars(_interval(estimate)), p=p)


class _Estimate(NamedTuple):
    """A value, bootstrap draws of it (B,), and the variances it gets from items and from seeds.

    Each variance is (of the value, degrees of freedom).
    """

    value: float
    draws: Array
    item_variances: tuple[tuple[float, int], ...]
    seed_variances: tuple[tuple[float, int], ...]
    items: int
    seeds: int


def _of_sample(sample: Counts, stream: tuple[int, ...]) -> _Estimate:
    seeds, items, _ = sample.counts.shape
    values, resampled = _by_seed(sample, stream)
    draws = _resample_seeds(resampled, (*stream, 0))
    return _estimate(values.mean(), draws, resampled.mean(axis=1), items, [values])


def _of_pair(a: Counts, b: Counts, stream: tuple[int, ...]) -> _Estimate:
    items = a.counts.shape[1]
    (values_a, resampled_a), (values_b, resampled_b) = _by_seed(a, stream), _by_seed(b, stream)
    draws = _resample_seeds(resampled_a, (*stream, 0)) - _resample_seeds(resampled_b, (*stream, 1))
    over_items = resampled_a.mean(axis=1) - resampled_b.mean(axis=1)
    return _estimate(values_a.mean() - values_b.mean(), draws, over_items, items, [values_a, values_b])


def _estimate(value: float, draws: Array, over_items: Array, items: int, sides: list[Array]) -> _Estimate:
    """Make an estimate of draws over items and seeds (B,) and over items (B,), and values of seeds (S,)."""
    item_variances = ((over_items.var() * items / (items - 1), items - 1),) if items > 1 else ()
    several = [side for side in sides if len(side) > 1]
    seed_variances = tuple((side.var(ddof=1) / len(side), len(side) - 1) for side in several)
    return _Estimate(float(value), draws, item_variances, seed_variances, items, min(map(len, sides)))


def _by_seed(sample: Counts, stream: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the value of each seed (S,), and of each seed with resampled items (B, S).

    The same stream draws the same items, so that two samples stay paired.
    """
    seeds, items, kinds = sample.counts.shape
    by_item = sample.counts.transpose(1, 0, 2).reshape(items, seeds * kinds)
    sums = product(weights(items, stream), by_item).reshape(RESAMPLES, seeds, kinds)
    return sample.total(sample.counts.sum(axis=1)), sample.total(sums)


def _resample_seeds(values: Array, stream: tuple[int, ...]) -> Array:
    """Return, for each row of values (B, S), their mean over S seeds drawn with replacement (B,)."""
    seeds = values.shape[1]
    return np.asarray((values * weights(seeds, stream)).sum(axis=1) / seeds)


def _average(estimates: Sequence[_Estimate]) -> _Estimate:
    """Return the average of independent estimates."""
    if not estimates:
        raise SettingError("no samples", expected="at least one data set", fix="pass what was measured")
    n = len(estimates)

    def scaled(variances: Sequence[tuple[tuple[float, int], ...]]) -> tuple[tuple[float, int], ...]:
        return tuple((variance / n**2, df) for one in variances for variance, df in one)

    return _Estimate(
        value=math.fsum(e.value for e in estimates) / n,
        draws=sum((e.draws for e in estimates), np.zeros(RESAMPLES)) / n,
        item_variances=scaled([e.item_variances for e in estimates]),
        seed_variances=scaled([e.seed_variances for e in estimates]),
        items=min(e.items for e in estimates),
        seeds=min(e.seeds for e in estimates),
    )


def _error(estimate: _Estimate) -> tuple[float, float]:
    """Return the standard error and Satterthwaite's degrees of freedom."""
    variances = (*estimate.item_variances, *estimate.seed_variances)
    if not variances:
        raise SettingError(
            "one item and one seed", expected="at least two of either", fix="evaluate more items"
        )
    variance = math.fsum(part for part, _ in variances)
    spread = math.fsum(part**2 / df for part, df in variances)
    return math.sqrt(variance), variance**2 / spread if spread else math.inf


def _interval(estimate: _Estimate) -> Interval:
    value, draws = estimate.value, estimate.draws
    error, df = _error(estimate)
    outer = (1 + _LEVEL) / 2
    spread = draws.std()
    wider = error / spread * stdtrit(min(df, 1e9), outer) / ndtri(outer) if spread else 1.0
    low, high = value + wider * (np.quantile(draws, [1 - outer, outer]) - value)
    return Interval(value, float(low), float(high), estimate.items, estimate.seeds)


def _min_f_p(estimate: _Estimate) -> float:
    error, df = _error(estimate)
    return float(2 * stdtr(min(df, 1e9), -abs(estimate.value) / error)) if error else 0.0


def _sign_flip_p(tests: Sequence[tuple[float, Array]]) -> float:
    """Return the two-sided p-value of the mean of differences, each with its draws under the null (B,)."""
    found = abs(sum(difference for difference, _ in tests))
    nulls = np.abs(sum((draws for _, draws in tests), np.zeros(RESAMPLES)))
    as_large = int((nulls >= found - 1e-9 * max(found, 1e-3)).sum())
    return (1 + as_large) / (1 + RESAMPLES)


def _flipped(a: Counts, b: Counts, stream: tuple[int, ...]) -> tuple[float, Array]:
    """Return the difference of a and b, and its draws (B,) when items exchange their sides at random.

    Seeds are averaged first, item by item.
    """
    of_a, of_b = a.counts.mean(axis=0), b.counts.mean(axis=0)
    both, moved = (of_a + of_b).sum(axis=0), product(signs(len(of_a), stream), of_a - of_b)
    difference = a.total(of_a.sum(axis=0)) - a.total(of_b.sum(axis=0))
    return float(difference), a.total((both + moved) / 2) - a.total((both - moved) / 2)
