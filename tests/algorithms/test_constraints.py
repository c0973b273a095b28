"""Whatever the method, a selection obeys the constraints, and wishes that clash are refused."""

from dataclasses import replace

import numpy as np
import pytest
from definitions import can_be_completed, lawful
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from icl_plugins.algorithms.constraints import Constraints, Feasible, resolve, take_in_order
from icl_plugins.errors import BudgetError, SettingError


@st.composite
def wishes(draw, most_rows=6):
    """Arguments of `resolve` for a small pool, often but not always possible together."""
    size = draw(st.integers(1, most_rows))
    labels = draw(st.lists(st.sampled_from("abc"), min_size=size, max_size=size))
    rows = draw(st.permutations(range(size)))
    included = draw(st.integers(0, min(2, size)))
    excluded = draw(st.integers(0, min(2, size - included)))
    budget = draw(st.none() | st.integers(1, 20))
    quotas = draw(
        st.none()
        | st.just("proportional")
        | st.integers(0, 2)
        | st.dictionaries(st.sampled_from(sorted(set(labels))), st.integers(0, 3))
    )
    return (
        size,
        labels,
        draw(st.integers(1, size) if budget is None else st.none() | st.integers(1, size)),
    ), {
        "costs": None if budget is None else draw(st.lists(st.integers(0, 6), min_size=size, max_size=size)),
        "max_cost": budget,
        "quotas": quotas,
        "include": rows[:included],
        "exclude": rows[included : included + excluded],
    }


def resolved(wish):
    try:
        return resolve(*wish[0], **wish[1])
    except (BudgetError, SettingError):
        assume(False)


@settings(deadline=None, max_examples=150)
@given(wish=wishes(), data=st.data())
def test_a_row_may_be_picked_exactly_when_the_rest_can_still_be_completed(wish, data):
    limits = resolved(wish)
    feasible = Feasible(limits)
    while True:
        allowed = feasible.allowed()
        for row in range(len(limits.groups)):
            chosen = [*feasible.indices, row]
            assert allowed[row] == (row not in feasible.indices and can_be_completed(chosen, limits))
        if not allowed.any():
            break
        feasible.take(data.draw(st.sampled_from(np.flatnonzero(allowed).tolist())))
    assert lawful(feasible.indices, limits)


def unchecked(size, labels, shots, *, costs, max_cost, quotas, include, exclude):
    """The same wishes as Constraints, whether or not they can be met."""
    names = sorted(set(labels))
    low = [quotas.get(name, 0) if isinstance(quotas, dict) else quotas or 0 for name in names]
    high = [quotas.get(name, size) if isinstance(quotas, dict) else size for name in names]
    groups = np.array([names.index(label) for label in labels])
    return Constraints(
        shots, costs, max_cost, groups, np.array(low), np.array(high), (*include,), (*exclude,)
    )


@settings(deadline=None, max_examples=150)
@given(wish=wishes())
def test_wishes_are_refused_exactly_when_no_set_meets_them(wish):
    assume(wish[1]["quotas"] != "proportional")
    limits = unchecked(*wish[0], **wish[1])
    starts = [limits.include] if limits.include else [(row,) for row in range(wish[0][0])]
    without_budget = replace(limits, max_cost=None)
    if any(can_be_completed(start, limits) for start in starts) and any(
        can_be_completed(start, without_budget) for start in starts
    ):
        chosen = take_in_order(range(wish[0][0]), resolve(*wish[0], **wish[1]))
        assert chosen and lawful(chosen, limits)
    else:
        with pytest.raises(BudgetError):
            resolve(*wish[0], **wish[1])


@settings(deadline=None, max_examples=150)
@given(wish=wishes(), data=st.data())
def test_swaps_are_allowed_exactly_when_the_swapped_set_is_lawful(wish, data):
    limits = resolved(wish)
    feasible = Feasible(limits)
    for row in take_in_order(data.draw(st.permutations(range(wish[0][0]))), limits)[len(limits.include) :]:
        feasible.take(row)
    for _ in range(3):
        mask = feasible.swappable()
        for position, row in np.ndindex(mask.shape):
            swapped = [*feasible.indices]
            swapped[position] = row
            movable = position >= len(limits.include) and row not in feasible.indices
            assert mask[position, row] == (movable and lawful(swapped, limits))
        if not mask.any():
            break
        position, row = data.draw(st.sampled_from(np.argwhere(mask).tolist()))
        feasible.swap(position, row)
        assert lawful(feasible.indices, limits)


@settings(deadline=None, max_examples=100)
@given(wish=wishes(), data=st.data())
def test_a_ranking_is_walked_once_and_gives_what_repeated_search_gives(wish, data):
    limits, ranking = resolved(wish), data.draw(st.permutations(range(wish[0][0])))
    feasible = Feasible(limits)
    while (allowed := feasible.allowed()).any():
        feasible.take(next(row for row in ranking if allowed[row]))
    assert take_in_order(ranking, limits) == tuple(feasible.indices)


def test_proportional_quotas_follow_the_largest_remainder():
    labels = list("a" * 6 + "b" * 3 + "c")
    limits = resolve(10, labels, 5, quotas="proportional")
    assert limits.quota_min.tolist() == limits.quota_max.tolist() == [3, 2, 0]  # 3.0, 1.5, 0.5: tie to b
    assert resolve(10, labels, 10, quotas="proportional").quota_min.tolist() == [6, 3, 1]
    # Shares are of what may be chosen: without two of the a, 4 : 3 : 1.
    assert resolve(10, labels, 8, quotas="proportional", exclude=(0, 1)).quota_min.tolist() == [4, 3, 1]


