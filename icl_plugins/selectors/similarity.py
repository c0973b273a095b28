"""Similarity: the examples that lie closest to all others."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.examples import Pool
from icl_plugins.selection import Selection
from icl_plugins.selectors._common import Request, by_score
from icl_plugins.selectors._embeddings import TooLong, check_embeddings, embed
from icl_plugins.selectors._settings import check_models
from icl_plugins.selectors._tokens import PromptTokens

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


@dataclass(frozen=True)
class Similarity:
    """Rank by the mean cosine similarity of an example to all other examples of the pool.

    `embeddings` is "proxy" or the name of a sentence-transformers model; texts are question and answer.
    A zero vector is similar to nothing (0). Scores are the mean similarities, from -1 to 1.
    `on_too_long`: "error", or "truncate" texts that the model cannot read whole.
    `tokenizer` counts token budgets; None is the proxy's. Raises SettingError for bad settings.
    """

    embeddings: str = "proxy"
    proxy: "str | Proxy" = "micro"
    on_too_long: TooLong = "error"
    tokenizer: "str | PromptTokens | None" = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_models(self)
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
        scores = mean_similarities(vectors)
        indices = request.take(by_score(scores))
        return request.selection(self, indices, scores[list(indices)], details=details)


def mean_similarities(vectors: np.ndarray) -> np.ndarray:
    """Mean cosine of each row of `vectors` (N, h) with all other rows -> float64 (N,); 0 when N = 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0)
    received = np.einsum("nh,h->n", units, units.sum(axis=0)) - np.einsum("nh,nh->n", units, units)
    # The last bits depend on the order of the rows; without them ties are ties.
    means: np.ndarray = np.round(received / max(1, len(vectors) - 1), 12)
    return means
