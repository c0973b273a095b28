"""Typicality: the examples that are most like their own label."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.algorithms.typicality import label_by_label, margins
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

        DataError where no label has two examples, or all have the same: nothing is typical then.
        """
        tokenizer = self.tokenizer or self.proxy
        request = Request.check(pool, shots, max_tokens, quotas, include, exclude, tokenizer)
        counts = pool.label_counts
        if len(pool) > 1 and len(counts) in (1, len(pool)):
            raise DataError(
                f"{len(counts)} labels of {len(pool)} examples",
                expected="two labels at least, and some that occur more than once",
                fix="name the field that holds the label, or choose another method, such as Similarity",
            )
        vectors, details = embed(pool.texts, self.embeddings, self.proxy, self.on_too_long)
        scores = margins(vectors, pool.labels)
        indices = request.take(label_by_label(scores, pool.labels))
        return request.selection(self, indices, scores[list(indices)], details=details)
