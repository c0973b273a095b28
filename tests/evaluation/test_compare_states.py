"""Methods that think and saved states in a comparison: who answers, what is kept, what is refused."""

import json
from pathlib import Path

import pytest
import yaml

from icl_plugins import (
    ContextTuning,
    DeepThinking,
    KVState,
    ManyShotPrompt,
    Pool,
    Proxy,
    Random,
    Template,
)
from icl_plugins.errors import DataError, ProxyError, SettingError
from icl_plugins.evaluation.compare import compare
from icl_plugins.evaluation.config import Config, DataConfig
from icl_plugins.evaluation.config_file import read_config
from icl_plugins.evaluation.datasets import load_data
from icl_plugins.evaluation.evaluate import evaluate
from icl_plugins.evaluation.local import LocalTarget
from icl_plugins.evaluation.method_config import MethodConfig
from icl_plugins.evaluation.room import PlainTokens, Room
from icl_plugins.thinking.saving import STATE, describe

LABELS = ("card", "rate", "phone")
TEMPLATE = Template("Query: {text}\nIntent:", " {label}")
CHEAP = {
    "random": MethodConfig("Random", seeds=10),
    "stratified_random": MethodConfig("Random", quotas="proportional", seeds=1),
    "kmeans": MethodConfig("Random", seeds=1),
    "best_of_n": MethodConfig("Random", seeds=1),
}
FAST = {"steps": 3, "step_size": 0.5}
TUNED = {"steps": 3, "learning_rate": 0.1}


def records(count, text="question"):
    return [{"text": f"{text} {i}", "label": LABELS[i % 3]} for i in range(count)]


@pytest.fixture(scope="module")
def reader(make_model, tokenizer):
    """A tiny random model that is proxy and target."""
    return Proxy.from_model(make_model(max_position_embeddings=512), tokenizer, name="tiny")


@pytest.fixture
def data(tmp_path):
    for part, rows in (("train", records(24)), ("test", records(6, "item"))):
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return DataConfig("one", str(tmp_path / "train.jsonl"), TEMPLATE, str(tmp_path / "test.jsonl"))


@pytest.fixture
def run(reader, tmp_path, data):
    """Compare some methods with the controls in the folder `work`."""

    def run(methods, shots=(2, 3), target=None, folder="work"):
        config = Config((data,), shots, {**CHEAP, **methods}, proxy="tiny", seeds=2)
        loaded = load_data(config, data)
        room = Room.of(PlainTokens.of("tiny", reader.count_tokens, loaded), 400, loaded)
        target = target or LocalTarget(reader)
        return compare(
            config, [(loaded, room)], target, tmp_path / folder, source={}, loaded={"tiny": reader}
        )

    return run


@pytest.fixture
def save(reader, tmp_path):
    """Think a prompt of some rows and save the state -> its folder."""

    def save(rows=None, template=TEMPLATE, instruction="", **settings):
        pool = Pool.from_records(records(3) if rows is None else rows, template)
        shots = tuple(zip(pool.questions, pool.answers, strict=True))
        prompt = ManyShotPrompt(template, shots, pool.examples, instruction)
        DeepThinking(reader, **{**FAST, **settings}).fit(prompt).save(tmp_path / "state")
        return str(tmp_path / "state")

    return save


def of(comparison, method):
    return {(run.asked, run.seed): run for run in comparison.runs if run.method == method}


# --- who answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "way", "own"), [("think", DeepThinking, FAST), ("tune", ContextTuning, {**TUNED, "dropout": 0.1})]
)
def test_a_method_that_thinks_answers_from_the_state_of_what_it_chose(run, reader, data, key, way, own):
    comparison = run({"thought": MethodConfig("Random", **{key: own})}, shots=(3, 4))
    loaded = load_data(Config((data,), (2,)), data)
    runs = of(comparison, "thought")
    assert {*runs} == {(3, 0), (3, 1), (4, 0), (4, 1)}
    for (shots, seed), made in runs.items():
        prompt = Random(seed=seed).select(loaded.pool, shots).to_prompt()
        state = way(reader, **own, seed=seed).fit(prompt)
        expected = evaluate(prompt, loaded.items, state.target, choices=loaded.choices)
        assert made.evaluation.prompt == prompt.fingerprint
        assert made.evaluation.predictions == expected.predictions


