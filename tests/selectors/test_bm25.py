import re
from collections import Counter
from math import log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_plugins import BM25, Pool, Template
from icl_plugins.errors import SettingError
from icl_plugins.selectors.bm25 import mean_scores_received


def mean_scores_by_definition(texts, k1, b):
    """Lucene's BM25 of every text against every other text as the query, one by one."""
    documents = [re.findall(r"\w+", text.lower()) for text in texts]
    count = len(documents)
    mean_length = sum(map(len, documents)) / count
    holders = Counter(word for document in documents for word in set(document))

    def score(document, query):
        tf = Counter(document)
        norm = k1 * (1 - b + b * len(document) / mean_length)
        idf = {word: log(1 + (count - n + 0.5) / (n + 0.5)) for word, n in holders.items()}
        return sum(idf[word] * tf[word] / (tf[word] + norm) for word in query if tf[word])

    return [
        sum(score(document, query) for at, query in enumerate(documents) if at != row) / (count - 1)
        for row, document in enumerate(documents)
    ]


texts = st.lists(
    st.lists(st.sampled_from(["a", "Card", "card", "rate", "phone", "7", "!"]), min_size=1, max_size=6).map(
        " ".join
    ),
    min_size=2,
    max_size=8,
).filter(lambda texts: any(re.search(r"\w", text) for text in texts))


@settings(max_examples=40, deadline=None)
@given(texts=texts, k1=st.sampled_from([0.5, 1.5]), b=st.sampled_from([0.0, 0.75, 1.0]))
def test_one_product_equals_the_scores_of_all_pairs(texts, k1, b):
    expected = mean_scores_by_definition(texts, k1, b)
    np.testing.assert_allclose(mean_scores_received(texts, k1=k1, b=b), expected, rtol=1e-9, atol=1e-12)


def test_an_example_does_not_vote_for_itself():
    """With its own vote the long lonely text would win; no other text has a word of it."""
    scores = mean_scores_received(
        ["zebra yak xylophone walrus vulture unicorn", "card", "card"], k1=1.5, b=0.75
    )
    assert scores[0] == 0 < scores[1] == scores[2]


def test_words_that_others_share_win():
    template = Template(question="{q}", answer=" {a}")
    questions = ["card lost", "card rate", "card rate today", "moon", "sun"]
    pool = Pool.from_records([{"q": q, "a": "yes"} for q in questions], template)
    assert set(BM25().select(pool, 2).indices) <= {0, 1, 2}


@pytest.mark.parametrize("texts", [["!!!", "???"], ["card"], ["!!!"]])
def test_nothing_to_compare_scores_zero(texts):
    assert mean_scores_received(texts, k1=1.5, b=0.75).tolist() == [0.0] * len(texts)


def test_a_large_pool_never_becomes_a_table_of_all_pairs():
    import tracemalloc

    texts = [f"card {row % 97} rate {row % 31} phone {row % 13}" for row in range(6000)]
    mean_scores_received(texts[:10], k1=1.5, b=0.75)
    tracemalloc.start()
    mean_scores_received(texts, k1=1.5, b=0.75)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6000 * 6000 * 8 / 10


@pytest.mark.parametrize(
    "wrong", [{"k1": -1}, {"k1": float("nan")}, {"b": 1.1}, {"b": True}, {"k1": "1"}], ids=str
)
def test_settings_are_checked(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        BM25(**wrong)
