"""`icl-plugins think`: the state that Python makes, what is told and refused, and that nothing is lost."""

import json
import os
from pathlib import Path

import pytest

from icl_plugins import ContextTuning, DeepThinking, KVState, ManyShotPrompt, Pool, Proxy, Template
from icl_plugins.cli import run
from icl_plugins.thinking import saving

TEMPLATE = Template("Query: {text}\nIntent:", " {label}")
FILES = {"prompt.json", "state.json", "state.safetensors"}


@pytest.fixture(scope="module")
def model(tmp_path_factory, make_model, tokenizer):
    """The folder of a tiny random model."""
    folder = tmp_path_factory.mktemp("model")
    make_model(max_position_embeddings=512).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_prompt(shots=6):
    rows = [{"text": f"question {i} [bold]x[/bold]", "label": ("card", "rate")[i % 2]} for i in range(shots)]
    pool = Pool.from_records(rows, TEMPLATE)
    return ManyShotPrompt(TEMPLATE, tuple(zip(pool.questions, pool.answers, strict=True)), pool.examples)


@pytest.fixture
def think(tmp_path, monkeypatch, model, capsys):
    """Run `think` on prompt.json in an empty folder -> exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    make_prompt().save("prompt.json")

    def think(*options, prompt="prompt.json", out="state"):
        code = run(["think", prompt, "--out", out, "--model", model, *options])
        return code, *capsys.readouterr()

    return think


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_think_writes_the_state_that_python_makes(think, model):
    assert think("--max-steps", "3", "--folds", "2", "--step-size", "0.1", "--step-size", "0.5")[0] == 0
    proxy = Proxy.load(model)
    expected = DeepThinking(proxy, step_size=(0.1, 0.5), max_steps=3, folds=2).fit(make_prompt())
    expected.save("expected")
    assert contents("state") == contents("expected")


def test_context_tuning_is_that_of_python_and_told_by_its_name(think, model):
    settings = {"learning_rate": (0.01, 0.1), "dropout": 0.2, "folds": 2}
    options = ("--learning-rate", "0.01", "--learning-rate", "0.1", "--dropout", "0.2", "--folds", "2")
    code, out, _ = think("--method", "context_tuning", "--steps", "3", "--seed", "5", *options)
    assert code == 0
    state = ContextTuning(Proxy.load(model), steps=3, seed=5, **settings).fit(make_prompt())
    state.save("expected")
    assert contents("state") == contents("expected")
    text = " ".join(out.split())
    assert f"3 steps of context tuning: {state.thinking['recipe']}" in text
    chosen = next(one for one in state.thinking["held_out"] if one["recipe"] == state.thinking["recipe"])
    assert f"{chosen['loss'][0]:.3f} nats at 1 step, {chosen['loss'][2]:.3f} at the chosen" in text


@pytest.mark.parametrize(
    ("options", "other"),
    [
        (("--learning-rate", "0.1", "--dropout", "0"), "--learning-rate, --dropout with --method deep_thin"),
        (("--method", "context_tuning", "--momentum", "0.5", "--paper"), "--momentum, --paper with --method"),
        (("--method", "context_tuning", "--positions", "auto"), "--positions with --method context_tuning"),
    ],
)
def test_options_of_the_other_method_are_refused_by_name(think, monkeypatch, options, other):
    monkeypatch.setattr(Proxy, "load", lambda *_: pytest.fail("a model was loaded"))
    code, _, err = think("--folds", "3", *options)
    assert code == 2 and other in err and "--folds with" not in err
    assert f"leave out {other.partition(' with')[0]}, or choose the other method" in err


def test_too_few_demonstrations_to_tune_are_refused(think):
    make_prompt(2).save("short.json")
    code, _, err = think("--method", "context_tuning", prompt="short.json")
    assert code == 2 and "context tuning of 2 demonstrations" in err and not Path("state").exists()


def test_paper_is_the_published_settings_but_for_what_is_given(think):
    assert think("--paper", "--steps", "3")[0] == 0
    made = saving.describe(Path("state"))["thinking"]
    names = ("steps", "step_size", "momentum", "positions")
    assert [made[name] for name in names] == [3, 0.01, 0.9, "reference"]


def test_it_tells_what_was_chosen_and_why_and_what_to_do_next(think, model):
    code, out, _ = think("--max-steps", "2")
    assert code == 0
    state = KVState.load("state", model)
    (curve,) = state.thinking["held_out"]
    text = " ".join(out.split())
    assert state.thinking["reason"] in text
    chosen = curve["loss"][state.thinking["steps"] - 1]
    assert f"{curve['loss'][0]:.3f} nats at 1 step, {chosen:.3f} at the chosen" in text
    assert f"{len(state.ids)} tokens of 6 demonstrations" in text
    assert "icl-plugins report state --out state.html" in text and "KVState.load(" in text


def test_json_has_the_same_and_nothing_else_is_on_stdout(think):
    code, out, _ = think("--steps", "2", "--positions", "overlap", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["thinking"] == saving.describe(Path("state"))["thinking"]
    assert (told["shots"], told["loss"], told["out"]) == (6, None, "state")
    assert told["bytes"] == Path("state/state.safetensors").stat().st_size


def test_a_state_is_replaced_and_shown(think, capsys):
    assert think("--steps", "2")[0] == 0
    first = contents("state")
    assert think("--steps", "3")[0] == 0
    assert contents("state").keys() == first.keys() == FILES and contents("state") != first
    assert run(["show", "state", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["shots"], shown["state"]["thinking"]["steps"]) == (6, 3)
    assert run(["show", "state"]) == 0
    assert "3 steps of deep thinking" in capsys.readouterr().out


def test_no_other_folder_and_no_file_is_replaced(think, monkeypatch):
    monkeypatch.setattr(DeepThinking, "fit", lambda *_: pytest.fail("the work was begun"))
    Path("mine").mkdir()
    Path("mine/prompt.json").write_text("precious", "utf-8")
    for out in ("mine", "prompt.json", "prompt.json/below"):
        code, _, err = think(out=out)
        assert code == 3 and f"--out '{out}'" in err
    assert contents("mine") == {"prompt.json": b"precious"}


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--steps", "often"), 2, "--steps 'often'"),
        (("--steps", "0"), 2, "steps=0"),
        (("--step-size", "-1"), 2, "step_size=-1.0"),
        (("--method", "context_tuning", "--dropout", "1"), 2, "dropout=1.0"),
        (("--method", "reading"), 2, "reading"),
        (("--positions", "up"), 2, "positions='up'"),
        (("--folds", "1"), 2, "folds=1"),
        (("--device", "abacus"), 2, "abacus"),
        (("--model", "no/such/model"), 4, "no/such/model"),
    ],
)
def test_wrong_settings_are_explained_and_write_nothing(think, options, code, says):
    exits, _, err = think(*options)
    assert (exits, Path("state").exists()) == (code, False) and says in err


@pytest.mark.parametrize("prompt", ["none.json", "model.txt"])
def test_what_is_no_prompt_is_named(think, prompt):
    Path("model.txt").write_text("hello", "utf-8")
    code, _, err = think(prompt=prompt)
    assert code == 3 and f"'{prompt}'" in err and not Path("state").exists()


def test_a_prompt_that_is_too_long_is_named_with_its_tokens(think):
    make_prompt(60).save("long.json")
    code, _, err = think(prompt="long.json")
    assert code == 3 and "'long.json' has" in err and "fewer than 512" in err and "--max-tokens" in err
    assert not Path("state").exists()


@pytest.mark.parametrize("before", [False, True])
def test_an_interrupt_while_it_is_written_leaves_what_was_there(think, monkeypatch, before):
    if before:
        assert think("--steps", "2")[0] == 0
    kept = contents("state") if before else None

    def interrupted(path, data):
        raise KeyboardInterrupt

    monkeypatch.setattr(saving, "atomic_write", interrupted)
    code, _, err = think("--steps", "3")
    assert code == 130 and "Interrupted" in err
    assert contents("state") == kept if before else not Path("state").exists()


def test_an_interrupt_between_the_files_of_a_new_state_leaves_no_folder(think, monkeypatch):
    replace = os.replace

    def interrupted(source, target):
        if Path(target).parent.name == "state":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    assert think("--steps", "2")[0] == 130
    assert not Path("state").exists()
