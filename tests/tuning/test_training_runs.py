"""A run: goes on where it stopped, leaves the caller's things alone, keeps what it measured."""

import random

import numpy as np
import pytest
import torch
from tuning_tools import PLAIN, last_checkpoint, make_proxy, make_task, numbers, settings

from icl_plugins.errors import SettingError
from icl_plugins.progress import progress_to
from icl_plugins.proxy.model import Proxy
from icl_plugins.tuning import Stage
from icl_plugins.tuning.checkpoints import FOLDER

KINDS = [
    ("llama", {"lora_rank": None}),
    ("llama", {"lora_rank": 4, "kl": 0.1, "plain": 0.4}),
    ("gpt2", {"lora_rank": None}),  # with dropout
    ("gpt2", {"lora_rank": 4, "accumulation": 2}),
]


def stop_at(wanted):
    def listener(stage, done, total):
        if (stage, done) == ("tuning", wanted):
            raise KeyboardInterrupt

    return listener


@pytest.mark.parametrize(("family", "given"), KINDS)
def test_an_interrupted_run_goes_on_bit_by_bit(proxy_of, task, tmp_path, family, given):
    run = settings(proxy_of(family), **given)
    whole = run.fit([task], tmp_path / "whole", text=PLAIN)
    with pytest.raises(KeyboardInterrupt), progress_to(stop_at(4)):
        run.fit([task], tmp_path / "stopped", text=PLAIN)
    assert [path.name for path in (tmp_path / "stopped" / FOLDER).iterdir()] == ["step-0000002"]
    again = run.fit([task], tmp_path / "stopped", text=PLAIN)
    assert again.record["losses"] == whole.record["losses"]
    assert len(set(whole.record["losses"])) == 4
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])
    for name, moment in last_checkpoint(tmp_path / "whole").moments.items():
        assert torch.equal(moment, last_checkpoint(tmp_path / "stopped").moments[name])


def test_a_finished_run_returns_what_it_made(proxy_of, task, tmp_path):
    run, steps = settings(proxy_of()), []
    first = run.fit([task], tmp_path)
    with progress_to(lambda *step: steps.append(step)):
        again = run.fit([task], tmp_path)
    assert not [step for step in steps if step[0] == "tuning"]
    assert again.record == first.record
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])


def test_progress_tells_every_step_and_only_two_checkpoints_stay(proxy_of, task, tmp_path):
    steps = []
    with progress_to(lambda *step: steps.append(step)):
        settings(proxy_of(), checkpoint_every=1).fit([task], tmp_path)
    assert [step for step in steps if step[0] == "tuning"] == [("tuning", done, 4) for done in range(1, 5)]
    assert sorted(path.name for path in (tmp_path / FOLDER).iterdir()) == ["step-0000003", "step-0000004"]
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "model", "adapter", "tuning.lock"}


@pytest.mark.parametrize("rank", [None, 4])
def test_the_loss_falls(proxy_of, task, tmp_path, rank):
    run = settings(proxy_of(), steps=20, rows=1, lora_rank=rank, learning_rate=1e-2, checkpoint_every=100)
    losses = run.fit([task], tmp_path).record["losses"]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5


def test_the_callers_model_and_randomness_stay_as_they_were(tokenizer, task, tmp_path):
    proxy = make_proxy("gpt2", tokenizer)
    proxy.model.train()
    before = {name: weight.clone() for name, weight in proxy.model.state_dict().items()}
    names = [name for name, _ in proxy.model.named_modules()]
    attention = proxy.model.config._attn_implementation
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    for rank in (None, 2):
        settings(proxy, steps=2, lora_rank=rank).fit([task], tmp_path / str(rank))
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()
    assert torch.equal(torch.get_rng_state(), states[2])
    assert proxy.model.config._attn_implementation == attention
    assert [name for name, _ in proxy.model.named_modules()] == names
    assert all(module.training for module in proxy.model.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in proxy.model.parameters())
    for name, weight in before.items():
        assert torch.equal(weight, proxy.model.state_dict()[name])


