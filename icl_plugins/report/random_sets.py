"""What random sets of n of N examples would be like, in closed form: no sampling, no seed."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def label_range(count: int, size: int, shots: int) -> tuple[int, int]:
    """Return how often a label comes in random sets: the central 95 % of the hypergeometric distribution.

    count: examples of the label among the size of the pool; shots: of the set.
    """
    from scipy.stats import hypergeom

    low, high = hypergeom(size, count, shots).ppf([0.025, 0.975])
    return int(low), int(high)


def expected_label_kl(counts: Mapping[str, int], shots: int) -> float:
    """Return the mean over random sets of KL(set || pool), nats; exact, since it is a sum over labels."""
    import numpy as np
    from scipy.stats import hypergeom

    size = sum(counts.values())
    total = 0.0
    for count, labels in Counter(counts.values()).items():
        shown = np.arange(1, min(count, shots) + 1)
        terms = shown / shots * np.log(shown / shots * size / count)
        total += labels * float(hypergeom(size, count, shots).pmf(shown) @ terms)
    return max(0.0, total)


def objective_curve(spread: float, rows: int, shots: Sequence[int]) -> list[float]:
    """Return the root mean square over random sets of k rows of || mean of k - mean of all ||, for each k.

    spread: that of one row, rows: N; it is spread * sqrt((N - k) / (k (N - 1))).
    """
    return [spread * math.sqrt((rows - k) / (k * max(rows - 1, 1))) for k in shots]


def range_factors(gram: "np.ndarray") -> tuple[float, float]:
    """Return the factors that lead from the root mean square to the central 95 % of random sets.

    gram: (M, M) of the centred features. The squared distance of a mean of several rows is close to a sum of
    chi-squares weighted by the eigenvalues of the covariance; here it is the multiple of one chi-square with
    the same mean and variance (Satterthwaite 1946), of trace(C)^2 / trace(C^2) degrees of freedom.
    """
    import numpy as np
    from scipy.stats import chi2

    squares = float((gram * gram).sum())
    freedom = max(1.0, float(gram.trace()) ** 2 / squares) if squares > 0 else math.inf
    if math.isinf(freedom):
        return 1.0, 1.0
    low, high = np.sqrt(chi2(freedom).ppf([0.025, 0.975]) / freedom)
    return float(low), float(high)
