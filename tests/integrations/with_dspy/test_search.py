"""What ManyShotSearch promises: the best of the candidates within its budget, told honestly."""

import copy
import json
import pickle
import random
from collections import Counter

import dspy
import numpy as np
import pytest
from dspy.utils.dummies import DummyLM
from dspy_icl import Candidate, ManyShotSearch, SearchError, SelectorFewShot, grid
from dspy_icl.halving import Round, cost, rounds
from dspy_icl.trials import interval
from dspy_programs import Classify, OneStage, TwoStages, knowing, make_trainset, right, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_plugins import BM25, GradientMatching, Proxy, Random
from icl_plugins.errors import BudgetError, DataError, SettingError
from icl_plugins.ordering import Ordered

CALLS = []  # (text, texts of the demonstrations) of every run of Scripted


class Scripted(dspy.Module):
    """Right about question i if i % 10 < its skill, which is its number of demonstrations."""

    def __init__(self, broken=()):
        super().__init__()
        self.predictor = dspy.Predict(Classify)
        self.broken = broken

    def skill(self):
        return len(self.predictor.demos)

    def forward(self, text):
        CALLS.append((text, tuple(texts(self.predictor.demos))))
        if self.skill() in self.broken:
            raise ValueError("context overflow")
        number = int(text.split()[1])
        area = ("card", "rate", "phone")[number % 3]
        return dspy.Prediction(area=area if number % 10 < self.skill() else "wrong")


class Indifferent(Scripted):
    def skill(self):
        return 5


@pytest.fixture(autouse=True)
def lm():
    CALLS.clear()
    with dspy.context(lm=DummyLM([]), num_threads=1):
        yield


def examples(start, stop):
    return make_trainset(stop)[start:]


TRAIN, VAL = examples(0, 12), examples(20, 60)
SHOTS = [Candidate(Random(), k) for k in (1, 8, 3, 6, 2)]


def search(candidates=SHOTS, student=None, trainset=TRAIN, valset=VAL, **settings):
    optimizer = ManyShotSearch(metric=right, candidates=candidates, **settings)
    return optimizer.compile(student or Scripted(), trainset=trainset, valset=valset)


def seen_by():
    """Demonstrations -> the texts they were tried on, in order."""
    tried = {}
    for text, demos in CALLS:
        tried.setdefault(demos, []).append(text)
    return tried


# --- the plan --------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 30), st.integers(1, 60), st.integers(1, 900))
def test_the_plan_is_the_largest_that_the_budget_allows(candidates, size, budget):
    def by_definition(first):
        left, seen, plan = candidates, min(first, size), []
        plan.append((left, seen))
        while left > 2 and seen < size:
            left, seen = (left + 1) // 2, min(2 * seen, size)
            plan.append((left, seen))
        spent = sum(plan[0]) and plan[0][0] * plan[0][1]
        for (_, before), (now, after) in zip(plan, plan[1:], strict=False):
            spent += now * (after - before)
        return spent, plan

    affordable = [by_definition(first) for first in range(1, size + 1) if by_definition(first)[0] <= budget]
    if not affordable:
        with pytest.raises(SettingError, match=f"at least {by_definition(1)[0]}"):
            rounds(candidates, size, budget)
    else:
        plan = rounds(candidates, size, budget)
        assert (cost(plan), plan) == max(affordable)


def test_a_budget_for_everything_tries_everything():
    assert rounds(8, 40, 320) == [Round(8, 40)]


# --- what is tried, how often ----------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [60, 100, 140, 200])
def test_the_budget_is_kept_and_no_example_is_tried_twice(budget):
    compiled = search(max_metric_calls=budget)
    assert len(CALLS) == compiled.search_report["metric_calls"] <= budget
    assert max(Counter(CALLS).values()) == 1
    plan = rounds(5, len(VAL), budget)
    sizes = sorted((len(tried) for tried in seen_by().values()), reverse=True)
    assert sizes == sorted(
        (max(r.examples for r in plan if r.candidates > at) for at in range(5)), reverse=True
    )


def test_slices_are_nested_and_the_same_for_all():
    search(max_metric_calls=100)
    longest = max(seen_by().values(), key=len)
    assert all(tried == longest[: len(tried)] for tried in seen_by().values())
    assert longest != [example.text for example in VAL][: len(longest)]  # drawn, not the first