def test_runs_are_the_same_for_a_seed_and_others_for_another(proxy_of, task, tmp_path):
    losses = [
        settings(proxy_of(), steps=2, seed=seed).fit([task], tmp_path / str(at)).record["losses"]
        for at, seed in enumerate((3, 3, 4))
    ]
    assert losses[0] == losses[1] != losses[2]


def test_gradient_checkpointing_gives_the_same_losses(proxy_of, task, tmp_path):
    for family, rank in (("llama", 4), ("gpt2", None)):
        losses = [
            settings(proxy_of(family), steps=2, rows=1, lora_rank=rank, gradient_checkpointing=on)
            .fit([task], tmp_path / f"{family}-{on}")
            .record["losses"]
            for on in (True, False)
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("rank", [None, 4])
def test_half_precision_trains_and_leaves_a_model_to_ask(proxy_of, task, tmp_path, rank):
    run = settings(proxy_of(), steps=8, lora_rank=rank, precision="bfloat16", learning_rate=1e-2)
    tuned = run.fit([task], tmp_path)
    assert {weight.dtype for weight in tuned.model.parameters() if weight.requires_grad} == {torch.float32}
    losses = tuned.record["losses"]
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    ids = torch.tensor([numbers(20).ids])
    from icl_plugins import Proxy

    with torch.no_grad():
        here = tuned.proxy.model(input_ids=ids).logits
        saved = Proxy.load(tmp_path / "model").model(input_ids=ids).logits
    precise = rank is None
    torch.testing.assert_close(here.float(), saved, rtol=0.05, atol=1e-4 if precise else 0.2)


@pytest.mark.parametrize("rank", [None, 4])
def test_frozen_weights_stay_and_the_others_learn(proxy_of, task, tmp_path, rank):
    proxy = proxy_of()
    before = {name: weight.clone() for name, weight in proxy.model.named_parameters()}
    tuned = settings(proxy, lora_rank=rank, frozen=("layers.0.",)).fit([task], tmp_path)
    merged = dict(Proxy.load(tuned.save(tmp_path / "saved")).model.named_parameters())
    changed = {name for name, weight in merged.items() if not torch.equal(weight, before[name])}
    assert not [name for name in changed if "layers.0." in name]
    assert [name for name in changed if "layers.1." in name]


@pytest.mark.parametrize(("frozen", "message"), [("layer_9", "no weight"), ("model", "the last weight")])
def test_parts_of_names_that_freeze_nothing_or_all_are_refused(proxy_of, task, tmp_path, frozen, message):
    with pytest.raises(SettingError, match=message):
        settings(proxy_of(), frozen=(frozen,)).fit([task], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_curves_are_measured_on_the_way_and_kept(proxy_of, tmp_path):
    task = make_task(size=12)
    proxy = proxy_of(max_position_embeddings=512)
    run = settings(proxy, steps=2, rows=1, evaluate_every=1)
    tuned = run.fit([task], tmp_path, validation=[make_task("seen", 16)])
    curves = tuned.record["curves"]
    assert [(one["task"], one["step"]) for one in curves] == [("seen", 0), ("seen", 1), ("seen", 2)]
    assert [point["shots"] for point in curves[0]["points"]] == [0, 1, 4]
    assert curves[0]["chance"] == 0.25
    assert curves[0] != curves[2] | {"step": 0}
    unmeasured = run.fit([task], tmp_path / "unmeasured")
    assert unmeasured.record["losses"] == tuned.record["losses"]


def test_stages_follow_each_other_in_one_run(proxy_of, task, tmp_path):
    from dataclasses import replace

    other = make_task("other")
    stages = (
        Stage(steps=2, rows=1, context=48, tasks={"intents": 1.0}),
        Stage(steps=3, rows=2, context=96, tasks={"other": 1.0}),
    )
    tuned = replace(settings(proxy_of()), stages=stages).fit([task, other], tmp_path)
    assert len(tuned.record["losses"]) == 5
    assert [one["name"] for one in tuned.record["tasks"]] == ["intents", "other"]
