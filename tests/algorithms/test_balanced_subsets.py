import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from icl_plugins.algorithms.subsets import balanced_subsets


@st.composite
def designs(draw):
    """Groups of candidates, slots for them in any order, a count, a seed."""
    slots, groups = [], []
    for group in range(draw(st.integers(1, 4))):
        places = draw(st.integers(0, 4))
        slots += [group] * places
        groups += [group] * (places + draw(st.integers(0, 6)))
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    count, seed = draw(st.integers(0, 12)), draw(st.integers(0, 10_000))
    return (
        generator.permutation(np.array(groups, int)),
        generator.permutation(np.array(slots, int)),
        count,
        seed,
    )


@given(designs())
def test_each_slot_holds_a_candidate_of_its_group_and_none_stands_twice(design):
    groups, slots, count, _ = design
    subsets = balanced_subsets(*design)
    assert subsets.shape == (count, len(slots)) and subsets.dtype == np.int64
    assert (groups[subsets] == slots).all()
    assert all(len(set(subset)) == len(slots) for subset in subsets.tolist())


@given(designs())
def test_no_candidate_is_ever_more_than_once_ahead_of_another_of_its_group(design):
    """Of the first subsets too; so all are in one as soon as there are as many places."""
    groups, slots, count, _ = design
    subsets = balanced_subsets(*design)
    for first in range(count + 1):
        held = np.bincount(subsets[:first].flatten(), minlength=len(groups))
        for group in set(slots.tolist()):
            own, places = held[groups == group], first * (slots == group).sum()
            assert np.ptp(own) <= 1
            assert (own >= places // len(own)).all()


@given(designs())
def test_the_seed_decides(design):
    np.testing.assert_array_equal(balanced_subsets(*design), balanced_subsets(*design))


def test_other_seeds_give_other_subsets():
    drawn = {balanced_subsets(np.zeros(9, int), np.zeros(3, int), 4, seed).tobytes() for seed in range(20)}
    assert len(drawn) == 20


def test_every_candidate_is_as_likely_in_each_slot_of_its_group():
    """In the first subset and in those that go from one round of candidates into the next."""
    groups, slots = np.array([0] * 5 + [1] * 3), np.array([0, 1, 0, 1, 0])
    draws = np.array([balanced_subsets(groups, slots, 4, seed) for seed in range(3000)])
    for subset in range(4):
        for candidate, group in enumerate(groups):
            places = np.flatnonzero(slots == group)
            shares = (draws[:, subset] == candidate).mean(axis=0)[places]
            expected = 1 / (groups == group).sum()
            assert abs(shares - expected).max() < 5 * np.sqrt(expected / 3000)


def test_pairs_are_as_likely_as_each_other():
    """No two candidates are kept together: of 6 in subsets of 3, each pair shares 2 places in 10."""
    draws = np.concatenate(
        [balanced_subsets(np.zeros(6, int), np.zeros(3, int), 4, seed) for seed in range(2000)]
    )
    holds = (draws[:, :, None] == np.arange(6)).any(axis=1).astype(float)
    together = (holds.T @ holds / len(draws))[np.triu_indices(6, 1)]
    assert abs(together - 0.2).max() < 0.03
