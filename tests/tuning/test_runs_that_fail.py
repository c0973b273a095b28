"""Runs that diverge or meet another are told, and nothing good is lost."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tuning_tools import last_checkpoint, settings, steps_of

from icl_plugins import Proxy
from icl_plugins.errors import ArtefactError, StoreLockedError, TuningError
from icl_plugins.progress import progress_to
from icl_plugins.proxy.store.locking import WriterLock
from icl_plugins.tuning import run
from icl_plugins.tuning.watch import risen


@pytest.mark.parametrize("rank", [None, 4])
def test_losses_that_are_no_numbers_end_the_run_with_the_last_good_model(
    proxy_of, task, tmp_path, rank, monkeypatch
):
    nats = run.ManyShotTrainer.compute_loss.__globals__["nats"]
    calls = []

    def broken(*given):
        calls.append(1)
        return nats(*given) * (torch.nan if len(calls) == 4 else 1.0)

    settled = settings(proxy_of(), lora_rank=rank)
    expected = settings(proxy_of(), lora_rank=rank, checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt), progress_to(interrupt_at(3)):
        expected.fit([task], tmp_path / "good")
    monkeypatch.setitem(run.ManyShotTrainer.compute_loss.__globals__, "nats", broken)
    with pytest.raises(TuningError, match=r"loss of step 4 is nan; the model of step 2 is in .*model"):
        settled.fit([task], tmp_path / "bad")
    good, bad = last_checkpoint(tmp_path / "good"), last_checkpoint(tmp_path / "bad")
    assert good.step == bad.step == 2
    for name, weight in good.weights.items():
        assert torch.equal(weight, bad.weights[name])
    saved = Proxy.load(tmp_path / "bad" / "model")
    assert saved.answer_losses(task.pool).isfinite().all()
    if rank is None:
        found = dict(saved.model.named_parameters())
        assert all(torch.equal(weight, found[name]) for name, weight in bad.weights.items())


def interrupt_at(step):
    def listener(stage, done, total):
        if (stage, done) == ("tuning", step):
            raise KeyboardInterrupt

    return listener


def test_a_learning_rate_that_is_far_too_high_ends_the_run(proxy_of, task, tmp_path):
    wild = settings(proxy_of(), steps=20, lora_rank=None, learning_rate=30.0, clip=1e6, checkpoint_every=1)
    with pytest.raises(TuningError, match="training diverged: .*the model of step .*lower learning_rate"):
        wild.fit([task], tmp_path)
    assert (tmp_path / "model" / "model.safetensors").is_file()


def pretend(monkeypatch, losses):
    """Let the steps of a run tell these losses."""
    step_done = run.ManyShotTrainer.step_done

    def told(trainer):
        trainer.loss.fill_(losses[trainer.state.global_step - 1])
        step_done(trainer)

    monkeypatch.setattr(run.ManyShotTrainer, "step_done", told)


def test_losses_that_rise_end_the_run_with_the_checkpoint_before(proxy_of, task, tmp_path, monkeypatch):
    pretend(monkeypatch, [3.0] * 22 + [9.0] * 40)
    settled = settings(proxy_of(), steps=60, rows=1, checkpoint_every=8)
    with pytest.raises(TuningError, match="rose from 3.00 to 8.40 nats by step 40; the model of step 24 "):
        settled.fit([task], tmp_path)
    assert steps_of(tmp_path) == ["step-0000024", "step-0000032"]


def test_tasks_of_unequal_losses_are_no_divergence():
    rng = np.random.default_rng(0)
    for _ in range(200):
        losses = np.where(rng.random(300) < 0.5, rng.normal(1.3, 0.4, 300), rng.normal(5.0, 0.8, 300))
        assert not any(risen(losses[:step]) for step in range(1, 300))


def test_another_stage_may_have_higher_losses(proxy_of, task, tmp_path, monkeypatch):
    pretend(monkeypatch, [3.0] * 20 + [9.0] * 20)
    settled = settings(proxy_of(), steps=20, rows=1, checkpoint_every=40)
    twice = replace(settled, stages=settled.stages * 2)
    assert len(twice.fit([task], tmp_path).record["losses"]) == 40


def test_without_a_checkpoint_nothing_is_kept(proxy_of, task, tmp_path, monkeypatch):
    monkeypatch.setattr(run.np, "isfinite", lambda loss: False)
    with pytest.raises(TuningError, match="there is no checkpoint yet"):
        settings(proxy_of()).fit([task], tmp_path)
    assert not (tmp_path / "model").exists()


def test_a_second_writer_is_refused(proxy_of, task, tmp_path):
    lock = WriterLock(tmp_path / "tuning.lock")
    with pytest.raises(StoreLockedError, match="is being written by process"):
        settings(proxy_of()).fit([task], tmp_path)
    lock.release()
    settings(proxy_of(), steps=1).fit([task], tmp_path)


def test_a_place_that_is_no_folder_is_told(proxy_of, task, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ArtefactError, match="cannot make the folder"):
            settings(proxy_of()).fit([task], out)