def test_a_thought_prompt_and_the_same_prompt_do_not_share_answers(run, monkeypatch):
    asked = []
    score = LocalTarget.score

    def counting(self, requests, choices, **options):
        asked.append((type(self).__name__, len(requests)))
        return score(self, requests, choices, **options)

    monkeypatch.setattr(LocalTarget, "score", counting)
    methods = {"plain": MethodConfig("BM25"), "thought": MethodConfig("BM25", think=FAST)}
    comparison = run(methods, shots=(3,))
    (plain,), (thought,) = of(comparison, "plain").values(), of(comparison, "thought").values()
    assert plain.evaluation.prompt == thought.evaluation.prompt
    assert sum(count for kind, count in asked if kind == "StateTarget") == 6


def test_a_saved_state_is_measured_once_with_its_own_prompt(run, save, reader, data):
    folder = save()
    comparison = run({"saved": MethodConfig(state=folder)})
    ((cell, made),) = of(comparison, "saved").items()
    state = KVState.load(folder, reader)
    loaded = load_data(Config((data,), (2,)), data)
    expected = evaluate(state.prompt, loaded.items, state.target, choices=loaded.choices)
    assert (cell, made.shots) == ((3, 0), 3)
    assert made.evaluation.predictions == expected.predictions
    assert made.evaluation.prompt == state.prompt.fingerprint
    assert made.tokens == max(map(len, state.target.texts.tokens(state.messages(loaded.items.examples))))
    assert any("saved is a saved state" in note for note in comparison.notes)


def test_settings_of_the_target_hold_behind_states_too(run, reader, monkeypatch):
    targets = []

    def noting(prompt, items, target, **options):
        targets.append(target)
        return evaluate(prompt, items, target, **options)

    monkeypatch.setattr("icl_plugins.evaluation.compare.evaluate", noting)
    target = LocalTarget(reader, length_norm=True, stop=["."])
    run({"thought": MethodConfig("BM25", think=FAST)}, shots=(3,), target=target)
    behind = [one for one in targets if one is not target]
    assert [(one.length_norm, one.stop, one.layout) for one in behind] == [(True, (".",), "single")]


# --- work is done once, and told ----------------------------------------------------------------------------


def test_thinking_is_done_once_and_counts_as_choosing(run, monkeypatch):
    methods = {"thought": MethodConfig("Random", think={**FAST, "steps": "auto", "max_steps": 2}, seeds=2)}
    monkeypatch.setattr("icl_plugins.evaluation.states.perf_counter", iter(range(0, 1000, 50)).__next__)
    first = run(methods)
    assert all(50 <= made.select_seconds < 60 for made in of(first, "thought").values())
    assert [note for note in first.notes if "deep thinking by thought with 2 shots" in note]
    monkeypatch.setattr(DeepThinking, "fit", lambda *_: pytest.fail("thought again"))
    assert run(methods) == first


def test_the_notes_tell_the_steps_of_each_way(run, save):
    methods = {
        "tuned": MethodConfig("Random", tune={**TUNED, "steps": 2}),
        "saved": MethodConfig(state=save()),
    }
    comparison = run(methods, shots=(3, 4))
    assert "one: steps of context tuning by tuned with 4 shots: 2, 2" in comparison.notes
    assert "one: steps of deep thinking by saved with 3 shots: 3" in comparison.notes


def test_other_settings_of_thinking_are_thought_anew(run, tmp_path):
    for settings in (FAST, {**FAST, "step_size": 0.25}, {**FAST, "momentum": 0.5}):
        run({"thought": MethodConfig("BM25", think=settings)}, shots=(3,))
    for settings in ({"steps": 3}, {"steps": 3, "dropout": 0.1}):
        run({"thought": MethodConfig("BM25", tune=settings)}, shots=(3,))
    assert len([*(tmp_path / "work" / "states").iterdir()]) == 5


