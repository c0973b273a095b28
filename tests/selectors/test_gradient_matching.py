"""GradientMatching is the published definition where it says so, and keeps the promises of its docstring."""

from collections import Counter

import numpy as np
import pytest

from icl_plugins import GradientMatching, Pool
from icl_plugins.algorithms.features import Features
from icl_plugins.errors import SettingError, TooLongError
from icl_plugins.proxy.gradients import per_example_gradients
from icl_plugins.proxy.prefix import tune_prefix

QUICK = {"epochs": 2, "batch_size": 8, "prefix_length": 2, "typical": 1.0}


@pytest.fixture
def make(reader):
    return lambda **settings: GradientMatching(**{"proxy": reader, **QUICK, **settings})


def published(proxy, pool, shots, swaps, *, seed=0):
    """CLG as its paper defines it, one loop a line: features, greedy choice, best swaps."""
    curriculum = tune_prefix(proxy, pool, length=2, epochs=2, batch_size=8, seed=seed)
    blocks = [per_example_gradients(proxy, pool, z).flatten(1).double() for z in curriculum.checkpoints]
    features = np.concatenate([block.numpy() for block in blocks], axis=1)
    mean = features.mean(axis=0)
    distance = lambda rows: np.linalg.norm(features[rows].mean(axis=0) - mean)  # noqa: E731
    chosen = []
    for _ in range(shots):
        others = [row for row in range(len(pool)) if row not in chosen]
        chosen.append(min(others, key=lambda row: (distance([*chosen, row]), row)))
    for _ in range(swaps):
        best = min(
            ([*chosen[:at], row, *chosen[at + 1 :]] for at in range(shots) for row in range(len(pool))
             if row not in chosen),
            key=distance,
        )  # fmt: skip
        if distance(best) >= distance(chosen) * (1 - 1e-6):
            break
        chosen = best
    return tuple(chosen), distance(chosen)


@pytest.mark.parametrize("shots", [1, 4, 9])
def test_paper_settings_select_what_the_published_definition_selects(pool, reader, shots):
    selector = GradientMatching(proxy=reader, mode="exact", scaling="none", **QUICK)
    selection = selector.select(pool, shots)
    indices, distance = published(reader, pool, shots, 32)
    assert selection.indices == indices
    assert selection.objective[-1] == pytest.approx(distance, rel=1e-5)


def test_the_paper_preset_is_the_published_one():
    paper = GradientMatching.paper()
    assert (paper.prefix_length, paper.epochs, paper.batch_size, paper.learning_rate) == (4, 10, 64, 1e-3)
    assert (paper.warmup, paper.swaps, paper.scaling, paper.mode) == (0.1, 32, "none", "exact")
    assert paper.typical == 1


@pytest.mark.parametrize("mode", ["exact", "online"])
@pytest.mark.parametrize("scaling", ["none", "checkpoint", "example"])
def test_the_choice_is_nearer_to_the_pool_than_random_ones(make, pool, mode, scaling):
    selection = make(mode=mode, scaling=scaling).select(pool, 8)
    report = selection.report()
    assert len(set(selection.indices)) == 8
    assert selection.objective[-1] < 0.8 * selection.details["random_objective"]
    assert report["objective"] and set(selection.details["seconds"]) == {
        "prefix tuning",
        "gradients",
        "matching",
    }


def test_without_swaps_every_head_is_a_selection(make, pool):
    selector = make(swaps=0)
    whole = selector.select(pool, 12)
    for shots in (1, 4, 11):
        head, direct = whole.head(shots), selector.select(pool, shots)
        assert head.indices == direct.indices
        assert head.objective == pytest.approx(direct.objective, rel=1e-9)
        random = direct.details["random_objective"]
        assert head.report()["objective"]["random"] == pytest.approx(random, rel=1e-9)


def test_swaps_only_ever_lower_the_objective(make, pool):
    greedy, refined = (make(swaps=swaps).select(pool, 8).objective[-1] for swaps in (0, 32))
    assert refined <= greedy