def test_included_rows_keep_their_seats_and_the_other_labels_share_the_rest():
    labels = list("a" * 8 + "b" * 8 + "c" * 8)
    limits = resolve(24, labels, 6, quotas="proportional", include=(0, 1, 2, 3))
    assert limits.quota_min.tolist() == [4, 1, 1]
    assert len(take_in_order(range(24), limits)) == 6


def test_skip_ahead_passes_over_what_does_not_fit_and_takes_a_cheaper_one():
    limits = resolve(4, None, None, costs=[5, 9, 4, 1], max_cost=10)
    assert take_in_order([0, 1, 2, 3], limits) == (0, 2, 3)


def test_included_rows_come_first_in_the_given_order_and_count_for_everything():
    limits = resolve(6, list("aabbcc"), 4, costs=[1] * 6, max_cost=4, quotas={"a": 1}, include=(5, 0))
    assert take_in_order([1, 2, 3, 4, 0, 5], limits) == (5, 0, 2, 3)


def test_a_budget_reserves_what_the_quotas_need():
    # Row 0 is best ranked, but then the b, which costs 6, would not fit any more.
    limits = resolve(3, list("aab"), None, costs=[5, 4, 6], max_cost=10, quotas={"b": 1})
    assert take_in_order([0, 1, 2], limits) == (1, 2)


def test_many_labels_and_a_budget_stay_quick():
    rng = np.random.default_rng(0)
    labels = [f"label {number}" for number in rng.integers(0, 150, 20_000)]
    costs = rng.integers(5, 50, 20_000)
    limits = resolve(20_000, labels, 300, costs=costs, max_cost=6_000, quotas=1)
    chosen = take_in_order(rng.permutation(20_000), limits)
    assert lawful(chosen, limits) and len({labels[row] for row in chosen}) == 150


def test_a_ranking_that_leaves_out_needed_rows_is_refused():
    with pytest.raises(SettingError, match="ranking"):
        take_in_order([0], resolve(3, None, 2))


@pytest.mark.parametrize("shots", [0, -1, True, 2.0, "2", np.float64(2), None])
def test_shots_that_are_no_positive_whole_number_are_refused(shots):
    with pytest.raises(SettingError, match="shots"):
        resolve(5, None, shots)


def test_numpy_integers_are_taken():
    limits = resolve(
        5, list("aabbb"), np.int64(3), quotas=np.int32(1), include=np.array([4]), exclude=[np.int8(0)]
    )
    assert take_in_order(range(5), limits) == (4, 1, 2)


@pytest.mark.parametrize(
    ("error", "shots", "wish", "words"),
    [
        (BudgetError, 6, {}, "shots=6 from 5"),
        (BudgetError, 5, {"exclude": [0]}, "shots=5 from 4"),
        (BudgetError, 1, {"include": [0, 1]}, "2 of them included"),
        (BudgetError, 2, {"include": [1], "exclude": [1]}, r"\[1\]"),
        (SettingError, 2, {"include": [1, 1]}, "twice"),
        (SettingError, 2, {"exclude": [5]}, "below 5"),
        (SettingError, 2, {"include": [-1]}, "-1"),
        (SettingError, 2, {"include": [True]}, "True"),
        (BudgetError, None, {"exclude": range(5), "max_cost": 9, "costs": [1] * 5}, "none of them left"),
        (SettingError, 2, {"quotas": {"d": 1}}, "'d'"),
        (SettingError, 2, {"quotas": "even"}, "even"),
        (SettingError, 2, {"quotas": True}, "True"),
        (SettingError, 2, {"quotas": {"a": -1}}, "-1"),
        (SettingError, None, {"quotas": "proportional", "max_cost": 9, "costs": [1] * 5}, "shots=None"),
        (BudgetError, 2, {"quotas": {"a": 3}}, "'a'"),
        (BudgetError, 5, {"quotas": 2}, "'c'"),
        (BudgetError, 2, {"quotas": {"a": 2, "b": 1}}, "shots=2"),
        (BudgetError, 4, {"quotas": {"a": 1, "b": 1, "c": 1}}, "room for 3"),
        (BudgetError, 2, {"quotas": {"a": 1}, "include": [0, 1]}, "2 included"),
        (
            BudgetError,
            None,
            {"quotas": {"a": 0, "b": 0, "c": 0}, "max_cost": 9, "costs": [1] * 5},
            "room for 0",
        ),
        (BudgetError, 2, {"max_cost": 2, "costs": [3] * 5}, "3 tokens at least"),
        (BudgetError, 2, {"max_cost": 5, "costs": [3] * 5, "include": [0, 1]}, "6"),
        (BudgetError, 3, {"max_cost": 8, "costs": [3] * 5, "quotas": 1}, "9"),
        (
            BudgetError,
            None,
            {"max_cost": 2, "costs": [1, 1, 5, 5, 5], "quotas": {"a": 0}},
            "5 tokens at least",
        ),
        (SettingError, 2, {"max_cost": 0, "costs": [3] * 5}, "budget=0"),
        (SettingError, 2, {"max_cost": 9}, "without costs"),
        (SettingError, 2, {"max_cost": 9, "costs": [1, 2]}, r"\(2,\)"),
        (SettingError, 2, {"max_cost": 9, "costs": [1.0] * 5}, "float"),
        (SettingError, 2, {"max_cost": 9, "costs": [1, 1, 1, 1, -1]}, "none negative"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused_with_what_clashes(error, shots, wish, words):
    with pytest.raises(error, match=words) as caught:
        resolve(5, list("aabbc"), shots, **wish)
    assert type(caught.value) is error


def test_quotas_without_labels_are_refused():
    with pytest.raises(SettingError, match="no labels"):
        resolve(5, None, 2, quotas=1)
