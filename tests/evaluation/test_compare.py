"""compare: what is chosen and measured, that labels of items are never seen, and that work is done once."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from icl_plugins import BestOfN, GradientMatching, ManyShotPrompt, Proxy, Random, Template
from icl_plugins.errors import DataError, ProxyError, SettingError, StoreLockedError, TargetError
from icl_plugins.evaluation.choosing import Cell, Chooser, _timed
from icl_plugins.evaluation.compare import compare
from icl_plugins.evaluation.config import CONTROLS, Config, DataConfig, MethodConfig
from icl_plugins.evaluation.datasets import load_data
from icl_plugins.evaluation.equal_cost import Price, matching_price, set_price
from icl_plugins.evaluation.room import PlainTokens, Room
from icl_plugins.evaluation.target import Answer, Usage

LABELS = ("card", "rate", "phone")
TEMPLATE = Template("Query: {text}\nIntent:", " {label}")
QUICK = {"prefix_length": 2, "epochs": 2, "batch_size": 8}
MATCHING = {**QUICK, "typical": 1.0}
CHEAP = {  # controls that cost little
    "random": MethodConfig("Random", seeds=10),
    "stratified_random": MethodConfig("Random", quotas="proportional", seeds=1),
    "kmeans": MethodConfig("Similarity"),
    "best_of_n": MethodConfig("BestOfN", {"sets": 2, "held_out": 4}, seeds=1),
}
METHODS = {**CHEAP, "matching": MethodConfig("GradientMatching", MATCHING)}


class Guesser:
    """A target that scores by a hash of request and choice; `patience`: items after which it breaks off."""

    name, layout, fingerprint = "guesser", "single", "0" * 64

    def __init__(self, patience=10**9, error=KeyboardInterrupt):
        self.asked, self.patience, self.error = 0, patience, error

    def generate(self, requests, *, max_tokens, on_answer=None):
        raise NotImplementedError

    def score(self, requests, choices, *, on_answer=None):
        answers = []
        for index, (messages, texts) in enumerate(zip(requests, choices, strict=True)):
            if self.asked == self.patience:
                raise self.error
            self.asked += 1
            seeds = [sha256(f"{messages} {text}".encode()).digest()[0] for text in texts]
            answers.append(Answer(scores=tuple(-float(s) for s in seeds), usage=Usage(10, 0), seconds=0.5))
            if on_answer:
                on_answer(index, answers[-1])
        return answers


@pytest.fixture(scope="module")
def reader(make_model, tokenizer):
    """A tiny random proxy with room for some demonstrations."""
    return Proxy.from_model(make_model(max_position_embeddings=512), tokenizer, name="tiny")


@pytest.fixture
def files(tmp_path):
    """Write train and test -> DataConfig; test repeats one question of train, written otherwise."""

    def files(name="one", test_labels=LABELS, **settings):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        train = [{"text": f"{name} question {i}", "label": LABELS[i % 3]} for i in range(24)]
        texts = [f"{name} item {i}" for i in range(5)] + [f"{name}, QUESTION 7!"]
        test = [{"text": text, "label": test_labels[i % len(test_labels)]} for i, text in enumerate(texts)]
        for part, rows in (("train", train), ("test", test)):
            (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return DataConfig(name, str(folder / "train.jsonl"), TEMPLATE, str(folder / "test.jsonl"), **settings)

    return files


@pytest.fixture
def run(reader, tmp_path):
    """Compare in the folder `work`."""

    def run(config, target=None, limit=400, folder="work"):
        parts = []
        for data in (load_data(config, data) for data in config.datasets):
            tokens = PlainTokens.of("tiny", reader.count_tokens, data)
            parts.append((data, Room.of(tokens, limit, data)))
        target = target or Guesser()
        return compare(config, parts, target, tmp_path / folder, source={"a": 1}, loaded={"tiny": reader})

    return run


def _config(*datasets, shots=(2, 3), methods=METHODS, **settings):
    return Config(tuple(datasets), shots, {**CHEAP, **methods}, **{"proxy": "tiny", "seeds": 1, **settings})


def _without_seconds(comparison):
    return replace(
        comparison,
        runs=tuple(
            replace(r, select_seconds=0.0, evaluation=replace(r.evaluation, seconds=0.0))
            for r in comparison.runs
        ),
    )


# --- what is measured ---------------------------------------------------------------------------------------


def test_each_run_is_what_its_selector_chooses(files, run, reader):
    config = _config(files())
    data = load_data(config, config.datasets[0])
    runs = {(r.method, r.asked, r.seed): r for r in run(config).runs}
    assert {method for method, _, _ in runs} == {*METHODS}
    expected = {
        ("random", 3, 1): Random(seed=1).select(data.pool, 3),
        ("matching", 3, 0): GradientMatching(proxy=reader, **MATCHING).select(data.pool, 3),
        ("best_of_n", 2, 0): BestOfN(2, 4, reader).select(data.pool, 2),
        ("stratified_random", 3, 0): Random(seed=0).select(data.pool, 3, quotas="proportional"),
    }
    for cell, selection in expected.items():
        assert runs[cell].evaluation.prompt == selection.to_prompt().fingerprint
        assert runs[cell].label_kl == selection.report()["label_kl"]
        assert runs[cell].shots == len(selection)
    assert runs["matching", 3, 0].objective == pytest.approx(expected["matching", 3, 0].objective[-1])
    assert runs["random", 3, 1].objective is None


def test_selections_do_not_depend_on_the_labels_of_the_items(files, run):
    honest = run(_config(files()), folder="honest")
    poisoned = run(_config(files(test_labels=("card",))), folder="poisoned")
    assert [r.evaluation.prompt for r in honest.runs] == [r.evaluation.prompt for r in poisoned.runs]
    assert [r.evaluation.golds for r in honest.runs] != [r.evaluation.golds for r in poisoned.runs]


def test_as_many_as_fit_fit_with_the_longest_item_and_its_answer(files, run, reader, tmp_path):
    config = _config(files(), shots=(2, "max"), items=5)
    limit = 120
    comparison = run(config, limit=limit)
    data = load_data(config, config.datasets[0])
    counts = {}
    for path in (tmp_path / "work" / "prompts").iterdir():
        prompt = ManyShotPrompt.load(path)
        counts[prompt.fingerprint] = max(
            reader.count_tokens([f"{prompt.prefix}{q} {a}"])[0] for q in data.items.questions for a in LABELS
        )
    for made in comparison.runs:
        assert counts[made.evaluation.prompt] < made.tokens <= limit
        assert made.asked is None or made.shots == 2
    assert {r.shots > 2 for r in comparison.runs if r.asked is None} == {True}


def test_shots_that_do_not_fit_become_as_many_as_fit(files, run):
    comparison = run(_config(files(), shots=(15, "max")), limit=120)
    by_cell = {(r.method, r.asked, r.seed): r for r in comparison.runs}
    for method in ("random", "matching", "stratified_random"):
        asked, most = by_cell[method, 15, 0], by_cell[method, None, 0]
        assert asked.shots == most.shots < 15
        assert asked.evaluation.prompt == most.evaluation.prompt


def test_a_run_that_cannot_be_is_left_out_and_told(files, run):
    methods = {**METHODS, "greedy": MethodConfig("Random", quotas={"card": 3})}
    comparison = run(_config(files(), methods=methods))
    assert {r.asked for r in comparison.runs if r.method == "greedy"} == {3}
    assert any("one: no greedy with 2 shots, seed 0: " in note for note in comparison.notes)


def test_items_whose_label_is_no_choice_are_told(files, run):
    comparison = run(_config(files(test_labels=("card", "other"))))
    assert "one: 3 of 6 items have an answer that is no choice" in comparison.notes


# --- data sets ----------------------------------------------------------------------------------------------


def test_pool_rows_that_ask_what_an_item_asks_are_dropped_and_counted(files):
    data = load_data(_config(files()), files())
    assert len(data.pool) == 23 and all("question 7" not in q for q in data.pool.questions)
    assert data.notes == ("one: 1 rows of train that ask what a row of test asks are left out",)


def test_no_pool_row_is_what_evaluate_would_take_for_an_item(tmp_path):
    """Texts that differ field by field, but not in the question that the target reads."""
    for part, rows in {
        "train": [("one two", "three"), ("??", "x"), ("other", "x"), ("another", "x")],
        "test": [("one", "two three"), ("?? ", "x")],
    }.items():
        lines = [json.dumps({"a": a, "b": b, "label": LABELS[0]}) for a, b in rows]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines), "utf-8")
    train, test = (str(tmp_path / f"{part}.jsonl") for part in ("train", "test"))
    config = _config(DataConfig("pairs", train, Template("{a} {b}:", " {label}"), test))
    data = load_data(config, config.datasets[0])
    assert data.pool.questions == ("other x:", "another x:")
    assert data.notes == ("pairs: 2 rows of train that ask what a row of test asks are left out",)


def test_overlap_is_refused_where_the_config_says_so(files):
    with pytest.raises(DataError, match="one: 1 rows of train"):
        load_data(_config(files(), on_overlap="error"), files())


def test_without_test_the_items_are_held_out_of_train(files):
    config = _config(replace(files(), test=None), items=6)
    data = load_data(config, config.datasets[0])
    assert len(data.items) == 6 and len(data.pool) == 18
    assert not {*data.items.questions} & {*data.pool.questions}


def test_more_items_or_rows_add_to_fewer_and_one_does_not_change_the_other(files):
    few, many, other = (
        load_data(_config(files(), **numbers), files())
        for numbers in ({"pool": 6, "items": 2}, {"pool": 9, "items": 4}, {"pool": 6, "items": 4})
    )
    assert {*few.pool.texts} < {*many.pool.texts} and {*few.items.texts} < {*many.items.texts}
    assert few.pool == other.pool and other.items == many.items
    reseeded = load_data(_config(files(), pool=6, items=2, seed=1), files())
    assert reseeded.pool != few.pool


def test_more_shots_than_the_pool_holds_are_refused_before_anything_runs(files, run, tmp_path):
    with pytest.raises(SettingError, match="23 shots from the 23 examples of one"):
        run(_config(files(), shots=(2, 23)))
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("dataset", "methods", "error", "says"),
    [
        ({"metric": "final_number", "choices": None}, {}, DataError, "two: 6 items whose own answer"),
        ({"test_labels": ("Card",)}, {}, DataError, "two: no item has one of its choices as answer"),
        ({"items": 1}, {}, DataError, "two: one item"),
        (
            {},
            {"m": MethodConfig("Random", quotas={"cart": 1})},
            SettingError,
            "one: quotas for unknown labels",
        ),
        ({}, {"m": MethodConfig("Random", quotas=-1)}, SettingError, "one: quotas=-1"),
    ],
)
def test_what_would_stop_it_later_is_refused_before_anything_runs(
    files, run, tmp_path, dataset, methods, error, says
):
    with pytest.raises(error, match=says):
        run(_config(files(), files("two", **dataset), methods=methods))
    assert not (tmp_path / "work").exists()


def test_a_proxy_that_is_not_there_is_told_before_anything_runs(files, run, tmp_path):
    methods = {"m": MethodConfig("GradientMatching", {**MATCHING, "proxy": str(tmp_path / "none")})}
    with pytest.raises(ProxyError, match="none"):
        run(_config(files(), methods=methods))
    assert not (tmp_path / "work").exists()


def test_max_without_a_known_context_is_refused(files, run):
    with pytest.raises(SettingError, match="context is not known"):
        run(_config(files(), shots=("max",)), limit=None)
    assert len(run(_config(files(), shots=(2,)), limit=None).runs) > 0


def test_a_context_that_holds_no_demonstration_is_refused(files, run):
    with pytest.raises(SettingError, match="one: the longest item"):
        run(_config(files()), limit=40)


# --- work is done once --------------------------------------------------------------------------------------


def test_a_repeated_run_asks_and_chooses_nothing_and_gives_the_same_bytes(files, run, tmp_path, monkeypatch):
    config = _config(files(), files("two"), shots=(2, "max"))
    run(config).save(tmp_path / "first.json")
    monkeypatch.setattr("icl_plugins.selectors._common.Request.check", None)  # choosing would fail
    target = Guesser(patience=0)
    run(config, target).save(tmp_path / "second.json")
    assert target.asked == 0
    assert (tmp_path / "first.json").read_bytes() == (tmp_path / "second.json").read_bytes()


@pytest.mark.parametrize("error", [KeyboardInterrupt, TargetError("down", expected="up", fix="start it")])
def test_an_interrupted_run_goes_on_where_it_stopped(files, run, error):
    config = _config(files(), methods={}, shots=(2,))
    whole = Guesser()
    expected = run(config, whole, folder="whole")
    target = Guesser(patience=7, error=error)
    with pytest.raises(BaseException) as caught:
        run(config, target)
    assert caught.type in (KeyboardInterrupt, TargetError)
    target.patience = 10**9
    assert _without_seconds(run(config, target)) == _without_seconds(expected)
    assert target.asked == whole.asked


def test_another_run_in_the_same_folder_is_refused(files, run):
    config = _config(files(), methods={}, shots=(2,))

    class Second(Guesser):
        def score(self, *given, **options):
            with pytest.raises(StoreLockedError):
                run(config)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(config, Second())
    assert run(config).runs  # the lock is gone


def test_gradients_are_computed_once_for_each_seed_and_counted_in_every_run(
    files, run, monkeypatch, tmp_path
):
    from icl_plugins.proxy import pool_gradients

    calls = []
    real = pool_gradients.tune_prefix
    monkeypatch.setattr(
        pool_gradients, "tune_prefix", lambda *args, **kw: calls.append(kw["seed"]) or real(*args, **kw)
    )
    methods = {
        "a": MethodConfig("GradientMatching", {**MATCHING, "swaps": 0}, seeds=2),
        "b": MethodConfig("GradientMatching", {**MATCHING, "scaling": "checkpoint"}, seeds=1),
        "c": MethodConfig("GradientMatching", MATCHING, quotas="proportional", order="easy_to_hard", seeds=1),
        "d": MethodConfig("GradientMatching", {**MATCHING, "epochs": 3}, seeds=1),
    }
    comparison = run(_config(files(), methods=methods))
    assert sorted(calls) == [0, 0, 1]  # seeds 0 and 1 of the first tuning, and the longer one
    spent = [json.loads(path.read_text()) for path in (tmp_path / "work" / "gradients").glob("*.seconds")]
    shared = [r.select_seconds for r in comparison.runs if r.method in {*"abcd"}]
    assert len(spent) == 3 and min(shared) >= min(spent) - 0.002  # both are rounded


@pytest.mark.parametrize(
    "method",
    [
        MethodConfig("Random"),
        MethodConfig("BM25"),
        MethodConfig("Similarity"),
        MethodConfig("LatentBayesian", QUICK),
        MethodConfig("GradientMatching", {**MATCHING, "swaps": 0}),
    ],
    ids=lambda method: method.selector,
)
def test_a_nested_method_chooses_once_what_it_would_choose_for_each_number(files, reader, tmp_path, method):
    config = _config(files(), methods={"nested": method}, shots=(5, 2, "max"))
    data = load_data(config, config.datasets[0])
    room = Room.of(PlainTokens.of("tiny", reader.count_tokens, data), 300, data)
    chooser = Chooser(config, data, room, lambda name: reader, tmp_path)
    chosen = {shots: chooser.choose(Cell("nested", shots, 3)) for shots in (2, 5, None)}
    assert chosen[2].select_seconds == chosen[5].select_seconds
    for shots, one in chosen.items():
        selector = method.selector_of(seed=3, proxy=reader, tokenizer=room.tokens)
        alone = selector.select(data.pool, shots, max_tokens=None if shots else 300)
        assert one.prompt.fingerprint == alone.to_prompt().fingerprint
        assert one.label_kl == alone.report()["label_kl"]
        assert one.objective == pytest.approx(alone.objective[-1] if alone.objective else None)


@pytest.mark.parametrize("selector", ["LatentBayesian", "GradientMatching"])
def test_a_nested_method_that_skips_examples_still_chooses_the_fewer(files, run, tmp_path, selector):
    data = files()
    rows = [{"text": f"{'long ' * 600 * (i % 2)}text {i}", "label": LABELS[i % 3]} for i in range(12)]
    Path(data.train).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    settings = {
        **QUICK,
        "on_too_long": "skip",
        **({"swaps": 0, "typical": 1.0} if selector == "GradientMatching" else {}),
    }
    cheap = dict.fromkeys(CONTROLS, MethodConfig("Random", seeds=10))
    methods = {**cheap, "nested": MethodConfig(selector, settings)}
    comparison = run(_config(data, shots=(2, 8), methods=methods), limit=None)
    assert [r.shots for r in comparison.runs if r.method == "nested"] == [2]
    assert any("no nested with 8 shots, seed 0" in note for note in comparison.notes)


def test_what_swaps_quotas_or_an_order_change_is_not_nested():
    nested = MethodConfig("Random")
    others = [
        replace(nested, quotas="proportional"),
        replace(nested, order="shuffle"),
        MethodConfig("GradientMatching", {"swaps": 0, "typical": 0.5}),
        MethodConfig("KMeans"),
    ]
    assert nested.nested and not any(method.nested for method in [*others, METHODS["matching"]])


def test_seconds_of_shared_gradients_and_of_interrupted_attempts_are_added(tmp_path, files):
    pool = load_data(_config(files()), files()).pool
    selection = Random().select(pool, 2)
    fresh = replace(selection, details={"rows_computed": 3, "seconds": {"prefix tuning": 5, "gradients": 7}})
    store = tmp_path / "store"

    def interrupted():
        raise KeyboardInterrupt

    assert _timed(lambda: selection, None)[1] < 1
    with pytest.raises(KeyboardInterrupt):
        _timed(interrupted, store)
    before = json.loads((tmp_path / "store.seconds").read_text())
    assert 0 < before < 1
    _, first = _timed(lambda: fresh, store)
    _, second = _timed(lambda: selection, store)
    assert first < 1 and 12 <= second < 13
    assert json.loads((tmp_path / "store.seconds").read_text()) == pytest.approx(12 + before)


def test_a_prompt_is_made_again_when_what_it_depends_on_changes(files, run, tmp_path):
    methods = {"random": MethodConfig("Random", seeds=10)}
    made = []
    for config in (
        _config(files(), methods=methods, shots=(2,)),
        _config(files(), methods=methods, shots=(2,), pool=9),
        _config(files(instruction="Name it."), methods=methods, shots=(2,)),
        _config(files(), methods=methods, shots=(2,), items=2),  # changes no selection
        _config(files(), methods={"random": MethodConfig("Random", seeds=11)}, shots=(2,)),  # one more
    ):
        run(config)
        made.append(len([*(tmp_path / "work" / "prompts").glob("one-random-*")]))
    assert made == [10, 20, 30, 30, 31]


def test_tokens_are_those_of_these_items_where_a_prompt_is_kept_from_others(files, run):
    few, many = (_config(files(), methods={}, shots=(2,), items=items) for items in (2, 6))
    run(few)
    again, fresh = run(many), run(many, folder="fresh")
    assert [r.evaluation.prompt for r in again.runs] == [r.evaluation.prompt for r in fresh.runs]
    assert [r.tokens for r in again.runs] == [r.tokens for r in fresh.runs]
    assert [r.tokens for r in again.runs] != [r.tokens for r in run(few).runs]


def test_more_shots_leave_what_was_chosen_for_fewer(files, run, tmp_path):
    run(_config(files(), shots=(2,), methods={}))
    before = {path: path.read_bytes() for path in (tmp_path / "work" / "prompts").iterdir()}
    run(_config(files(), shots=(2, 4), methods={}))
    assert before and {path: path.read_bytes() for path in before} == before


def test_a_damaged_prompt_is_refused(files, run, tmp_path):
    config = _config(files(), methods={}, shots=(2,))
    run(config)
    path = next((tmp_path / "work" / "prompts").iterdir())
    path.write_text(path.read_text().replace("question", "questian"))
    with pytest.raises(Exception, match="damaged"):
        run(config)


# --- equal cost ---------------------------------------------------------------------------------------------


def test_the_price_of_a_token_is_what_torch_counts(make_model, tokenizer):
    """One token behind c others: all matrix products of the model but the head's, 2 h V."""
    from torch.utils.flop_counter import FlopCounterMode

    model = make_model()
    model.set_attn_implementation("eager")  # torch counts no fused attention
    reader = Proxy.from_model(model, tokenizer, name="tiny")
    price, before = Price.of(reader), 30
    ids = torch.arange(before + 1)[None]
    with torch.no_grad():
        cache = model(ids[:, :before], use_cache=True).past_key_values
        with FlopCounterMode(display=False) as counter:
            model(ids[:, before:], past_key_values=cache, use_cache=True)
    embeddings = model.get_input_embeddings().weight
    counted = counter.get_total_flops() - 2 * embeddings.numel()
    assert price.forward(1, before) == pytest.approx(counted, rel=0.05)


