"""Ordered: what each order is, and what becomes of a selection that is put into it."""

import json
from typing import get_args

import numpy as np
import pytest

from icl_plugins import (
    BM25,
    BestOfN,
    GradientMatching,
    KMeans,
    ManyShotPrompt,
    Pool,
    Random,
    Selection,
    Template,
)
from icl_plugins.cli import run
from icl_plugins.cli.methods import Order as OrderOption
from icl_plugins.cli.methods import make_ordered
from icl_plugins.errors import BudgetError, SettingError
from icl_plugins.ordering import Order, Ordered
from icl_plugins.proxy.model import Proxy
from icl_plugins.proxy.prefix import tune_prefix
from icl_plugins.selection import Selector
from icl_plugins.selectors import gradient_matching

LABELS = ("card_arrival", "exchange_rate", "lost_or_stolen_phone")
TEMPLATE = Template(question="Query: {text}\nIntent:", answer=" {label}", separator="\n\n")
RECORDS = [
    {"text": f"{'my card has not arrived yet'[: 8 + row % 5 * 4]} {row}", "label": LABELS[at]}
    for row, at in enumerate((0, 1, 0, 2, 0, 1) * 4)
]
OTHERS = ("easy_to_hard", "interleaved", "nearest_last", "shuffle", "search")


@pytest.fixture(scope="module")
def pool():
    return Pool.from_records(RECORDS, TEMPLATE)


@pytest.fixture(scope="module")
def reader(make_model, tokenizer):
    return Proxy.from_model(make_model(max_position_embeddings=1024), tokenizer, name="reader")


@pytest.fixture(scope="module")
def matching(reader):
    return GradientMatching(proxy=reader, epochs=2, prefix_length=2, swaps=0, scaling="checkpoint")


@pytest.fixture(scope="module")
def chosen(matching, pool):
    return matching.select(pool, 8)


def whole_prompt_loss(proxy, pool, shown, rows):
    """The definition: each prompt in one piece."""
    context = "".join(pool.texts[i] + TEMPLATE.separator for i in shown)
    records = [{"q": context + pool.questions[row], "a": pool.answers[row]} for row in rows]
    return proxy.answer_losses(Pool.from_records(records, Template("{q}", "{a}"))).mean().item()


# --- each order against its definition -------------------------------------------------------------------


def test_reversed_puts_what_was_chosen_first_last(matching, chosen):
    assert Ordered(matching, "reversed").reorder(chosen).indices == chosen.indices[::-1]


def test_greedy_is_the_selection_as_it_is(matching, chosen):
    assert Ordered(matching).reorder(chosen) is chosen


def test_easy_to_hard_follows_the_mean_loss_over_the_curriculum(matching, chosen, pool, reader):
    curriculum = tune_prefix(reader, pool, length=2, epochs=2)
    losses = np.mean(
        [reader.answer_losses(pool, prefix).numpy() for prefix in curriculum.checkpoints], axis=0
    )
    selection = Ordered(matching, "easy_to_hard").reorder(chosen)
    assert selection.indices == tuple(sorted(chosen.indices, key=lambda row: losses[row]))
    told = selection.details["demonstration_losses"]
    np.testing.assert_allclose(told, losses[list(selection.indices)], rtol=1e-4)


def test_without_a_curriculum_easy_to_hard_follows_the_loss_without_a_prefix(pool, reader):
    losses = reader.answer_losses(pool).numpy()
    selection = Ordered(Random(), "easy_to_hard", proxy=reader).select(pool, 7)
    assert selection.indices == tuple(sorted(Random().select(pool, 7).indices, key=lambda row: losses[row]))


