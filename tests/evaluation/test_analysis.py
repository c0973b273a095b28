from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_plugins.errors import SettingError
from icl_plugins.evaluation.analysis import confusion, flips, mean_flips, mean_mistakes
from icl_plugins.evaluation.results import Evaluation

LABELS = st.sampled_from(["a", "b", "c"])


def evaluation(golds, predictions, metric="accuracy"):
    values = tuple(float(gold == prediction) for gold, prediction in zip(golds, predictions, strict=True))
    return Evaluation("target", "prompt", metric, tuple(golds), tuple(predictions), values)


@given(st.lists(st.tuples(LABELS, st.one_of(st.none(), LABELS)), min_size=1))
def test_every_item_stands_in_its_cell_of_the_confusion(pairs):
    found = confusion(evaluation(*zip(*pairs, strict=True)))
    cells = {
        (gold, prediction): count
        for gold, row in zip(found.golds, found.counts, strict=True)
        for prediction, count in zip(found.predictions, row, strict=True)
    }
    assert {cell: count for cell, count in cells.items() if count} == Counter(pairs)
    assert found.predictions[: len(found.golds)] == found.golds
    assert found.predictions[-1] is None


def test_mistakes_come_most_frequent_first_and_unparsed_ones_among_them():
    found = confusion(evaluation("aaabbb", ["b", "b", "a", None, "b", "z"]))
    assert found.predictions == ("a", "b", "z", None)
    assert found.mistakes() == (("a", "b", 2), ("b", "z", 1), ("b", None, 1))


def test_an_empty_prediction_is_no_missing_one():
    assert confusion(evaluation("ab", ["", None])).counts == ((0, 0, 1, 0), (0, 0, 0, 1))


def test_a_label_called_unparsed_is_not_taken_for_an_unparsed_answer():
    found = confusion(evaluation(["None", "unparsed"], [None, "unparsed"]))
    assert found.counts == ((0, 0, 1), (0, 1, 0))


@given(st.lists(st.tuples(LABELS, LABELS, LABELS), min_size=1))
def test_every_item_flips_one_way_or_stays(rows):
    golds, old, new = zip(*rows, strict=True)
    found = flips(evaluation(golds, old), evaluation(golds, new))
    assert sorted((*found.fixed, *found.broken, *found.both_right, *found.both_wrong)) == list(
        range(len(rows))
    )
    assert all(old[item] != golds[item] == new[item] for item in found.fixed)
    assert all(old[item] == golds[item] != new[item] for item in found.broken)
    assert all(old[item] == golds[item] == new[item] for item in found.both_right)


@pytest.mark.parametrize("change", [{"golds": ("b", "a")}, {"metric": "macro_f1"}, {"dropped_rows": (3,)}])
def test_evaluations_of_other_items_are_not_compared(change):
    one = evaluation("ab", "ab")
    with pytest.raises(SettingError, match="different items"):
        flips(one, replace(one, **change))


@given(st.lists(st.tuples(LABELS, LABELS, LABELS, LABELS), min_size=1))
def test_mean_flips_are_the_means_over_all_pairs_and_count_every_item(rows):
    golds, *columns = zip(*rows, strict=True)
    before, *after = (evaluation(golds, column) for column in columns)
    means = mean_flips([before], after)
    pairs = [flips(before, one) for one in after]
    names = ("fixed", "broken", "both_right", "both_wrong")
    assert means == tuple(sum(len(getattr(pair, name)) for pair in pairs) / 2 for name in names)
    assert sum(means) == len(golds)


def test_an_answer_of_full_value_is_no_mistake_however_it_is_written():
    one = replace(evaluation("aab", "AAc"), values=(1.0, 1.0, 0.5))
    assert mean_mistakes([one]) == {("b", "c"): 1.0}


def test_mean_mistakes_are_counts_of_one_evaluation_on_average():
    twice = [evaluation("aab", "bba"), evaluation("aab", ["b", "a", None])]
    assert mean_mistakes(twice) == {("a", "b"): 1.5, ("b", "a"): 0.5, ("b", None): 0.5}
    assert next(iter(mean_mistakes(twice))) == ("a", "b")
