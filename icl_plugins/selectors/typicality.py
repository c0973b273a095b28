"""Typicality: the examples that are most like their own label."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.algorithms.typicality import label_by_label, margins
from icl_plugins.errors import DataError
from icl_plugins.examples import Pool
from icl_plugins.selection import Selection
from icl_plugins.selectors._common import Request
from icl_plugins.selectors._embeddings import TooLong, check_embeddings, embed
from icl_plugins.selectors._settings import check_models
from icl_plugins.selectors._tokens import PromptTokens
from icl_plugins.selectors.kmeans import expected_shots

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


@dataclass(frozen=True)
class Typicality:
    """Take the most typical examples of each label, so many of each as its share of the pool.

    Typical is what is more like the other examples of its label than like any other label: the cosine with
    the mean of the one less the highest with that of another, of centred embeddings. Scores are these
    margins, from -2 to 2; below 0 an example is more like another label than its own, as one with a wrong
    label is. Labels come in turns, most typical first; selections are nested.

    `embeddings` is "proxy" or the name of a sentence-transformers model; texts are question and answer.
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
        """Select demonstrations; raises BudgetError, SettingError, ProxyError or OptionalDependencyError.

        DataError where labels are no classes, because most occur once or there is one: nothing is typical.
        """
        tokenizer = self.tokenizer or self.proxy
        request = Request.check(pool, shots, max_tokens, quotas, include, exclude, tokenizer)
        if len(pool) > 1 and not _are_classes(pool):
            raise DataError(
                f"{len(pool.label_counts)} labels of {len(pool)} examples",
                expected="two labels at least, three quarters of which occur more than once",
                fix="name the field that holds the label, or choose another method, such as Similarity",
            )
        vectors, details = embed(pool.texts, self.embeddings, self.proxy, self.on_too_long)
        scores = margins(vectors, pool.labels)
        indices = request.take(label_by_label(scores, pool.labels))
        return request.selection(self, indices, scores[list(indices)], details=details)


def less_typical(
    request: Request, rows: np.ndarray, share: float, proxy: "str | Proxy", on_too_long: TooLong
) -> list[int]:
    """Return those of the rows (n,) of the request's pool that are not among the most typical of their label.

    Of each label the `share` that is most typical stays, and in any case as many as its quota and its part
    of the shots ask for; included rows stay too. None are returned where labels are no classes.
    """
    pool = request.pool
    if share == 1 or not _are_classes(pool):
        return []
    limits, labels = request.constraints, np.array([pool.labels[row] for row in rows], dtype=object)
    scores = margins(
        embed([pool.texts[row] for row in rows], "proxy", proxy, on_too_long)[0], labels.tolist()
    )
    free = ~np.isin(rows, limits.exclude)
    asked = limits.quota_min[limits.groups[rows]]
    # typical texts may be shorter than others, and are to fill a token budget all the same
    wanted = expected_shots(request) * (1 if request.max_tokens is None else 1.5)
    left_out: list[int] = []
    for label in dict.fromkeys(labels[free]):
        own = np.flatnonzero(free & (labels == label))
        keep = max(ceil(share * len(own)), ceil(wanted * len(own) / free.sum()), int(asked[own[0]]))
        ranked = own[np.lexsort((rows[own], -scores[own]))]
        left_out += rows[ranked[keep:]].tolist()
    return sorted(set(left_out).difference(request.include))


def _are_classes(pool: Pool) -> bool:
    """Whether labels are classes: two at least, and three quarters of them occur more than once."""
    counts = pool.label_counts
    return len(counts) > 1 and 4 * sum(count == 1 for count in counts.values()) <= len(counts)
