import numpy as np
import pytest

from icl_plugins import Random


def test_it_is_the_start_of_a_permutation(pool):
    assert Random(seed=3).select(pool, 7).indices == tuple(np.random.default_rng(3).permutation(24)[:7])


def test_fewer_shots_are_the_head_of_more(pool):
    most = Random(seed=1).select(pool, 24)
    for shots in range(1, 25):
        assert Random(seed=1).select(pool, shots).indices == most.head(shots).indices


def test_a_smaller_budget_walks_the_same_order(pool, tokenizer_folder):
    selector = Random(seed=1, tokenizer=tokenizer_folder)
    order = selector.select(pool, 24).indices
    for budget in (60, 120, 240):
        places = [order.index(i) for i in selector.select(pool, max_tokens=budget).indices]
        assert places == sorted(places)


def test_every_example_is_as_likely_as_any_other(pool):
    counts = np.bincount([i for seed in range(600) for i in Random(seed=seed).select(pool, 4).indices])
    assert len(counts) == 24
    # 600 draws of 4 from 24: mean 100, standard deviation 9.1
    assert counts.min() > 60 and counts.max() < 140


def test_without_a_budget_no_tokenizer_is_needed(pool):
    assert len(Random(tokenizer="no/such/tokenizer").select(pool, 3)) == 3


@pytest.mark.parametrize("seed", [0, 4_294_967_295])
def test_the_bounds_of_a_seed(seed, pool):
    assert len(Random(seed=seed).select(pool, 2)) == 2
