"""`icl-plugins tune`: the model that Python makes, what is told and refused, and that it goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.numpy import load_file

from icl_plugins.cli import run
from icl_plugins.errors import TuningError
from icl_plugins.tuning import ManyICL
from icl_plugins.tuning.config import read_config
from icl_plugins.tuning.loading import load

pytest.importorskip("peft")

LABELS = ("card", "rate")
TEMPLATE = {"question": "Query: {text}\nIntent:", "answer": " {label}"}
MEASURED = [{"name": "two", "train": "${data}/other.jsonl", "template": TEMPLATE}]


@pytest.fixture(scope="module")
def model(tmp_path_factory, make_model, tokenizer):
    """The folder of a tiny random model."""
    folder = tmp_path_factory.mktemp("model")
    make_model(max_position_embeddings=512).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def tune(tmp_path, monkeypatch, model, capsys):
    """Write a config into an empty folder, run `tune` -> exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for name, size in (("train", 30), ("other", 20)):
        rows = [{"text": f"{name} {row}", "label": LABELS[row % 2]} for row in range(size)]
        Path("data", f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    def tune(*options, out="out", **keys):
        content = {
            "model": model,
            "tasks": [{"name": "one", "train": "${data}/train.jsonl", "template": TEMPLATE}],
            "stages": [{"steps": 4, "rows": 1, "context": 96}],
            "checkpoint_every": 2,
            **keys,
        }
        Path("config.yaml").write_text(yaml.safe_dump(content), "utf-8")
        code = run(["tune", "config.yaml", "--set", "data=data", "--out", out, *options])
        return code, *capsys.readouterr()

    return tune


def same(one, other):
    one, other = (load_file(Path(folder, "model.safetensors")) for folder in (one, other))
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def test_tune_makes_the_model_that_python_makes(tune):
    assert tune(validation=MEASURED)[0] == 0
    settings, data = read_config("config.yaml", {"data": "data"})
    found = load(data, settings.seed)
    settings.fit(found.tasks, "expected", validation=found.validation)
    assert same("out/model", "expected/model")
    record = json.loads(Path("out/model/tuning.json").read_text("utf-8"))
    assert [task["name"] for task in record["tasks"]] == ["one"]


def test_it_tells_steps_losses_curves_and_what_to_do_next(tune):
    code, out, err = tune(validation=MEASURED)
    assert code == 0 and "tuning: 4 of 4" in err
    record = json.loads(Path("out/model/tuning.json").read_text("utf-8"))
    text = " ".join(out.split())
    mean = sum(record["losses"]) / 4
    assert f"steps 4 loss {mean:.3f} nats a prediction in the first ten steps, {mean:.3f} in the last" in text
    before, after = (
        next(one for one in record["curves"] if one["step"] == step)["points"][0] for step in (0, 4)
    )
    guess = f"{record['curves'][0]['chance']:.2f} {record['curves'][0]['majority']:.2f}"
    cells = [f"{one['accuracy']:.2f} ({one['low']:.2f}-{one['high']:.2f})" for one in (before, after)]
    assert f"two 0 {guess} {' '.join(cells)}" in text
    for use in ("--proxy out/model", "target: {model: out/model}", "transformers serve out/model"):
        assert use in text
    assert "an adapter of rank 16" in text and "out/adapter" in text


def test_json_has_the_same_and_rows_that_were_left_out(tune):
    both = {"name": "one", "train": "${data}/train.jsonl", "template": TEMPLATE, "rows": 16}
    code, out, _ = tune("--json", validation=[both], lora_rank=None)
    assert code == 0
    result = json.loads(out)
    assert (result["steps"], result["model"], result["adapter"]) == (4, "out/model", None)
    assert result["notes"][0].startswith("one: 16 rows left out, which ask what a row of validation asks")
    (curve,) = result["curves"]
    assert (curve["before"]["step"], curve["after"]["step"]) == (0, 4)
    assert [point["shots"] for point in curve["after"]["points"]] == [0, 1, 4]
    assert result["seconds"] > 0 and set(result["loss"]) == {"first", "last"}


def test_what_was_tuned_works_as_proxy_and_tells_of_itself(tune, capsys):
    assert tune()[0] == 0
    command = ["select", "data/train.jsonl", "-q", "{text}", "-a", " {label}", "-n", "2", "-m", "typicality"]
    assert run([*command, "--proxy", "out/model", "--out", "prompt.json"]) == 0
    capsys.readouterr()
    for folder in ("out", "out/model"):
        assert run(["show", folder]) == 0
        text = " ".join(capsys.readouterr().out.split())
        assert "tuned to use many shots" in text and "transformers serve out/model" in text
        assert "was not measured" in text
    assert run(["show", "out/adapter", "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert (alone["model"], alone["adapter"]) == (None, "out/adapter")
    assert run(["show", "data"]) == 3


def test_an_interrupted_command_goes_on_and_ends_where_it_would_have(tune, monkeypatch, capsys):
    from icl_plugins.tuning.run import Run

    assert tune(out="whole")[0] == 0
    real, seen = Run._after, []

    def interrupted(self, trainer, step, loss):
        seen.append(step)
        if len(seen) == 3:
            raise KeyboardInterrupt
        real(self, trainer, step, loss)

    monkeypatch.setattr(Run, "_after", interrupted)
    code, out, err = tune()
    assert code == 130 and out == ""
    assert "the last checkpoint of tune" in err and "run the same command to go on" in err
    assert not Path("out/model").exists()
    assert run(["show", "out"]) == 0
    assert "steps are kept; the same command goes on" in " ".join(capsys.readouterr().out.split())
    state = sorted(Path("out").glob("checkpoints/step-*/state.json"))[-1]
    whole = state.read_bytes()
    state.write_bytes(whole[:-9])
    assert run(["show", "out"]) != 0
    assert "is damaged" in " ".join(capsys.readouterr().err.split())
    state.write_bytes(whole)
    assert tune()[0] == 0
    assert seen == [1, 2, 3, 3, 4] and same("out/model", "whole/model")
    assert tune()[0] == 0 and len(seen) == 5  # all is there


@pytest.mark.parametrize(
    ("keys", "code", "says"),
    [
        ({"learning_rat": 1}, 2, "did you mean 'learning_rate'?"),
        ({"stages": [{"tasks": {"none": 1}}]}, 2, "no task or kind 'none'"),
        ({"stages": [{"context": 1024}]}, 2, "context=1,024"),
        ({"model": "no/such/model"}, 4, "no/such/model"),
        ({"text": ["none.txt"]}, 3, "text[0]"),
        (
            {"tasks": [{"name": "a", "train": "${data}/train.jsonl", "template": TEMPLATE, "rows": 1}]},
            3,
            "one example",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_a_step(tune, monkeypatch, keys, code, says):
    from icl_plugins.tuning.run import Run

    monkeypatch.setattr(Run, "train", lambda _: pytest.fail("it trains"))
    found, _, err = tune("--json", **keys)
    error = json.loads(err.splitlines()[-1])
    assert (found, error["exit_code"]) == (code, code)
    assert says in " ".join(error["error"].values())


def test_a_variable_that_nothing_uses_and_a_folder_that_cannot_be_are_refused(tune, monkeypatch):
    monkeypatch.setattr(ManyICL, "fit", lambda *_, **__: pytest.fail("it trains"))
    code, _, err = tune("--set", "dat=x")
    assert code == 2 and "did you mean 'data'?" in err
    Path("out").write_text("a file", "utf-8")
    code, _, err = tune()
    assert code == 3 and "--out 'out' cannot be written" in err


def test_training_that_diverges_has_the_code_of_models(tune, monkeypatch):
    def diverges(*_, **__):
        raise TuningError("training diverged", expected="a loss that falls", fix="lower learning_rate")

    monkeypatch.setattr(ManyICL, "fit", diverges)
    code, out, err = tune()
    assert (code, out) == (4, "") and "lower learning_rate" in err


def test_another_config_does_not_go_on_with_the_run_of_a_folder(tune):
    assert tune()[0] == 0
    before = Path("out/model/tuning.json").read_bytes()
    code, _, err = tune(learning_rate=0.1)
    assert code == 3 and "other settings" in err
    assert Path("out/model/tuning.json").read_bytes() == before


def test_of_several_processes_the_first_alone_tells(tune, monkeypatch):
    assert tune()[0] == 0
    monkeypatch.setattr(ManyICL, "fit", lambda *_, **__: None)
    monkeypatch.setenv("RANK", "1")
    assert tune() == (0, "", "")


def test_it_runs_as_a_module_as_launchers_start_it():
    command = [sys.executable, "-m", "icl_plugins", "tune", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "accelerate launch" in done.stdout and "docs/tuning.md" in done.stdout