def test_nearest_last_follows_the_distances_of_scaled_features(matching, chosen, pool, reader):
    blocks = [block.astype(np.float64) for block in matching._gradients(reader, pool).blocks]
    scaled = [block / np.linalg.norm(block, axis=1).mean() for block in blocks]
    features = np.concatenate(scaled, axis=1)
    distances = np.linalg.norm(features - features.mean(axis=0), axis=1)
    selection = Ordered(matching, "nearest_last").reorder(chosen)
    assert selection.indices == tuple(sorted(chosen.indices, key=lambda row: -distances[row]))
    told = selection.details["demonstration_distances"]
    np.testing.assert_allclose(told, distances[list(selection.indices)], rtol=1e-4)


def test_nearest_last_leaves_skipped_rows_out_of_the_mean(reader):
    long = {"text": "my card " * 600, "label": LABELS[0]}
    pool = Pool.from_records([long, *RECORDS], TEMPLATE)
    selector = GradientMatching(proxy=reader, epochs=1, prefix_length=2, swaps=0, on_too_long="skip")
    chosen = selector.select(pool, 6)
    blocks = selector._gradients(reader, pool).blocks
    features = np.concatenate(blocks, axis=1)[1:].astype(np.float64)
    distances = np.linalg.norm(features - features.mean(axis=0), axis=1)
    selection = Ordered(selector, "nearest_last").reorder(chosen)
    assert selection.indices == tuple(sorted(chosen.indices, key=lambda row: -distances[row - 1]))


def test_without_features_nearest_last_follows_the_distances_of_embeddings(pool, reader):
    vectors = reader.embed(pool.texts).double().numpy()
    distances = np.linalg.norm(vectors - vectors.mean(axis=0), axis=1)
    for selector in (Random(), KMeans(proxy=reader)):
        selection = Ordered(selector, "nearest_last", proxy=reader).select(pool, 7)
        expected = sorted(selector.select(pool, 7).indices, key=lambda row: -distances[row])
        assert selection.indices == tuple(expected)


def test_interleaved_spreads_the_labels(pool):
    selection = Ordered(Random(), "interleaved").select(pool, 12, quotas="proportional")
    assert [label[0] for label in selection.labels].count("c") == 6
    for size in range(1, 13):
        assert abs(selection.labels[:size].count("card_arrival") - size / 2) < 1


def test_shuffle_is_decided_by_the_seed(pool):
    selections = [Ordered(Random(), "shuffle", seed=seed).select(pool, 8) for seed in (0, 0, 1)]
    assert selections[0] == selections[1]
    assert selections[0].indices != selections[2].indices
    assert set(selections[0].indices) == set(selections[2].indices) == set(Random().select(pool, 8).indices)


def test_search_keeps_the_order_with_the_lowest_loss_on_examples_that_are_not_shown(pool, reader):
    chosen = Random().select(pool, 4)
    ordered = Ordered(Random(), "search", seed=5, tries=5, held_out=6, proxy=reader)
    generator = np.random.default_rng(5)
    orders = [np.arange(4), *(generator.permutation(4) for _ in range(4))]
    drawn = np.random.default_rng([5, 1]).permutation(24).tolist()
    rows = [row for row in drawn if row not in chosen.indices][:6]
    tried = [tuple(chosen.indices[at] for at in order) for order in orders]
    losses = [whole_prompt_loss(reader, pool, shown, rows) for shown in tried]
    selection = ordered.reorder(chosen)
    assert selection.indices == tried[int(np.argmin(losses))]
    np.testing.assert_allclose(selection.details["order_losses"], losses, rtol=1e-4)
    assert len(set(np.round(losses, 6))) > 1  # order tells at all


def test_search_without_tries_keeps_the_order_as_chosen(pool, reader):
    assert Ordered(Random(), "search", tries=1, proxy=reader).select(pool, 5).indices == (
        Random().select(pool, 5).indices
    )


# --- what becomes of the selection -----------------------------------------------------------------------


