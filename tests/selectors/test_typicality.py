import numpy as np
import pytest

from icl_plugins import Pool, Template, Typicality
from icl_plugins.algorithms.typicality import margins
from icl_plugins.errors import DataError
from icl_plugins.selectors._embeddings import embed

TEMPLATE = Template("Query: {text}\nIntent:", " {label}")


def test_scores_are_the_margins_of_the_embeddings_best_of_each_label_first(pool, reader):
    selection = Typicality(proxy=reader).select(pool, 9)
    scores = margins(embed(pool.texts, "proxy", reader, "error")[0], pool.labels)
    assert selection.scores == tuple(scores[list(selection.indices)])
    for label in set(selection.labels):
        own = [row for row in range(len(pool)) if pool.labels[row] == label]
        best = sorted(own, key=lambda row: (-scores[row], row))
        shown = [row for row in selection.indices if pool.labels[row] == label]
        assert shown == best[: len(shown)]


@pytest.mark.parametrize("shots", [4, 12])
def test_labels_have_the_shares_of_the_pool_without_any_quota(pool, reader, shots):
    selection = Typicality(proxy=reader).select(pool, shots)
    for label, count in pool.label_counts.items():
        assert abs(selection.labels.count(label) - shots * count / len(pool)) <= 1


def test_selections_are_nested(pool, reader):
    chosen = [Typicality(proxy=reader).select(pool, shots).indices for shots in (3, 8, 20)]
    assert chosen[2][:8] == chosen[1] and chosen[1][:3] == chosen[0]


def test_an_example_with_a_wrong_label_comes_last(reader):
    """It is said twice with the right label."""
    words = {"card": "my card has not arrived", "rate": "what is the exchange rate"}
    rows = [{"text": f"{text} {row}", "label": label} for label, text in words.items() for row in range(6)]
    wrong = Pool.from_records([*rows, {"text": f"{words['rate']} 7", "label": "card"}], TEMPLATE)
    selection = Typicality(proxy=reader).select(wrong, 13)
    assert [row for row in selection.indices if wrong.labels[row] == "card"][-1] == 12
    assert selection.scores[selection.indices.index(12)] == min(selection.scores)


@pytest.mark.parametrize("label", ["one", None])
def test_labels_that_tell_nothing_are_refused_before_the_proxy_is_loaded(label):
    rows = [{"text": f"text {row}", "label": label or f"label {row}"} for row in range(6)]
    with pytest.raises(DataError, match=f"{1 if label else 6} labels of 6 examples"):
        Typicality(proxy="no/such").select(Pool.from_records(rows, TEMPLATE), 3)


def test_a_label_of_one_example_has_no_others_to_be_like(reader):
    rows = [{"text": f"text {row}", "label": ("a", "a", "b", "b", "c")[row]} for row in range(5)]
    selection = Typicality(proxy=reader).select(Pool.from_records(rows, TEMPLATE), 5)
    assert sorted(selection.indices) == list(range(5)) and np.isfinite(selection.scores).all()