def test_what_is_chosen_does_not_depend_on_the_answers_of_the_evaluation(run, data, tmp_path):
    auto = {"steps": "auto", "max_steps": 4, "folds": 3}
    methods = {
        "thought": MethodConfig("Random", think={**auto, "step_size": (0.1, 0.5)}),
        "tuned": MethodConfig("Random", tune={**auto, "learning_rate": (0.01, 0.1)}),
    }

    def measured(folder):
        comparison = run(methods, shots=(6,), folder=folder)
        accuracies = [one.evaluation.value for one in comparison.runs if one.method in methods]
        states = {path.parent.name: describe(path.parent) for path in (tmp_path / folder).rglob(STATE)}
        told = {name: (one["fingerprint"], one["tensors"], one["thinking"]) for name, one in states.items()}
        for *_, thinking in told.values():
            del thinking["seconds"]
        return told, accuracies

    states, accuracies = measured("honest")
    poisoned = [{**row, "label": "card"} for row in records(6, "item")]
    Path(data.test).write_text("".join(json.dumps(row) + "\n" for row in poisoned), "utf-8")
    other_states, other_accuracies = measured("poisoned")
    assert len(states) == 4
    assert all(thinking["held_out"] for *_, thinking in states.values())
    assert states == other_states
    assert all(one != other for one, other in zip(accuracies, other_accuracies, strict=True))


# --- what cannot stand beside the others, before anything runs ----------------------------------------------


@pytest.mark.parametrize(
    ("settings", "shots", "says"),
    [
        ({"template": Template("Q: {text}", " {label}")}, (2, 3), "methods.saved.state: a state with the q"),
        ({}, (2, 4), "a state of 3 demonstrations, and shots 2, 4"),
        ({"rows": records(3, "item")}, (2, 3), "the state shows 3 of the items of one"),
    ],
)
def test_a_state_of_something_else_is_refused(run, save, tmp_path, settings, shots, says):
    folder = save(**settings)
    with pytest.raises((SettingError, DataError)) as caught:
        run({"saved": MethodConfig(state=folder)}, shots=shots)
    assert says in str(caught.value)
    assert not (tmp_path / "work").exists()


def test_fewer_shots_than_can_be_tuned_are_refused(run, tmp_path):
    methods = {"m": MethodConfig("Random", tune=TUNED)}
    with pytest.raises(SettingError, match="methods.m.tune: context tuning of 2 demonstrations"):
        run(methods, shots=(4, 2))
    assert not (tmp_path / "work").exists()


def test_a_target_without_masks_thinks_but_is_not_tuned(run, make_model, tokenizer, tmp_path):
    target = LocalTarget(Proxy.from_model(make_model("bloom"), tokenizer))
    with pytest.raises(ProxyError, match="methods.m.tune: .* takes no mask of its own"):
        run({"m": MethodConfig("Random", tune=TUNED)}, shots=(3,), target=target)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("method", ["think", "state"])
def test_a_target_without_keys_and_values_is_refused(run, save, method):
    class Other:
        name, layout, fingerprint = "other", "single", "0"

    methods = {"m": MethodConfig(state=save()) if method == "state" else MethodConfig("Random", think={})}
    with pytest.raises(SettingError, match="the method m answers from a state, and the target is a Other"):
        run(methods, target=Other())


def test_a_state_of_another_layout_is_refused(run, save, reader):
    target = LocalTarget(reader)
    target.texts.layout = "turns"
    with pytest.raises(SettingError, match="'single' on a target of 'turns'"):
        run({"saved": MethodConfig(state=save())}, target=target)


# --- the config ---------------------------------------------------------------------------------------------


