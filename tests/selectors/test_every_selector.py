"""What every selector promises, whatever its method."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from icl_plugins import (
    BM25,
    BestOfN,
    GradCE,
    GradFS,
    GradRE,
    KMeans,
    LatentBayesian,
    Pool,
    Random,
    Selection,
    Similarity,
    SlotAssignment,
    Typicality,
)
from icl_plugins.errors import BudgetError, IclError, SettingError
from icl_plugins.selection import Selector
from icl_plugins.selectors._settings import settings

WITHOUT_PROXY = (Random, BM25)
INFLUENCE = (GradCE, GradFS, GradRE, SlotAssignment)
WITH_PROXY = (KMeans, Similarity, Typicality, LatentBayesian, BestOfN, *INFLUENCE)
HOLD_OUT = (BestOfN, *INFLUENCE)
QUICK = {
    LatentBayesian: {"epochs": 1, "batch_size": 8},
    BestOfN: {"sets": 2, "held_out": 4},
    GradCE: {"queries": 4, "check": 4, "candidates": 3, "anchors": 1, "each": 2},
    GradFS: {"queries": 4, "check": 4, "anchors": 1},
    GradRE: {"queries": 4, "check": 4, "anchors": 2},
    SlotAssignment: {"queries": 4, "check": 4, "anchors": 2, "rounds": 2},
}
SEEDED = (Random, KMeans, LatentBayesian, *HOLD_OUT)

pytestmark = pytest.mark.parametrize("kind", WITHOUT_PROXY + WITH_PROXY, ids=lambda kind: kind.__name__)


@pytest.fixture
def selector(kind, tokenizer_folder, reader):
    return make(kind, tokenizer_folder, reader)


def make(kind, tokenizer_folder, reader, **settings):
    parts = {"tokenizer": tokenizer_folder} if kind in WITHOUT_PROXY else {"proxy": reader}
    return kind(**{**parts, **QUICK.get(kind, {}), **settings})


def joined(pool, indices):
    return "".join(pool.texts[i] + pool.template.separator for i in indices)


@pytest.mark.parametrize("shots", [1, 5, 23, np.int64(3)])
def test_as_many_distinct_demonstrations_as_asked_for(selector, pool, shots):
    selection = selector.select(pool, shots)
    assert isinstance(selector, Selector) and isinstance(selection, Selection)
    assert len(set(selection.indices)) == len(selection.indices) == len(selection.scores) == shots
    assert len(selection.objective) in (0, shots)


@pytest.mark.parametrize("max_tokens", [40, 77, 150, 400])
@pytest.mark.parametrize("shots", [None, 4])
def test_the_joined_demonstrations_stay_within_the_budget(selector, pool, reader, max_tokens, shots):
    selection = selector.select(pool, shots, max_tokens=max_tokens)
    tokens = reader.count_tokens([joined(pool, selection.indices)])[0]
    assert tokens <= max_tokens
    assert selection.report()["tokens"] == tokens
    assert shots is None or len(selection) <= shots


def test_a_budget_is_used_up(selector, pool, reader):
    """Skip-ahead: when the walk ends, no demonstration is left that would still fit."""
    selection = selector.select(pool, max_tokens=150)
    left = 150 - reader.count_tokens([joined(pool, selection.indices)])[0]
    others = [joined(pool, [row]) for row in range(len(pool)) if row not in selection.indices]
    assert left < min(reader.count_tokens(others))


def test_included_examples_are_in_and_excluded_ones_are_not(selector, pool):
    selection = selector.select(pool, 6, include=[7, 2], exclude=range(10, 24))
    assert selection.indices[:2] == (7, 2)
    assert max(selection.indices) < 10


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ("proportional", {"card_arrival": 6, "exchange_rate": 4, "lost_or_stolen_phone": 2}),
        ({"lost_or_stolen_phone": 4}, {"lost_or_stolen_phone": 4}),
    ],
)
def test_quotas_are_met(selector, pool, quotas, expected):
    counts = Counter(selector.select(pool, 12, quotas=quotas).labels)
    assert {label: counts[label] for label in expected} == expected


def test_a_minimum_of_each_label_is_met(selector, pool):
    counts = Counter(selector.select(pool, 9, quotas=3).labels)
    assert set(counts.values()) == {3}


def test_the_same_settings_choose_the_same(kind, selector, pool, tokenizer_folder, reader):
    again = make(kind, tokenizer_folder, reader)
    assert again.select(pool, 8) == selector.select(pool, 8)


def test_a_seed_decides(kind, pool, tokenizer_folder, reader):
    if kind not in SEEDED:
        pytest.skip("has no seed")
    chosen = {make(kind, tokenizer_folder, reader, seed=seed).select(pool, 8).indices for seed in range(4)}
    assert len(chosen) > 1


def test_global_random_states_are_neither_used_nor_changed(selector, pool):
    import torch

    def seed(value):
        random.seed(value), np.random.seed(value), torch.manual_seed(value)  # noqa: NPY002

    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    chosen = []
    for value in (5, 6):
        seed(value)
        before = states()
        chosen.append(selector.select(pool, 5))
        assert states() == before
    assert chosen[0] == chosen[1]


def test_the_order_of_the_pool_does_not_matter(kind, selector, pool, records):
    if kind in SEEDED:
        pytest.skip("a seed acts on row numbers")
    order = np.random.default_rng(1).permutation(len(records))
    shuffled = Pool.from_records([records[row] for row in order], pool.template)
    assert selector.select(shuffled, 8).examples == selector.select(pool, 8).examples


def test_of_equal_examples_the_first_is_taken_first(kind, selector, pool, records):
    if kind in (*SEEDED, Typicality):
        pytest.skip("drawn, or ranked within clusters or labels")
    doubled = Pool.from_records([*records, *records], pool.template)
    indices = selector.select(doubled, 10).indices
    assert all(indices[at] + len(pool) == indices[at + 1] for at in range(0, 10, 2))


@pytest.mark.parametrize(
    "arguments",
    [
        {"shots": 25},
        {"shots": 0},
        {"shots": -1},
        {"shots": True},
        {"shots": 2.0},
        {"shots": None},
        {"max_tokens": 0},
        {"max_tokens": True},
        {"shots": 2, "include": [1, 2, 3]},
        {"shots": 2, "include": [1], "exclude": [1]},
        {"shots": 2, "exclude": [24]},
        {"shots": 2, "quotas": {"no such label": 1}},
        {"shots": 2, "quotas": 1},
        {"shots": 2, "quotas": "equal"},
    ],
    ids=str,
)
def test_what_cannot_be_met_is_refused_before_anything_is_loaded(kind, pool, arguments, monkeypatch):
    def loaded(*args, **kwargs):
        raise AssertionError("loaded")

    monkeypatch.setattr("icl_plugins.proxy.model.Proxy.load", loaded)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", loaded)
    with pytest.raises(SettingError):
        kind().select(pool, **arguments)


def test_a_budget_below_one_demonstration_is_refused_before_the_proxy_is_loaded(
    kind, pool, tokenizer_folder, monkeypatch
):
    monkeypatch.setattr("icl_plugins.proxy.model.Proxy.load", lambda *args: pytest.fail("loaded"))
    with pytest.raises(BudgetError):
        kind(tokenizer=tokenizer_folder).select(pool, max_tokens=3)


def test_a_selection_says_how_it_was_made_and_becomes_a_prompt(kind, selector, pool):
    selection = selector.select(pool, np.int64(2), include=[np.int64(3)])
    report = json.loads(json.dumps(selection.report()))
    assert report["config"]["selector"] == kind.__name__
    assert report["config"]["shots"] == 2 and report["config"]["include"] == [3]
    if kind in WITH_PROXY:
        assert report["config"]["proxy"] == "reader"
        assert set(report["fingerprints"]) >= {"weights", "tokenizer"}
    assert len(selection.to_prompt("Name the intent.").demonstrations) == 2


def test_the_place_of_a_model_on_this_machine_is_not_in_the_prompt(
    kind, pool, reader, tokenizer_folder, tmp_path, monkeypatch
):
    from icl_plugins import Proxy

    prompts = []
    for place in ("one", "two"):
        folder = shutil.copytree(tokenizer_folder, tmp_path / place / "tokens")
        model = Proxy.from_model(reader.model, reader.tokenizer, name=str(tmp_path / place / "reader"))
        selection = make(kind, str(folder), model).select(pool, 3, max_tokens=200)
        selection.to_prompt().save(tmp_path / f"{place}.json")
        prompts.append((tmp_path / f"{place}.json").read_bytes())
        if kind in WITH_PROXY:
            assert selection.details["proxy"] == model.name and selection.config["proxy"] == "reader"
    assert prompts[0] == prompts[1] and str(tmp_path).encode() not in prompts[0]
    monkeypatch.chdir(tmp_path / "one")
    assert settings(Random(tokenizer="tokens/"))["tokenizer"] == "tokens"
    assert settings(Random(tokenizer="someone/model"))["tokenizer"] == "someone/model"


def test_a_pool_of_one(kind, selector, pool):
    single = pool.subset([0])
    if kind in HOLD_OUT:
        with pytest.raises(BudgetError, match=r"try them on|as queries"):
            selector.select(single, 1)
    else:
        assert selector.select(single, 1).indices == (0,)


def test_the_proxy_is_left_as_it_came(kind, selector, pool, reader):
    if kind in WITHOUT_PROXY:
        pytest.skip("has no proxy")
    from icl_plugins.proxy.model import Proxy

    reader.model.train()
    try:
        selector.select(pool, 3)
        assert all(module.training for module in reader.model.modules())
        assert all(weight.requires_grad and weight.grad is None for weight in reader.model.parameters())
        assert Proxy.from_model(reader.model, reader.tokenizer).fingerprint == reader.fingerprint
    finally:
        reader.model.eval()


def test_settings_cannot_be_changed_afterwards(selector):
    with pytest.raises(AttributeError):
        selector.tokenizer = "other"


@pytest.mark.parametrize("wrong", ["", 5, b"micro", ["micro"]], ids=str)
@pytest.mark.parametrize("field", ["proxy", "tokenizer"])
def test_a_model_is_a_name_or_a_loaded_proxy(kind, field, wrong):
    if field == "tokenizer" or kind in WITH_PROXY:
        with pytest.raises(SettingError, match=field):
            kind(**{field: wrong})


@pytest.mark.parametrize("seed", [-1, True, 1.0, "0", None, 2**32])
def test_a_seed_is_a_whole_number_that_every_generator_takes(kind, seed):
    if kind in SEEDED:
        with pytest.raises(IclError, match="seed"):
            kind(seed=seed)
        assert kind(seed=np.int64(3)).seed == 3


def test_a_folder_may_be_given_as_a_path(kind):
    name = "tokenizer" if kind in WITHOUT_PROXY else "proxy"
    assert kind(**{name: Path("models/reader")}) == kind(**{name: "models/reader"})