@pytest.mark.parametrize("order", OTHERS)
def test_scores_follow_their_demonstrations_and_the_set_stays(order, matching, chosen):
    selection = Ordered(matching, order, tries=3, held_out=4).reorder(chosen)
    scores = dict(zip(chosen.indices, chosen.scores, strict=True))
    assert sorted(selection.indices) == sorted(chosen.indices)
    assert selection.scores == tuple(scores[row] for row in selection.indices)
    assert len(set(chosen.scores)) > 1


def test_the_trace_goes_and_the_value_of_the_set_stays(matching, chosen):
    selection = Ordered(matching, "shuffle").reorder(chosen)
    assert selection.objective == ()
    told, before = selection.report()["objective"], chosen.report()["objective"]
    assert told == {**before, "first": None}
    assert selection.head(3).report()["objective"] is None


def test_config_tells_the_order_and_what_decided_it(chosen, matching):
    told = {
        order: Ordered(matching, order, seed=4, tries=2, held_out=3).reorder(chosen).config["order"]
        for order in OTHERS
    }
    alone = {order: {"name": order} for order in OTHERS}
    assert told == {
        **alone,
        "shuffle": {"name": "shuffle", "seed": 4},
        "search": {"name": "search", "seed": 4, "tries": 2, "held_out": 3},
    }


def test_the_fingerprint_knows_the_order_even_where_it_changes_nothing(pool, reader):
    chosen = Random().select(pool, 5)
    selection = Ordered(Random(), "search", tries=1, proxy=reader).reorder(chosen)
    assert selection.indices == chosen.indices and selection.fingerprint != chosen.fingerprint


def test_the_head_is_the_first_in_the_new_order(pool):
    selection = Ordered(Random(), "shuffle").select(pool, 9)
    assert selection.head(4).indices == selection.indices[:4]
    assert selection.head(4).config["order"] == selection.config["order"]
    assert selection.to_prompt().examples == selection.examples


def test_a_selection_is_put_into_an_order_once(pool):
    selection = Ordered(Random(), "shuffle").select(pool, 4)
    with pytest.raises(SettingError, match="shuffle.*as chosen"):
        Ordered(Random(), "interleaved").reorder(selection)


@pytest.mark.parametrize("positions", [[0, 1], [0, 1, 1], [0, 1, 3], [0, 1, -1]], ids=str)
def test_positions_must_be_a_permutation(pool, positions):
    with pytest.raises(SettingError, match="position|row number"):
        Random().select(pool, 3).reordered(positions, {"name": "own"})


def test_proxies_of_orders_are_told(pool, reader):
    details = Ordered(Random(), "easy_to_hard", proxy=reader).select(pool, 3).details
    assert details["proxy"] == "reader" and details["fingerprints"] == reader.fingerprint


# --- as a selector ---------------------------------------------------------------------------------------


def test_what_is_ordered_is_a_selector_with_the_same_limits(pool, reader):
    ordered = Ordered(BestOfN(sets=2, held_out=4, proxy=reader), "interleaved")
    assert isinstance(ordered, Selector)
    selection = ordered.select(pool, 6, quotas=1, include=iter([5]), exclude=iter(range(12, 24)))
    assert isinstance(selection, Selection) and len(selection) == 6
    assert 5 in selection.indices and max(selection.indices) < 12
    assert set(selection.labels) == set(LABELS)


@pytest.mark.parametrize("order", ["easy_to_hard", "nearest_last"])
def test_gradients_are_taken_once_and_leave_nothing_behind(order, matching, pool, monkeypatch):
    from icl_plugins.proxy import pool_gradients

    tuned, folders = [], []
    tune, gradients = pool_gradients.tune_prefix, GradientMatching._gradients
    monkeypatch.setattr(pool_gradients, "tune_prefix", lambda *a, **k: tuned.append(1) or tune(*a, **k))
    monkeypatch.setattr(
        GradientMatching, "_gradients", lambda self, *a: folders.append(self.store) or gradients(self, *a)
    )
    selection = Ordered(matching, order).select(pool, 6)
    assert len(tuned) == 1 and len(folders) == 2
    assert not any(gradient_matching.Path(folder).exists() for folder in folders)
    assert selection.indices == Ordered(matching, order).reorder(matching.select(pool, 6)).indices


