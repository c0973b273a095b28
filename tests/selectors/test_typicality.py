from collections import Counter
from math import ceil

import numpy as np
import pytest

from icl_plugins import GradientMatching, Pool, Random, Template, Typicality
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
    """One label, and labels of which half occur once."""
    rows = [{"text": f"text {row}", "label": label or f"label {row % 4}"} for row in range(6)]
    with pytest.raises(DataError, match=f"{1 if label else 4} labels of 6 examples"):
        Typicality(proxy="no/such").select(Pool.from_records(rows, TEMPLATE), 3)


def test_a_label_of_one_example_has_no_others_to_be_like(reader):
    rows = [{"text": f"text {row}", "label": "aabbccd"[row]} for row in range(7)]
    selection = Typicality(proxy=reader).select(Pool.from_records(rows, TEMPLATE), 7)
    assert sorted(selection.indices) == list(range(7)) and np.isfinite(selection.scores).all()


QUICK = {"epochs": 1, "batch_size": 8, "prefix_length": 1}


def shares(pool, share, wanted=0.0):
    return {
        label: max(ceil(share * c), ceil(wanted * c / len(pool))) for label, c in pool.label_counts.items()
    }


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_gradient_matching_chooses_among_the_most_typical_of_each_label(pool, reader, share):
    """Checked against the ranking by the margins, and the mean that is matched is that of the whole pool."""
    selection = GradientMatching(reader, typical=share, **QUICK).select(pool, 4)
    scores = margins(embed(pool.texts, "proxy", reader, "error")[0], pool.labels)
    kept = []
    for label, count in pool.label_counts.items():
        keep = max(ceil(share * count), ceil(4 * count / len(pool)))
        own = [row for row in range(len(pool)) if pool.labels[row] == label]
        kept += sorted(own, key=lambda row: (-scores[row], row))[:keep]
    assert set(selection.indices) <= set(kept)
    assert selection.details["candidates"] == len(kept)
    others = sorted(set(range(len(pool))) - set(kept))
    excluded = GradientMatching(reader, typical=1.0, **QUICK).select(pool, 4, exclude=others)
    assert (selection.indices, selection.objective) == (excluded.indices, excluded.objective)


def test_proportional_quotas_are_shares_of_the_whole_pool(pool, reader):
    """Of few typical rows, of which each label has one at least, the shares would be others."""
    matching = GradientMatching(reader, typical=0.01, **QUICK)
    chosen = Random().select(pool, 6, quotas="proportional")
    assert Counter(matching.select(pool, 6, quotas="proportional").labels) == Counter(chosen.labels)


def test_as_many_stay_as_the_shots_and_quotas_ask_for(pool, reader):
    matching = GradientMatching(reader, typical=0.01, **QUICK)
    assert len(matching.select(pool, len(pool) - 1)) == len(pool) - 1
    assert set(Counter(matching.select(pool, 9, quotas=3).labels).values()) == {3}
    assert set(matching.select(pool, 3, include=[5]).indices) >= {5}
    few = matching.select(pool, 4, exclude=range(12)).indices
    assert len(few) == 4 and min(few) >= 12


def test_a_token_budget_is_filled_with_typical_examples(pool, reader):
    costs = np.array(reader.count_tokens([text + TEMPLATE.separator for text in pool.texts]))
    selection = GradientMatching(reader, typical=0.01, **QUICK).select(pool, max_tokens=120)
    left = set(range(len(pool))) - set(selection.indices)
    assert 120 - selection.report()["tokens"] < costs[sorted(left)].max()


def test_where_labels_tell_nothing_all_are_typical(reader):
    rows = [{"text": f"text {row}", "label": f"label {row}"} for row in range(8)]
    pool = Pool.from_records(rows, TEMPLATE)
    chosen = [GradientMatching(reader, typical=share, **QUICK).select(pool, 3).indices for share in (0.1, 1)]
    assert chosen[0] == chosen[1]