def test_the_half_that_goes_on_is_the_better_one():
    """The definition, with the scores of all candidates on the slices that were drawn."""
    compiled = search(max_metric_calls=100)
    drawn = [int(text.split()[1]) for text in max(seen_by().values(), key=len)]
    alive = [1, 8, 3, 6, 2]
    for size, seen in rounds(5, len(VAL), 100):
        kept, tried = alive, seen
        alive = sorted(alive, key=lambda k: (-sum(number % 10 < k for number in drawn[:seen]), k))
        alive = alive[: -(-size // 2)]
    last = [entry["candidate"] for entry in compiled.candidate_programs]
    assert last == [f"Random, k={k}" for k in sorted(kept, key=lambda k: -k)]
    assert all(entry["examples"] == tried for entry in compiled.candidate_programs)
    assert len(compiled.predictor.demos) == 8


def test_ties_go_to_fewer_tokens():
    compiled = search(student=Indifferent(), max_metric_calls=200)
    assert compiled.search_report["best"]["candidate"] == "Random, k=1"
    tokens = [entry["tokens"] for entry in compiled.candidate_programs]
    assert tokens == sorted(tokens) and tokens[0] > 0


def test_candidates_that_show_the_same_are_tried_once():
    one = Ordered(Random(), "shuffle")
    compiled = search(
        [Candidate(Random(), 1), Candidate(one, 1), Candidate(Random(), 30), Candidate(one, 30)]
    )
    assert len(seen_by()) == 3 and compiled.search_report["candidates"] == 4


def test_shots_and_orders_make_a_grid():
    tried = grid([Random(), BM25()], (2, 4), ("greedy", "interleaved"))
    assert tried[:3] == [
        Candidate(Random(), 2),
        Candidate(Ordered(Random(), "interleaved"), 2),
        Candidate(Random(), 4),
    ]
    assert [one.name for one in tried[-2:]] == ["BM25, k=4", "BM25, k=4, interleaved"]
    assert len(tried) == 8


def test_names_tell_the_settings_that_are_not_the_defaults():
    candidate = Candidate(Random(seed=3), None, max_tokens=90, quotas=1)
    assert candidate.name == "Random(seed=3), max_tokens=90, quotas=1"


# --- demonstrations --------------------------------------------------------------------------------------


def test_every_candidate_shows_what_its_selector_chooses_alone_and_gradients_are_shared(monkeypatch):
    from icl_plugins.proxy import pool_gradients

    tuned, tune = [], pool_gradients.tune_prefix
    monkeypatch.setattr(pool_gradients, "tune_prefix", lambda *a, **k: tuned.append(1) or tune(*a, **k))
    matching = GradientMatching(proxy=Proxy.load("micro"), epochs=1, prefix_length=2, swaps=0)
    candidates = grid([matching], (2, 4), ("greedy", "easy_to_hard"))
    compiled = search(candidates, max_metric_calls=160)
    assert len(tuned) == 1
    by_name = {candidate.name: candidate for candidate in candidates}
    for entry in [*compiled.candidate_programs, *compiled.mb_candidate_programs]:
        candidate = by_name[entry["candidate"]]
        alone = SelectorFewShot(candidate.selector, k=candidate.k).compile(Scripted(), trainset=TRAIN)
        assert texts(entry["program"].predictor.demos) == texts(alone.predictor.demos)
    assert compiled.selection_reports["predictor"]["config"]["selector"] == "GradientMatching"


def test_a_program_is_run_over_the_trainset_once_and_its_calls_are_counted():
    seen = []

    def metric(example, prediction, trace=None):
        seen.append((example.text, trace is not None))
        return right(example, prediction)

    trainset, valset = examples(0, 6), examples(20, 28)
    optimizer = ManyShotSearch(metric=metric, candidates=SHOTS[:3], max_metric_calls=28)
    with dspy.context(lm=knowing([*trainset, *valset], topic="t")):
        compiled = optimizer.compile(TwoStages(), trainset=trainset, valset=valset)
    assert [text for text, traced in seen if traced] == [example.text for example in trainset]
    assert len(seen) == compiled.search_report["metric_calls"] <= 28
    assert set(compiled.selection_reports) == {"topic", "area"}


# --- failures --------------------------------------------------------------------------------------------


def test_a_candidate_that_fails_is_out_and_the_others_go_on():
    compiled = search(student=Scripted(broken=(8,)), max_errors=3, max_metric_calls=200)
    assert len(compiled.predictor.demos) == 6
    (broken,) = (entry for entry in compiled.mb_candidate_programs if entry["error"])
    assert broken["candidate"] == "Random, k=8" and "context overflow" in broken["error"]
    assert sum(len(demos) == 8 for _, demos in CALLS) == 3


def test_a_single_failure_counts_as_wrong():
    class Once(Scripted):
        def forward(self, text):
            if text == VAL[7].text:
                raise ValueError("once")
            return super().forward(text)

    compiled = search([Candidate(Random(), 12)], student=Once(), max_metric_calls=40)
    (entry,) = compiled.candidate_programs
    assert entry["failures"] == 1 and sum(entry["subscores"]) == 39 and entry["examples"] == 40
    assert compiled.search_report["metric_calls"] == 39


def test_an_error_where_no_candidate_is_left_names_the_cause():
    with pytest.raises(SearchError, match="no candidate is left of 5.*context overflow"):
        search(student=Scripted(broken=range(20)), max_errors=2)


def test_errors_of_the_metric_are_failures_too():
    def broken(example, prediction, trace=None):
        raise KeyError("area")

    optimizer = ManyShotSearch(metric=broken, candidates=SHOTS, max_errors=2)
    with pytest.raises(SearchError, match="KeyError"):
        optimizer.compile(Scripted(), trainset=TRAIN, valset=VAL)


# --- what is refused before anything is run --------------------------------------------------------------


def refused(error, match, **arguments):
    with pytest.raises(error, match=match):
        search(**arguments)
    assert CALLS == []


def test_what_cannot_be_tried_is_refused_before_any_run():
    refused(DataError, "example 0 of the valset", valset=[TRAIN[3]])
    refused(DataError, "no valset", valset=[])
    refused(DataError, "no valset", valset=None)
    refused(DataError, "empty trainset", trainset=[])
    refused(SettingError, "3 metric calls for 5 candidates.*at least", max_metric_calls=3)
    refused(SettingError, "student", student="program")
    with dspy.context(lm=None):
        refused(SettingError, "no LM")


def test_a_budget_that_running_the_trainset_would_use_up_is_refused():
    with dspy.context(lm=knowing(TRAIN, topic="t")), pytest.raises(SettingError, match="0 metric calls"):
        search(student=TwoStages(), max_metric_calls=len(TRAIN))


@pytest.mark.parametrize(
    "wrong",
    [
        {"metric": None},
        {"candidates": []},
        {"candidates": [Random()]},
        {"max_metric_calls": 0},
        {"seed": -1},
        {"num_threads": 0},
        {"bootstrap": "yes"},
    ],
    ids=str,
)
def test_settings_are_checked(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        ManyShotSearch(**{"metric": right, **wrong})


@pytest.mark.parametrize("wrong", [{"k": 0}, {"selector": Random}, {"k": None}], ids=str)
def test_candidates_are_checked(wrong):
    with pytest.raises(SettingError):
        Candidate(**{"selector": Random(), **wrong})


def test_limits_that_cannot_be_met_are_the_selectors_error():
    with pytest.raises(BudgetError):
        search([Candidate(Random(), None, max_tokens=2)])


@pytest.mark.parametrize("value", [None, "right", float("nan")])
def test_a_metric_that_gives_no_number_is_refused(value):
    optimizer = ManyShotSearch(metric=lambda *_: value, candidates=SHOTS)
    with pytest.raises(SettingError, match="a metric that returns"):
        optimizer.compile(Scripted(), trainset=TRAIN, valset=VAL)


# --- what is told ----------------------------------------------------------------------------------------


def test_the_report_says_what_was_spent_and_that_the_best_of_many_is_optimistic():
    report = json.loads(json.dumps(search(max_metric_calls=100).search_report))
    assert report["best"]["candidate"] == "Random, k=8"
    assert report["candidates"] == 5 and report["metric_calls"] == len(CALLS)
    assert "best of 5" in report["summary"] and "optimistic" in report["summary"]


def test_programs_are_attached_those_of_the_last_slice_best_first():
    compiled = search(max_metric_calls=100)
    scores = [entry["score"] for entry in compiled.candidate_programs]
    assert compiled.candidate_programs[0]["program"] is compiled
    assert scores == sorted(scores, reverse=True) and len(scores) == 2
    everything = compiled.candidate_programs + compiled.mb_candidate_programs
    assert {entry["candidate"] for entry in everything} == {candidate.name for candidate in SHOTS}
    for entry in everything:
        assert entry["score"] == 100 * np.mean(entry["subscores"])
        assert entry["examples"] == len(entry["subscores"])


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (3, 20), (50, 80)])
def test_the_interval_of_shares_is_wilsons(hits, n):
    z, p = 1.959963984540054, hits / n
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = 100 * np.array([centre - half, centre + half]) / (1 + z * z / n)
    np.testing.assert_allclose(interval([1.0] * hits + [0.0] * (n - hits)), expected, atol=1e-9)


def test_the_interval_of_other_metrics_holds_the_mean_and_one_example_has_none():
    low, high = interval([0.2, 0.5, 0.9, 0.4])
    assert low < 50 < high
    assert interval([1.0]) is None


# --- good manners ----------------------------------------------------------------------------------------


def test_what_was_lent_is_never_changed():
    student, random_state = Scripted(), random.getstate()
    student.set_lm(DummyLM([]))
    kept = copy.deepcopy((TRAIN, VAL, student.dump_state()))
    compiled = search(student=student)
    assert (TRAIN, VAL, student.dump_state()) == kept
    assert not hasattr(student, "search_report") and student._compiled is False
    assert compiled.predictor.lm is student.predictor.lm
    assert random.getstate() == random_state


def test_the_same_seed_finds_the_same_and_threads_change_nothing():
    def found(**settings):
        compiled = search(max_metric_calls=100, **settings)
        return [(entry["candidate"], entry["subscores"]) for entry in compiled.candidate_programs]

    assert found() == found() == found(num_threads=4)
    assert found(seed=1) != found()


def test_the_mark_is_as_wished():
    assert search()._compiled is True
    assert search(mark_compiled=False)._compiled is False


def test_an_optimizer_survives_pickling():
    optimizer = pickle.loads(pickle.dumps(ManyShotSearch(metric=right, candidates=SHOTS)))  # noqa: S301
    compiled = optimizer.compile(OneStageScripted(), trainset=TRAIN, valset=VAL)
    assert len(compiled.predictor.demos) == 8


class OneStageScripted(Scripted, OneStage):
    pass
