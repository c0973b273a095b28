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
    assert sorted(selection.indices) == list(range(7))
    scores = margins(embed(selection.pool.texts, "proxy", reader, "error")[0], selection.pool.labels)
    assert selection.scores[selection.indices.index(6)] == scores[6]


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
    assert selection.details.get("candidates", len(pool)) == len(kept)
    others = sorted(set(range(len(pool))) - set(kept))
    excluded = GradientMatching(reader, typical=1.0, **QUICK).select(pool, 4, exclude=others)
    assert (selection.indices, selection.objective) == (excluded.indices, excluded.objective)


def test_proportional_quotas_are_shares_of_the_whole_pool(pool, reader):
    """Of few typical rows, of which each label has one at least, the shares would be others."""
    matching = GradientMatching(reader, typical=0.01, **QUICK)
    chosen = Random().select(pool, 6, quotas="proportional")
    assert Counter(matching.select(pool, 6, quotas="proportional").labels) == Counter(chosen.labels)


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"quotas": {"card_arrival": 1}},
        {"quotas": {"card_arrival": 0}},
        {"quotas": {"card_arrival": 2}, "include": [0, 2]},
        {"quotas": "proportional"},
        {"quotas": {"exchange_rate": 8}},
        {"exclude": range(10)},
        {"include": [5, 23]},
    ],
)
def test_as_many_are_chosen_as_asked_for(pool, reader, limits):
    chosen = GradientMatching(reader, typical=0.01, **QUICK).select(pool, 11, **limits)
    assert len(chosen) == 11 and {*limits.get("include", ())} <= {*chosen.indices}


def mixed(pool):
    """The pool, and as many examples that are long."""
    long = [{**example, "text": f"{example['text']} " * 9} for example in pool.examples]
    return Pool.from_records([*pool.examples, *long], pool.template)


@pytest.mark.parametrize(
    "limits",
    [
        {"max_tokens": 120},
        {"max_tokens": 300},
        {"max_tokens": 300, "exclude": range(24, 48)},
        {"max_tokens": 300, "quotas": {"card_arrival": 0}},
    ],
)
def test_a_token_budget_is_filled(pool, reader, limits):
    """As with all examples: what is left would hold no other candidate."""
    both = [
        GradientMatching(reader, typical=share, **QUICK).select(mixed(pool), **limits) for share in (0.01, 1)
    ]
    tokens = [selection.report()["tokens"] for selection in both]
    assert tokens[0] > 0.8 * tokens[1]


def test_what_all_examples_can_do_within_a_budget_typical_ones_can(pool, reader):
    """The quotas ask for the cheapest ones, which need not be typical."""
    doubled = mixed(pool)
    costs = np.sort(reader.count_tokens([text + TEMPLATE.separator for text in doubled.texts]))
    least = int(costs[:12].sum()) + 24
    for share in (1, 0.01):
        matching = GradientMatching(reader, typical=share, **QUICK)
        assert len(matching.select(doubled, 12, max_tokens=least, quotas="proportional")) == 12


def test_where_labels_tell_nothing_all_are_typical(reader):
    rows = [{"text": f"text {row}", "label": f"label {row}"} for row in range(8)]
    pool = Pool.from_records(rows, TEMPLATE)
    chosen = [GradientMatching(reader, typical=share, **QUICK).select(pool, 3).indices for share in (0.1, 1)]
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize(("labels", "candidates"), [("a" * 20 + "b" * 20, 4), ("a" * 20 + "b" * 20 + "c", 5)])
def test_a_new_label_of_one_example_does_not_turn_classes_into_texts(reader, labels, candidates):
    rows = [{"text": f"text {row}", "label": label} for row, label in enumerate(labels)]
    pool = Pool.from_records(rows, TEMPLATE)
    selection = GradientMatching(reader, typical=0.1, **QUICK).select(pool, 3)
    assert selection.details["candidates"] == candidates
