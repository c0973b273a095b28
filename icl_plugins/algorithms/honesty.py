"""Whether estimates are to be trusted: compared with real outcomes, and with one constant for all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

from icl_plugins.errors import DataError, NonFiniteError


@dataclass(frozen=True, eq=False)
class Measured:
    """Estimated and real outcomes (m,) of the same subsets, and the outcome of their anchor."""

    estimates: np.ndarray
    real: np.ndarray
    anchor: float


@dataclass(frozen=True)
class EstimateQuality:
    """How well estimates agree with real outcomes, where lower is better, and how well a constant does.

    relative_error: mean of |a - b| / max(|a|, |b|); squared_relative_error: mean of its square, which GradE
    (arXiv 2508.19999) reports. The constant is the outcome of the anchor. rank_correlation: Spearman's, with
    its 95 % interval (low, high); that of a constant is 0. regret: the mean real outcome of the tenth of the
    subsets with the lowest estimates less that of the best tenth; of a constant, that of all less the best
    tenth. explained: the share of the constant's squared error that the estimates do away with.
    """

    subsets: int
    relative_error: float
    squared_relative_error: float
    constant_relative_error: float
    constant_squared_relative_error: float
    rank_correlation: float
    low: float
    high: float
    regret: float
    constant_regret: float
    explained: float

    @property
    def trusted(self) -> bool:
        """Whether the estimates rank subsets: beyond the interval, and with less regret than a constant."""
        return self.low > 0 and self.regret < self.constant_regret


def estimate_quality(groups: Sequence[Measured]) -> EstimateQuality:
    """Compare estimates with real outcomes.

    Groups have anchors of their own; ranks are those of the differences from the group's mean, so that what
    tells the groups apart counts for nothing, and the interval is that of one subset less for every group
    but one: (-1, 1) where there are too few. Raises DataError for no subsets, NonFiniteError.
    """
    count = sum(len(one.real) for one in groups)
    if not count:
        raise DataError("no subsets to measure on", expected="one at least", fix="ask for more")
    estimates, real = (
        np.concatenate([getattr(one, name) for one in groups]) for name in ("estimates", "real")
    )
    constant = np.concatenate([np.full(len(one.real), one.anchor) for one in groups])
    if not all(np.isfinite(part).all() for part in (estimates, real, constant)):
        raise NonFiniteError(
            "NaN or infinity among the outcomes", expected="finite numbers", fix='load with dtype="float32"'
        )
    correlation = _rank_correlation(
        *(_differences([getattr(one, name) for one in groups]) for name in ("estimates", "real"))
    )
    low, high = _interval(correlation, count - len(groups) + 1)
    errors, of_constant = _relative(estimates, real), _relative(constant, real)
    regrets = np.array([_regrets(one) for one in groups])
    squares = np.square(constant - real).sum()
    return EstimateQuality(
        subsets=count,
        relative_error=float(errors.mean()),
        squared_relative_error=float(np.square(errors).mean()),
        constant_relative_error=float(of_constant.mean()),
        constant_squared_relative_error=float(np.square(of_constant).mean()),
        rank_correlation=correlation,
        low=low,
        high=high,
        regret=float(regrets[:, 0].mean()),
        constant_regret=float(regrets[:, 1].mean()),
        explained=float(1 - np.square(estimates - real).sum() / squares) if squares else 0.0,
    )


def _relative(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    larger = np.maximum(np.abs(one), np.abs(other))
    errors: np.ndarray = np.divide(np.abs(one - other), larger, out=np.zeros(len(one)), where=larger > 0)
    return errors


def _differences(groups: Sequence[np.ndarray]) -> np.ndarray:
    """Return the differences from the means of the groups, rid of roundings that tell ties apart."""
    scale = max(float(np.abs(one).max()) for one in groups) or 1.0
    return np.round(np.concatenate([one - one.mean() for one in groups]) / scale, 12)


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Return Spearman's correlation; 0 where one side is constant."""
    ranks = [rankdata(side) for side in (one, other)]
    if any(np.ptp(side) == 0 for side in ranks):
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def _interval(correlation: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval after Bonett and Wright (2000)."""
    if count <= 3:
        return -1.0, 1.0
    middle = np.arctanh(np.clip(correlation, -1 + 1e-12, 1 - 1e-12))
    wide = norm.ppf(0.975) * np.sqrt((1 + correlation**2 / 2) / (count - 3))
    return float(np.tanh(middle - wide)), float(np.tanh(middle + wide))


def _regrets(group: Measured) -> tuple[float, float]:
    top = max(1, len(group.real) // 10)
    best = np.sort(group.real)[:top].mean()
    chosen = group.real[np.argsort(group.estimates, kind="stable")[:top]].mean()
    return float(chosen - best), float(group.real.mean() - best)
