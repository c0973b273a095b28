"""A two-dimensional map of a pool: principal components of its features."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from icl_plugins.algorithms.features import Features, gram_matrix
from icl_plugins.errors import DataError
from icl_plugins.report.random_sets import range_factors

if TYPE_CHECKING:
    from icl_plugins.selection import Selection

_MOST_POINTS = 3000


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Rows of a pool in the plane.

    rows: (M,) of the pool, the chosen ones first, in their order. points: (M, 2). explained: the share of
    the variance along each axis. source: of what the points are. available: the number of rows that M were
    drawn from. random_range: the central 95 % of J of random sets, as factors of its root mean square; None
    where the features are not those of the objective.
    """

    rows: np.ndarray
    points: np.ndarray
    explained: tuple[float, float]
    source: str
    available: int
    random_range: tuple[float, float] | None = None


def feature_map(selection: "Selection", features: Any = None) -> FeatureMap:
    """Map at most 3,000 rows: all that were chosen, and others by a seeded draw.

    features: (N, d) array or tensor, one row for each of the pool, or `Features` whose `rows` say which rows
    of the pool are there; those of the objective. None: proxy embeddings of question and answer, of the
    selection's proxy or of micro, texts cut where they are too long. Raises DataError for another number of
    rows, NonFiniteError, and what loading the proxy raises.
    """
    if features is None:
        rows = sampled_rows(np.arange(len(selection.pool)), selection.indices)
        vectors, source = _embeddings(selection, rows)
        points, explained, _ = project(Features.of(vectors))
        return FeatureMap(rows, points, explained, source, len(selection.pool))
    features = Features.of(features)
    present = np.arange(len(features)) if features.rows is None else features.rows
    if len(features.blocks[0]) != len(selection.pool) or not np.isin(selection.indices, present).all():
        raise DataError(
            f"features of {len(features)} rows for a pool of {len(selection.pool)}",
            expected="one row for each example of the pool, and all that were chosen among them",
            fix="pass the features that the selection was made from",
        )
    rows = sampled_rows(present, selection.indices)
    features = features.take(np.searchsorted(present, rows))
    features.largest()  # refuses NaN and infinity
    points, explained, random_range = project(features)
    return FeatureMap(rows, points, explained, "features", len(present), random_range)


def sampled_rows(rows: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """Return the chosen rows, then others in ascending order, at most 3,000 unless more were chosen."""
    others = np.setdiff1d(rows, chosen)
    room = max(0, _MOST_POINTS - len(chosen))
    if len(others) > room:
        others = np.sort(np.random.default_rng(0).choice(others, room, replace=False))
    return np.concatenate([np.asarray(chosen, dtype=np.int64), others.astype(np.int64)])


def project(features: Features) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Return the first two principal components (M, 2), their shares of the variance, and range factors.

    By inner products: features may be far wider than they are many, and are read block by block.
    """
    from sklearn.decomposition import KernelPCA

    gram = gram_matrix(features, features.mean())
    total = float(gram.trace())
    factors = range_factors(gram)
    if total <= 0 or len(gram) < 3:
        return np.zeros((len(gram), 2)), (0.0, 0.0), factors
    solver = "randomized" if len(gram) > 20 else "dense"
    pca = KernelPCA(2, kernel="precomputed", eigen_solver=solver, random_state=0)
    points = np.zeros((len(gram), 2))
    found = pca.fit_transform(gram)
    points[:, : found.shape[1]] = found
    first, second = (*pca.eigenvalues_, 0.0)[:2]
    return points, (float(first / total), float(second / total)), factors


def _embeddings(selection: "Selection", rows: np.ndarray) -> tuple[np.ndarray, str]:
    from icl_plugins.selectors._embeddings import embed

    proxy = str(selection.details.get("proxy") or "micro")
    texts = [selection.pool.texts[row] for row in rows]
    vectors, _ = embed(texts, "proxy", proxy, "truncate")
    return vectors, f"embeddings of the proxy {proxy.rsplit('/', 1)[-1]}"