def write(folder, methods, names=("one",), **keys):
    (folder / "train.jsonl").write_text('{"text": "a", "label": "b"}\n', "utf-8")
    template = {"question": "Query: {text}\nIntent:", "answer": " {label}"}
    datasets = [{"name": name, "train": "train.jsonl", "template": template} for name in names]
    content = {"datasets": datasets, "shots": [2], "methods": methods, **keys}
    (folder / "config.yaml").write_text(yaml.safe_dump(content), "utf-8")
    return folder / "config.yaml"


@pytest.mark.parametrize(
    ("methods", "keys", "says"),
    [
        ({"m": {"selector": "Random", "think": {"step": 3}}}, {}, "did you mean 'steps'?"),
        ({"m": {"selector": "Random", "think": {"model": "x"}}}, {}, "think.model"),
        ({"m": {"selector": "Random", "think": {"steps": 0}}}, {}, "methods.m: steps=0"),
        ({"m": {"selector": "Random", "think": {"step_size": [0.1, "x"]}}}, {}, "methods.m: step_size='x'"),
        ({"m": {"selector": "Random", "think": True}}, {}, "methods.m.think: True"),
        ({"m": {"selector": "Random", "tune": {"step_size": 0.1}}}, {}, "tune.step_size"),
        ({"m": {"selector": "Random", "tune": {"layout": "turns"}}}, {}, "tune.layout"),
        ({"m": {"selector": "Random", "tune": {"dropout": 1}}}, {}, "methods.m: dropout=1"),
        ({"m": {"selector": "Random", "tune": {}, "think": {}}}, {}, "methods.m: think and tune"),
        ({"m": {"selector": "Random", "tune": {}}}, {"target": {"kind": "openai"}}, "methods.m.tune with"),
        ({"m": {"state": "here", "tune": {}}}, {}, "state and tune"),
        ({"random": {"selector": "Random", "tune": {}}}, {}, "methods.random is not plain random"),
        ({"m": {"selector": "Random", "think": {}}}, {"target": {"kind": "openai"}}, "methods.m.think with"),
        ({"m": {"state": "here"}}, {"target": {"kind": "openai"}}, "methods.m.state with target.kind openai"),
        ({"m": {"state": "here", "selector": "Random", "seeds": 2}}, {}, "state and selector, seeds"),
        ({"m": {"state": "here", "think": {}}}, {}, "state and think"),
        ({"m": {"state": "nowhere"}}, {}, "methods.m.state: no folder"),
        ({"m": {"state": {"two": "here"}}}, {}, "methods.m.state.two"),
        ({"m": {"state": "here"}}, {"names": ("one", "two")}, "one folder for 2 data sets"),
        ({"m": {"state": "${place}"}}, {}, "--set place="),
        ({"m": {}}, {}, "methods.m: neither selector nor state"),
        ({"random": {"selector": "Random", "think": {}}}, {}, "methods.random is not plain random"),
    ],
)
def test_wrong_keys_are_refused_with_their_place(tmp_path, methods, keys, says):
    (tmp_path / "here").mkdir()
    with pytest.raises((SettingError, DataError)) as caught:
        read_config(write(tmp_path, methods, **keys))
    assert says in str(caught.value)


def test_folders_of_states_start_at_the_config_and_take_variables(tmp_path):
    (tmp_path / "here").mkdir()
    methods = {"a": {"state": "here"}, "b": {"state": {"one": "${place}"}}}
    config, _ = read_config(write(tmp_path, methods), {"place": "here"})
    assert [config.methods[name].states for name in "ab"] == [{"one": str(tmp_path / "here")}] * 2
    assert [len(config.seeds_of(name)) for name in "ab"] == [1, 1]


def test_lists_of_the_config_are_candidates():
    method = MethodConfig("Random", think={"step_size": [0.01, 0.1], "positions": ["auto", "overlap"]})
    assert method.thinking_of(layout="turns", seed=4) == DeepThinking(
        step_size=(0.01, 0.1), positions=("auto", "overlap"), layout="turns", seed=4
    )
    tuned = MethodConfig("Random", tune={"learning_rate": [0.01, 0.1]})
    assert tuned.thinking_of(seed=4) == ContextTuning(learning_rate=(0.01, 0.1), seed=4)
