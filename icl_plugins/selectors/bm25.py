"""BM25: the examples that answer the rest of the pool best, word for word."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.examples import Pool
from icl_plugins.selection import Selection
from icl_plugins.selectors._common import Request, by_score
from icl_plugins.selectors._settings import check_models, check_real
from icl_plugins.selectors._tokens import PromptTokens


@dataclass(frozen=True)
class BM25:
    """Rank by the mean BM25 score an example receives when every other example is the query.

    The "BM25-Major" baseline of CLG (arXiv 2506.04579, released code), on question and answer together,
    with two differences: an example does not score itself, which favoured long rows, and the idf is
    Lucene's, which is never negative. Scores are those means.
    Raises SettingError for k1 < 0 or b outside 0 to 1.
    """

    k1: float = 1.5
    b: float = 0.75
    tokenizer: "str | PromptTokens" = "micro"

    def __post_init__(self) -> None:
        """Check the settings."""
        check_models(self)
        check_real("k1", self.k1)
        check_real("b", self.b, at_most=1.0)

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
        """Select demonstrations; raises BudgetError or SettingError for what cannot be met."""
        request = Request.check(pool, shots, max_tokens, quotas, include, exclude, self.tokenizer)
        scores = mean_scores_received(pool.texts, k1=self.k1, b=self.b)
        indices = request.take(by_score(scores))
        return request.selection(self, indices, scores[list(indices)])


_WORD = r"(?u)\b\w+\b"


def words(texts: Sequence[str]) -> tuple[list[list[int]], dict[str, int]]:
    """Split texts into lower-case words -> word ids of each text, vocabulary in alphabetical order.

    The fixed order of words makes sums over them independent of the order of the texts, to the last bit.
    """
    import bm25s

    # bm25s's own default pattern would drop words of one letter.
    split = bm25s.tokenize(list(texts), True, _WORD, stopwords=None, return_ids=False, show_progress=False)
    vocabulary = {
        word: number for number, word in enumerate(sorted({word for text in split for word in text}))
    }
    return [[vocabulary[word] for word in text] for text in split], vocabulary


def mean_scores_received(texts: Sequence[str], *, k1: float, b: float) -> np.ndarray:
    """Mean BM25 score of each text over all other texts as queries -> float64 (N,).

    A score is linear in the word counts of the query, so the sum over all queries is one product with the
    counts of the whole pool: O(words in the pool), where the scores of all pairs would be N x N.
    """
    import bm25s
    from scipy.sparse import csc_array

    ids, vocabulary = words(texts)
    if len(texts) < 2 or not vocabulary:
        return np.zeros(len(texts))
    index = bm25s.BM25(k1=k1, b=b, method="lucene", dtype="float64", backend="numpy")
    index.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    shape = (len(texts), len(vocabulary))
    weights = csc_array(
        (index.scores["data"], index.scores["indices"], index.scores["indptr"]), shape=shape
    ).tocsr()
    rows = np.repeat(np.arange(len(texts)), [len(text) for text in ids])
    columns = np.concatenate([np.asarray(text, dtype=np.int64) for text in ids])
    counts = csc_array((np.ones(len(rows)), (rows, columns)), shape=shape)
    from_itself = weights.multiply(counts).sum(axis=1)
    means: np.ndarray = (weights @ counts.sum(axis=0) - from_itself) / (len(texts) - 1)
    return means
