"""Typicality: the examples that are most like their own label."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icl_plugins.algorithms.constraints import Constraints
from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.algorithms.typicality import label_by_label, margins, places
from icl_plugins.errors import DataError
from icl_plugins.examples import Pool
from icl_plugins.selection import Selection
from icl_plugins.selectors._common import Request
from icl_plugins.selectors._embeddings import TooLong, check_embeddings, embed
from icl_plugins.selectors._settings import check_models
from icl_plugins.selectors._tokens import PromptTokens

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

        DataError where labels are no classes: there is one, or of many more than a quarter occur once.
        """
        tokenizer = self.tokenizer or self.proxy
        request = Request.check(pool, shots, max_tokens, quotas, include, exclude, tokenizer)
        if len(pool) > 1 and not are_classes(pool):
            raise DataError(
                f"{len(pool.label_counts)} labels of {len(pool)} examples",
                expected="classes: two labels at least, and of many a quarter at most that occur once",
                fix="name the field that holds the class, or choose another method, such as Similarity",
            )
        vectors, details = embed(pool.texts, self.embeddings, self.proxy, self.on_too_long)
        scores = margins(vectors, pool.labels)
        indices = request.take(label_by_label(scores, pool.labels))
        return request.selection(self, indices, scores[list(indices)], details=details)


def less_typical(
    request: Request, rows: np.ndarray, share: float, proxy: "str | Proxy", on_too_long: TooLong
) -> list[int]:
    """Return those of the rows (n,) of the request's pool that are not among the most typical of their label.

    The same share of each label stays: `share`, or more where the request could else not have as many
    examples, or fill its token budget, as it can with all rows; what its quotas need at the cheapest and
    included rows stay too. None are returned where labels are no classes.
    """
    pool, limits = request.pool, request.constraints
    if share == 1 or not are_classes(pool):
        return []
    labels = [pool.labels[row] for row in rows]
    scores = margins(embed([pool.texts[row] for row in rows], "proxy", proxy, on_too_long)[0], labels)
    free = np.flatnonzero(~np.isin(rows, (*limits.exclude, *limits.include)))
    before = places(scores[free], [labels[at] for at in free])
    order = np.lexsort((rows[free], -scores[free], before))
    ranked, before = rows[free][order], before[order]
    turns = _turns(limits, ranked)
    kept = max(int(np.searchsorted(before, share)), _enough(limits, ranked, turns))
    quotas = ranked[turns < limits.quota_min[limits.groups[ranked]]].tolist()
    return sorted(set(ranked[kept:].tolist()).difference(quotas, cheapest_rows(limits, ranked)))


def _turns(limits: Constraints, ranked: np.ndarray) -> np.ndarray:
    """Return how many rows of its quota's group come before each ranked row (n,), the included ones first."""
    groups = limits.groups[ranked]
    order = np.argsort(groups, kind="stable")
    included = np.bincount(limits.groups[list(limits.include)], minlength=len(limits.quota_max))
    turns: np.ndarray = included[groups]
    turns[order] += np.arange(len(order)) - np.searchsorted(groups[order], groups[order])
    return turns


def _enough(limits: Constraints, ranked: np.ndarray, turns: np.ndarray) -> int:
    """Return how many of the ranked rows give the shots, or texts for one and a half token budgets."""
    counts = turns < limits.quota_max[limits.groups[ranked]]  # what is beyond a quota gives nothing
    enough = []
    if limits.shots is not None:
        enough.append(np.searchsorted(np.cumsum(counts), limits.shots - len(limits.include)))
    if limits.costs is not None and limits.max_cost is not None:
        enough.append(np.searchsorted(np.cumsum(limits.costs[ranked] * counts), 1.5 * limits.max_cost))
    return int(min(enough)) + 1  # with both, shots are an upper limit


def cheapest_rows(limits: Constraints, ranked: np.ndarray) -> set[int]:
    """Return the cheapest rows of each quota's minimum, and the cheapest of all, under a token budget."""
    if limits.costs is None:
        return set()
    by_cost = ranked[np.argsort(limits.costs[ranked], kind="stable")]
    missing = _turns(limits, by_cost) < limits.quota_min[limits.groups[by_cost]]
    return {*by_cost[:1].tolist(), *by_cost[missing].tolist()}


def are_classes(pool: Pool) -> bool:
    """Whether there are two labels at least, and they are few or most of them occur more than once.

    Few: their square is no more than the examples. Most: three quarters.
    """
    counts = pool.label_counts
    once = sum(count == 1 for count in counts.values())
    return len(counts) > 1 and (len(counts) ** 2 <= len(pool) or 4 * once <= len(counts))