def test_the_price_of_a_row_is_the_sum_of_its_tokens():
    price = Price(3.0, 0.5)
    assert price.forward(40, 7) == pytest.approx(sum(price.forward(1, 7 + t) for t in range(40)))
    lengths = [5, 9, 6, 8]
    online = GradientMatching(mode="online", epochs=3, prefix_length=2)
    assert matching_price(price, lengths, online) == 3 * 2 * sum(price.forward(n + 2) for n in lengths)
    exact = replace(online, mode="exact")
    assert matching_price(price, lengths, exact) == pytest.approx(
        7 / 3 * matching_price(price, lengths, online)
    )
    assert set_price(price, lengths, 2, 9) == price.forward(14) + 2 * price.forward(7, 14)


def test_best_of_n_at_equal_cost_tries_as_many_sets_as_the_price_allows(files, reader, tmp_path):
    config = _config(files(), methods={**METHODS, "best_of_n": CONTROLS["best_of_n"]})
    data = load_data(config, config.datasets[0])
    room = Room.of(PlainTokens.of("tiny", reader.count_tokens, data), 400, data)
    chooser = Chooser(config, data, room, lambda name: reader, tmp_path)
    prompt = chooser.choose(Cell("best_of_n", 3, 0)).prompt
    price, lengths = Price.of(reader), reader.count_tokens(data.pool.texts)
    wanted = matching_price(price, lengths, GradientMatching(**QUICK)) / set_price(price, lengths, 3, 256)
    assert prompt.provenance["config"]["sets"] == round(wanted) > 1
