"""KMeans: one example from the middle of each region of the pool."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.examples import Pool
from icl_plugins.selection import Selection
from icl_plugins.selectors._common import Request
from icl_plugins.selectors._embeddings import TooLong, check_embeddings, embed
from icl_plugins.selectors._settings import check_models, check_seed
from icl_plugins.selectors._tokens import PromptTokens

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


@dataclass(frozen=True)
class KMeans:
    """Make as many clusters as shots; take the row nearest each centroid, largest cluster first.

    A baseline of CLG (arXiv 2506.04579), whose code can return a row twice; here each row comes at most
    once, and where constraints rule a row out, the next nearest of the clusters stand in.
    `embeddings` is "proxy" or the name of a sentence-transformers model; texts are question and answer.
    Scores are the share of the pool in the demonstration's cluster. Not nested: clusters depend on the
    number of shots (under a token budget alone: the number that fits at mean length).
    `on_too_long`: "error", or "truncate" texts that the model cannot read whole.
    `tokenizer` counts token budgets; None is the proxy's. Raises SettingError for bad settings.
    """

    embeddings: str = "proxy"
    proxy: "str | Proxy" = "micro"
    seed: int = 0
    on_too_long: TooLong = "error"
    tokenizer: "str | PromptTokens | None" = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_models(self)
        check_seed(self.seed)
        check_embeddings(self.embeddings, self.on_too_long)

    def select(
        self,
        pool: Pool,
        shots: int | None = None,
        *,
        max_tokens: int | None = None,
        quotas: Quotas = None,
        include: Iterable[int] = (),
        exclude: Iterable[int] = (),
    ) -> Selection:
        """Select demonstrations; raises BudgetError, SettingError, ProxyError or OptionalDependencyError."""
        tokenizer = self.tokenizer or self.proxy
        request = Request.check(pool, shots, max_tokens, quotas, include, exclude, tokenizer)
        vectors, details = embed(pool.texts, self.embeddings, self.proxy, self.on_too_long)
        labels, distances = cluster(vectors, expected_shots(request), seed=self.seed)
        included = np.isin(np.arange(len(pool)), request.include)
        indices = request.take(in_turns(labels, distances, first=included, exclude=request.exclude))
        shares = np.bincount(labels)[labels] / len(pool)
        return request.selection(self, indices, shares[list(indices)], details=details)


def expected_shots(request: Request) -> int:
    """Return the shots, or how many demonstrations of mean length fit the token budget if that is fewer."""
    shots = request.shots or len(request.pool)
    costs, room = request.constraints.costs, request.constraints.max_cost
    if costs is None or room is None:
        return shots
    free = np.setdiff1d(np.arange(len(costs)), request.constraints.exclude)
    return min(shots, max(1, int(room / costs[free].mean())))


def cluster(vectors: np.ndarray, clusters: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cluster rows (N, h) by k-means++ -> cluster of each row (N,), its distance to the centroid (N,).

    Distances are relative to the largest, and rounded, so that ties are ties.
    """
    from sklearn.cluster import KMeans as Clustering

    distinct = len({row.tobytes() for row in vectors})
    fitted = Clustering(min(clusters, distinct), random_state=seed, n_init="auto").fit(vectors)
    distances = np.linalg.norm(vectors - fitted.cluster_centers_[fitted.labels_], axis=1)
    return fitted.labels_, np.round(distances / (distances.max() or 1.0), 9)


def in_turns(
    labels: np.ndarray, distances: np.ndarray, *, first: np.ndarray, exclude: Iterable[int] = ()
) -> np.ndarray:
    """Rank rows: the nearest of each cluster, largest cluster first, then the second nearest of each, ...

    Rows marked in `first` (N,) bool stand for their cluster before nearer ones. Ties by lowest index.
    """
    rows = np.setdiff1d(np.arange(len(labels)), np.fromiter(exclude, dtype=np.int64))
    by_cluster = rows[np.lexsort((rows, distances[rows], ~first[rows], labels[rows]))]
    starts = np.searchsorted(labels[by_cluster], labels[by_cluster])
    turn = np.arange(len(by_cluster)) - starts
    sizes = np.bincount(labels)[labels[by_cluster]]
    return by_cluster[np.lexsort((by_cluster, -sizes, turn))]
