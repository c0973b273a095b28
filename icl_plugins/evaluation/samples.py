"""What the statistics read: the counts of a sample, and how its items are drawn again."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icl_plugins.errors import NonFiniteError, SettingError
from icl_plugins.evaluation.metrics import METRICS, Array
from icl_plugins.evaluation.results import Evaluation

Draws: TypeAlias = NDArray[np.uint8] | NDArray[np.int8]
Sample: TypeAlias = ArrayLike | Sequence[Evaluation]

RESAMPLES = 10_000
_MEAN = METRICS["accuracy"].total


class Counts(NamedTuple):
    """Counts (S, N, K) of a metric, how their sums become values, and what was measured."""

    counts: Array
    total: Callable[[Array], Array]
    measured: object


def read_pair(a: Sample, b: Sample) -> tuple[Counts, Counts]:
    """Read two samples; raises SettingError unless they measure the same."""
    pair = read(a), read(b)
    if pair[0].measured != pair[1].measured:
        raise SettingError(
            "two samples of different items or metrics",
            expected="the same items in the same order, by the same metric",
            fix="evaluate both on the same items",
        )
    return pair


def read(sample: Sample) -> Counts:
    """Read values (S, N) or (N,), or S evaluations; raises SettingError and NonFiniteError."""
    if isinstance(sample, list | tuple) and sample and isinstance(sample[0], Evaluation):
        return _read_evaluations(sample)
    try:
        values = np.atleast_2d(np.asarray([] if sample is None else sample, dtype=np.float64))
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim != 2 or not values.size:
        raise SettingError(
            f"a sample of shape {np.shape(values)}",
            expected="values (S, N), S seeds on N items",
            fix="pass them",
        )
    if not np.isfinite(values).all():
        raise NonFiniteError(
            f"{int((~np.isfinite(values)).sum())} values that are NaN or infinite",
            expected="finite numbers",
            fix="find the items that could not be measured",
        )
    return Counts(np.stack([values, np.ones_like(values)], axis=2), _MEAN, values.shape[1])


def _read_evaluations(evaluations: Sequence[Evaluation]) -> Counts:
    measured = {(e.metric, e.golds, e.dropped_rows) for e in evaluations}
    if len(measured) > 1:
        raise SettingError(
            "evaluations of different items or metrics in one sample",
            expected="one metric, the same items in the same order, one evaluation per seed",
            fix="pass the evaluations of one cell",
        )
    metric = METRICS.get(evaluations[0].metric)
    if metric is None:
        return read([e.values for e in evaluations])._replace(measured=measured)
    counts = np.stack([metric.counts(e.predictions, e.golds) for e in evaluations])
    return Counts(counts, metric.total, measured)


@lru_cache(maxsize=48)
def weights(items: int, stream: tuple[int, ...]) -> Draws:
    """Return how often each item, or seed, is drawn in each resample (B, N)."""
    rng = np.random.default_rng((*stream, 2))
    drawn = (np.bincount(rng.integers(items, size=items), minlength=items) for _ in range(RESAMPLES))
    return np.array(list(drawn), dtype=np.uint8)


@lru_cache(maxsize=12)
def signs(items: int, stream: tuple[int, ...]) -> Draws:
    """Return the sign of each item in each flip (B, N)."""
    rng = np.random.default_rng((*stream, 3))
    return 2 * rng.integers(2, size=(RESAMPLES, items), dtype=np.int8) - 1


def product(rows: Draws, matrix: Array) -> Array:
    """Return rows (B, N) times a matrix (N, K), in parts that fit memory."""
    return np.concatenate([part.astype(np.float64) @ matrix for part in np.array_split(rows, 10)])