class Counted:
    """Counts 25 tokens more for every place where a longer text follows a shorter one."""

    name = "counted"

    def fixed(self, pool):
        return 0

    def costs(self, pool):
        return [len(text) for text in pool.texts]

    def total(self, pool, indices):
        lengths = [len(pool.texts[row]) for row in indices]
        rises = sum(25 for one, other in zip(lengths, lengths[1:], strict=False) if one < other)
        return sum(lengths) + rises


def test_a_token_budget_holds_in_the_new_order(pool):
    seen_over = False
    for seed in range(8):
        selector = Random(seed=seed, tokenizer=Counted())
        selection = Ordered(selector, "shuffle", seed=seed).select(pool, max_tokens=300)
        assert selection.details["tokens"] == Counted().total(pool, selection.indices) <= 300
        plain = Ordered(selector, "shuffle", seed=seed).reorder(selector.select(pool, max_tokens=300))
        seen_over |= Counted().total(pool, plain.indices) > 300
    assert seen_over  # or nothing was tested


def test_nothing_to_try_orders_on_is_refused_before_the_proxy_is_loaded(pool, monkeypatch):
    monkeypatch.setattr(Proxy, "load", lambda *args: pytest.fail("loaded"))
    chosen = Random().select(pool, len(pool))
    with pytest.raises(BudgetError, match="try them on"):
        Ordered(Random(), "search").reorder(chosen)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"order": "random"}, {"seed": -1}, {"tries": 0}, {"held_out": True}, {"proxy": 3}),
        *({"selector": Random}, {"selector": Ordered(Random(), "shuffle")}),
    ],
    ids=str,
)
def test_settings_are_checked(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Ordered(**{"selector": Random(), **wrong})


# --- on the command line ---------------------------------------------------------------------------------


def test_the_command_line_knows_the_same_orders():
    assert get_args(OrderOption) == get_args(Order)


def test_seed_and_proxy_are_the_methods_where_it_has_them_else_the_orders():
    assert make_ordered("shuffle", "random", {"seed": 3}, {})[1] == Ordered(Random(seed=3), "shuffle", seed=3)
    assert make_ordered("shuffle", "random", {}, {"seed": "3"})[1].seed == 3
    ordered = make_ordered("search", "bm25", {"seed": 3, "proxy": "folder"}, {})[1]
    assert ordered == Ordered(BM25(), "search", seed=3, proxy="folder")
    assert make_ordered("greedy", "random", {"seed": 3}, {}) == (Random(seed=3),) * 2


def test_the_command_line_writes_the_prompt_that_python_makes(pool, tmp_path, capsys):
    data, out = tmp_path / "train.jsonl", tmp_path / "prompt.json"
    data.write_text("".join(json.dumps(record) + "\n" for record in RECORDS), "utf-8")
    command = [
        "select",
        str(data),
        "-q",
        r"Query: {text}\nIntent:",
        "-a",
        " {label}",
        "-n",
        "8",
        "-o",
        str(out),
    ]
    assert run([*command, "-m", "random", "--order", "shuffle", "--seed", "3", "--json"]) == 0
    expected = Ordered(Random(seed=3), "shuffle", seed=3).select(pool, 8)
    assert ManyShotPrompt.load(out).fingerprint == expected.to_prompt().fingerprint
    assert json.loads(capsys.readouterr().out)["config"]["order"] == {"name": "shuffle", "seed": 3}


@pytest.mark.parametrize(
    ("order", "option"), [("interleaved", "seed"), ("shuffle", "proxy"), ("greedy", "seed")]
)
def test_what_neither_method_nor_order_needs_is_refused(order, option):
    with pytest.raises(SettingError, match=option):
        make_ordered(order, "bm25", {option: 3}, {})
