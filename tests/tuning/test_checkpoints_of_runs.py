"""Checkpoints: gone on with only by what made them, told when damaged, whole when the disk is full."""

import errno
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from tuning_tools import PLAIN, make_task, settings, steps_of

from icl_plugins import Proxy
from icl_plugins.errors import ArtefactError
from icl_plugins.progress import progress_to
from icl_plugins.tuning import Stage, Weighting, checkpoints
from icl_plugins.tuning.checkpoints import FOLDER


@pytest.fixture(scope="module")
def finished(proxy_of, task, tmp_path_factory):
    """A run that is done: its settings, task, folder and losses."""
    run, out = settings(proxy_of(), rows=1), tmp_path_factory.mktemp("finished") / "out"
    return run, task, out, run.fit([task], out).record["losses"]


def changed(what):
    given = {"tasks": [make_task()], "text": PLAIN, "settings": {}}
    return (
        given
        | {
            "tasks": {"tasks": [make_task(size=25)]},
            "text": {"text": PLAIN[:1]},
            "learning rate": {"settings": {"learning_rate": 1e-3}},
            "rank": {"settings": {"lora_rank": 2}},
            "weighting": {"settings": {"weighting": Weighting(unit="answer")}},
            "stage": {"settings": {"stages": (Stage(steps=6, rows=1, context=96, plain=0.2),)}},
            "seed": {"settings": {"seed": 1}},
            "weights": {},
            "nothing": {"settings": {"checkpoint_every": 1, "evaluate_every": 7}},
        }[what]
    )


def test_a_folder_goes_on_only_with_what_it_was_made_from(proxy_of, tmp_path):
    first = settings(proxy_of(), plain=0.2, steps=2)
    first.fit([make_task()], tmp_path, text=PLAIN)
    for what in ("tasks", "text", "learning rate", "rank", "weighting", "stage", "seed", "weights"):
        given = changed(what)
        other = replace(first, **given["settings"])
        if what == "weights":
            other = replace(other, model=proxy_of("llama", initializer_range=0.2))
        named = what if what in ("tasks", "text", "weights") else "settings"
        with pytest.raises(ArtefactError, match=f"made from other {named} "):
            other.fit(given["tasks"], tmp_path, text=given["text"])
    given = changed("nothing")
    again = replace(first, **given["settings"]).fit(given["tasks"], tmp_path, text=given["text"])
    assert len(again.record["losses"]) == 2


def cut(file):
    def damage(folder):
        path = folder / file
        path.write_bytes(path.read_bytes()[:-9])

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        cut("weights.safetensors"),
        cut("optimiser.safetensors"),
        cut("state.json"),
        lambda folder: (folder / "weights.safetensors").unlink(),
        lambda folder: (folder / "state.json").write_text("[1]"),
        lambda folder: (folder / "state.json").write_text('{"step": 4, "made_from": {}, "log": {}}'),
    ],
)
def test_a_damaged_checkpoint_is_told_and_the_one_before_goes_on(finished, tmp_path, damage):
    run, task, made, losses = finished
    out = tmp_path / "out"
    shutil.copytree(made, out)
    last = out / FOLDER / "step-0000004"
    damage(last)
    with pytest.raises(ArtefactError, match="step-0000004' is damaged|made from other"):
        run.fit([task], out)
    shutil.rmtree(last)
    assert run.fit([task], out).record["losses"] == losses


@pytest.mark.parametrize("place", ["weights", "state", "model"])
def test_a_full_disk_leaves_the_checkpoint_before(proxy_of, task, tmp_path, monkeypatch, place):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill(stage, done, total):
        if (stage, done) != ("tuning", 4):
            return
        if place == "weights":
            monkeypatch.setattr(checkpoints, "save_file", full)
        elif place == "state":
            monkeypatch.setattr("os.fsync", full)
        else:
            monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)

    settled = settings(proxy_of(), steps=4)
    with progress_to(fill), pytest.raises(ArtefactError, match="No space left on device"):
        settled.fit([task], tmp_path)
    assert steps_of(tmp_path) == ["step-0000002"] + ["step-0000004"] * (place == "model")
    assert not list(tmp_path.glob("model/.*")) and not (tmp_path / "model" / "config.json").exists()
    monkeypatch.undo()
    again = settled.fit([task], tmp_path)
    assert len(again.record["losses"]) == 4
    assert Proxy.load(tmp_path / "model").answer_losses(task.pool).isfinite().all()


LIMITED = """
import resource, sys
from pathlib import Path
from icl_plugins.tuning import checkpoints
import torch
def save(step, size):
    one = {"weight": torch.zeros(size)}
    return checkpoints.save(checkpoints.Checkpoint(step, {}, {}, one, {}), Path(sys.argv[1]))
save(1, 10)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
try:
    save(2, 1 << 16)
except Exception as error:
    print(type(error).__name__, error)
assert checkpoints.load_last(Path(sys.argv[1]), {}).step == 1
print(*sorted(path.name for path in Path(sys.argv[1], "checkpoints").iterdir()))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of files")
def test_a_file_that_may_not_grow_is_told(tmp_path):
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ArtefactError cannot write the checkpoint")
    assert done.stdout.splitlines()[-1] == "step-0000001"