def test_the_same_seed_selects_the_same_and_the_global_generators_are_left_alone(make, pool):
    import torch

    states = np.random.get_state()[1].copy(), torch.get_rng_state().clone()
    first, second = (make(seed=3).select(pool, 6) for _ in range(2))
    assert first.fingerprint == second.fingerprint and first.scores == second.scores
    assert (np.random.get_state()[1] == states[0]).all() and torch.equal(torch.get_rng_state(), states[1])


def test_constraints_are_kept(make, pool, reader):
    selection = make().select(pool, 6, quotas={"exchange_rate": 3}, include=[5, 2], exclude=[0, 1])
    assert selection.indices[:2] == (5, 2) and not {0, 1} & set(selection.indices)
    assert Counter(selection.labels)["exchange_rate"] == 3
    tight = make().select(pool, max_tokens=150)
    joined = "".join(pool.texts[i] + pool.template.separator for i in tight.indices)
    assert reader.count_tokens([joined])[0] == tight.report()["tokens"] <= 150


def test_skipped_examples_shift_no_other_row(make, pool, make_model, tokenizer):
    """Examples that do not fit change nothing but the numbers of the rows."""
    from icl_plugins import Proxy

    short = Proxy.from_model(make_model(), tokenizer, name="tiny")
    long = {"text": "card " * 160, "label": "card_arrival"}
    mixed = Pool.from_records([long, *pool.examples[:10], long, *pool.examples[10:]], pool.template)
    with pytest.raises(TooLongError, match="2 examples"):
        make(proxy=short).select(mixed, 4)
    chosen = make(proxy=short, on_too_long="skip").select(mixed, 4, include=[13], exclude=[0, 1])
    expected = make(proxy=short).select(pool, 4, include=[11], exclude=[0])
    place = [*range(1, 11), *range(12, 26)]
    assert chosen.indices == tuple(place[i] for i in expected.indices)
    assert chosen.report()["skipped"] == {"too long for the proxy": [0, 11]}


def test_features_are_restricted_only_when_examples_were_skipped(make, pool, monkeypatch):
    monkeypatch.setattr(Features, "take", lambda *_: pytest.fail("rows were taken one by one"))
    assert len(make().select(pool, 4)) == 4


def test_the_number_of_threads_changes_nothing_that_is_chosen(make, pool):
    import torch

    threads, chosen = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            chosen.append(make().select(pool, 8))
    finally:
        torch.set_num_threads(threads)
    assert chosen[0].indices == chosen[1].indices
    assert chosen[0].objective == pytest.approx(chosen[1].objective, rel=1e-4)


def test_numpy_integers_and_floats_are_settings_as_pythons_own_are(make, pool, tmp_path):
    import json

    numbers = {
        "epochs": np.int64(2),
        "batch_size": np.int32(8),
        "seed": np.int64(0),
        "warmup": np.float64(0.1),
    }
    selection = make(**numbers, store=tmp_path / "store").select(pool, 4)
    assert selection.to_prompt() == make().select(pool, 4).to_prompt()
    assert json.loads(json.dumps(selection.config))["epochs"] == 2


def test_a_second_selection_from_a_store_computes_nothing(make, pool, tmp_path):
    selector = make(store=tmp_path / "store")
    first, second = selector.select(pool, 4), selector.select(pool, 9)
    assert (first.details["rows_computed"], second.details["rows_computed"]) == (24, 0)
    assert second.to_prompt() == make().select(pool, 9).to_prompt(), "the store is in the prompt"


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "fast"},
        {"scaling": "both"},
        {"swaps": -1},
        {"epochs": 0},
        {"epochs": True},
        {"learning_rate": "x"},
        {"learning_rate": 0.0},
        {"batch_size": 2.5},
        {"warmup": 2},
        {"seed": -1},
        {"on_too_long": "cut"},
        {"schedule": "cosine"},
        {"store": 3},
        {"proxy": None},
        {"tokenizer": 5},
    ],
    ids=str,
)
def test_wrong_settings_are_refused_when_made(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        GradientMatching(**wrong)


def test_arguments_are_refused_before_the_proxy_is_loaded(pool):
    with pytest.raises(SettingError, match="24"):
        GradientMatching(proxy="no such model").select(pool, 25)
