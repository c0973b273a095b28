"""A hybrid is evaluated like any prompt, and never on what it may show."""

import pytest
from small_targets import LABELS, Scorer, Writer, pool

from icl_plugins import Random
from icl_plugins.errors import DataError
from icl_plugins.evaluation.answers import label_choices
from icl_plugins.evaluation.evaluate import evaluate
from icl_plugins.evaluation.store import ResultStore
from icl_plugins.selectors.hybrid import Hybrid


def hybrid(m=3, **settings):
    return Hybrid(Random(), m=m, **settings).fit(pool(40, 1000), 6, instruction="Name the intent.")


class Keeping:
    """A target that keeps its requests."""

    def __init__(self, target):
        self._target, self.requests = target, []

    def __getattr__(self, name):
        return getattr(self._target, name)

    def generate(self, requests, **arguments):
        self.requests += requests
        return self._target.generate(requests, **arguments)


@pytest.mark.parametrize("layout", ["turns", "single", "json"])
def test_each_item_is_asked_with_its_own_nearest(layout):
    target, prompt, items = Keeping(Writer(layout=layout)), hybrid(), pool(80)
    found = evaluate(prompt, items, target, choices=label_choices(items))
    assert target.requests == [prompt.messages(item, layout) for item in items]
    assert found.value == 1.0 and found.prompt == prompt.fingerprint


def test_a_scoring_target_chooses():
    prompt, items = hybrid(), pool(30)
    found = evaluate(prompt, items, Scorer(), choices=label_choices(items))
    assert found.predictions == tuple(LABELS[row % 3] for row in range(30))


def test_answers_are_kept_for_what_was_shown_and_for_nothing_else(tmp_path):
    with ResultStore(tmp_path / "results.sqlite") as store:
        first = evaluate(hybrid(), pool(20), Writer(), store=store, metric="exact_match")
        again = evaluate(hybrid(), pool(20), Writer(), store=store, metric="exact_match")
        other = evaluate(hybrid(m=2), pool(20), Writer(), store=store, metric="exact_match")
        fixed = evaluate(hybrid().fixed, pool(20), Writer(), store=store, metric="exact_match")
    assert [one.reused for one in (first, again, other, fixed)] == [0, 20, 0, 0]


def test_rankers_that_tell_nothing_of_themselves_share_no_answers(tmp_path):
    class Some:
        def __init__(self, first):
            self.first = first

        def ranker(self, pool, rows):
            return lambda question: rows[self.first :]

    with ResultStore(tmp_path / "results.sqlite") as store:
        reused = [
            evaluate(hybrid(nearest=Some(first)), pool(9), Writer(), store=store, metric="exact_match").reused
            for first in (0, 0, 5)
        ]
    assert reused == [0, 9, 0]


def test_items_that_a_hybrid_could_retrieve_are_refused_or_dropped():
    items = pool(50, 1030)
    with pytest.raises(DataError, match="10 items that are also demonstrations"):
        evaluate(hybrid(), items, Writer(), metric="exact_match")
    found = evaluate(hybrid(), items, Writer(), metric="exact_match", on_overlap="drop")
    assert len(found.golds) == 40 and found.dropped_rows == tuple(range(10))
