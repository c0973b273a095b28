"""Prefix tuning is AdamW on the mean loss, repeatable, resumable, and gives its gradients away for free."""

import math
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from icl_plugins.artefacts import canonical_json
from icl_plugins.errors import (
    ArtefactError,
    DataError,
    NonFiniteError,
    SettingError,
    StaleStoreError,
    TooLongError,
)
from icl_plugins.progress import progress_to
from icl_plugins.proxy import prefix as prefix_module
from icl_plugins.proxy.curriculum import Curriculum
from icl_plugins.proxy.gradients import per_example_gradients
from icl_plugins.proxy.model import Proxy
from icl_plugins.proxy.prefix import PrefixTuning, tune_prefix


def naive_tuning(model, tokenizer, pairs, settings):
    """The definition: torch's AdamW on the mean over the batch of the answer's summed loss, one by one."""
    generator = torch.Generator().manual_seed(settings.seed)
    width = model.get_input_embeddings().weight.shape[1]
    parameter = torch.nn.Parameter(torch.randn(settings.length, width, generator=generator) * 0.02)
    orders = [
        torch.randperm(len(pairs.questions), generator=generator).tolist() for _ in range(settings.epochs)
    ]
    steps = settings.epochs * math.ceil(len(orders[0]) / settings.batch_size)
    optimizer = torch.optim.AdamW([parameter], betas=(0.9, 0.999), weight_decay=0.0)
    checkpoints, losses, step = [parameter.detach().clone()], [], 0
    for order in orders:
        total = 0.0
        for at in range(0, len(order), settings.batch_size):
            rows, step = order[at : at + settings.batch_size], step + 1
            loss = sum(loss_of(model, tokenizer, pairs, row, parameter) for row in rows)
            optimizer.zero_grad()
            (loss / len(rows)).backward()
            optimizer.param_groups[0]["lr"] = settings.rate(step, steps)
            optimizer.step()
            total += loss.item()
        checkpoints.append(parameter.detach().clone())
        losses.append(total / len(order))
    return torch.stack(checkpoints), losses


def loss_of(model, tokenizer, pairs, row, parameter):
    ids = torch.tensor([tokenizer(pairs.questions[row] + pairs.answers[row]).input_ids])
    answer_length = len(tokenizer(pairs.answers[row], add_special_tokens=False).input_ids)
    embeddings = torch.cat([parameter[None], model.get_input_embeddings()(ids)], dim=1)
    logits = model(inputs_embeds=embeddings).logits[0, -answer_length - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, ids[0, -answer_length:], reduction="sum")


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_checkpoints_and_losses_equal_the_definition(schedule, make_model, tokenizer, make_pairs):
    settings = PrefixTuning(length=3, epochs=3, batch_size=5, learning_rate=0.01, schedule=schedule, seed=4)
    model, pairs = make_model().eval(), make_pairs(12)
    checkpoints, losses = naive_tuning(model, tokenizer, pairs, settings)
    curriculum = tune_prefix(Proxy.from_model(model, tokenizer), pairs, **vars(settings))
    torch.testing.assert_close(curriculum.checkpoints, checkpoints, rtol=1e-3, atol=1e-4)
    assert curriculum.losses == pytest.approx(losses, rel=1e-5)
    assert curriculum.config == vars(settings)


def test_tuning_lowers_the_loss(proxy, make_pairs):
    pairs = make_pairs(12)
    curriculum = tune_prefix(proxy, pairs, epochs=5, batch_size=4, learning_rate=0.05)
    before, after = (proxy.answer_losses(pairs, curriculum.checkpoints[at]).mean() for at in (0, -1))
    assert after < 0.95 * before


def test_checkpoint_zero_is_the_true_start(proxy, make_pairs):
    """Not the state after a first step, as in the published code."""
    curriculum = tune_prefix(proxy, make_pairs(), length=40, epochs=1, seed=7)
    expected = torch.randn(40, 16, generator=torch.Generator().manual_seed(7)) * 0.02
    assert torch.equal(curriculum.checkpoints[0], expected)
    assert curriculum.checkpoints.shape == (2, 40, 16)
    assert not torch.equal(curriculum.checkpoints[0], curriculum.checkpoints[1])
    assert len(curriculum.losses) == 1


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(proxy, make_pairs):
    first, again, other = (
        tune_prefix(proxy, make_pairs(), epochs=2, batch_size=5, seed=s) for s in (3, 3, 4)
    )
    assert torch.equal(first.checkpoints, again.checkpoints)
    assert first.losses == again.losses
    assert first.fingerprint == again.fingerprint
    assert not torch.equal(first.checkpoints, other.checkpoints)


def test_examples_are_shuffled_anew_in_every_epoch(proxy, make_pairs):
    orders = {}
    tune_prefix(
        proxy,
        make_pairs(20),
        epochs=3,
        batch_size=1,
        capture=lambda epoch, rows, _: orders.setdefault(epoch, []).extend(rows),
    )
    assert all(sorted(order) == list(range(20)) for order in orders.values())
    assert len({tuple(order) for order in [*orders.values(), range(20)]}) == 4


def test_a_float64_proxy_is_tuned_in_float64(make_model, tokenizer, make_pairs, proxy):
    precise = tune_prefix(Proxy.from_model(make_model().double(), tokenizer), make_pairs(), epochs=2)
    assert precise.checkpoints.dtype == torch.float64
    ours = tune_prefix(proxy, make_pairs(), epochs=2).checkpoints
    torch.testing.assert_close(precise.checkpoints.float(), ours, rtol=1e-3, atol=1e-4)


def test_the_global_random_state_and_the_model_stay(make_model, tokenizer, make_pairs):
    model = make_model("gpt2").train()
    weights = [weight.detach().clone() for weight in model.parameters()]
    before = torch.get_rng_state()
    tune_prefix(Proxy.from_model(model, tokenizer), make_pairs(), epochs=1)
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert all(torch.equal(was, now) for was, now in zip(weights, model.parameters(), strict=True))
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_online_gradients_are_those_at_the_prefix_of_the_examples_own_step(monkeypatch, proxy, make_pairs):
    pairs, used, captured = make_pairs(12), [], []
    compute = prefix_module.example_gradients

    def record(proxy, examples, prefix):
        used.append(prefix.clone())
        return compute(proxy, examples, prefix)

    monkeypatch.setattr(prefix_module, "example_gradients", record)
    tune_prefix(
        proxy, pairs, epochs=2, batch_size=5, learning_rate=0.05, capture=lambda *call: captured.append(call)
    )
    assert [epoch for epoch, _, _ in captured] == [0, 0, 0, 1, 1, 1]
    assert len(used) == len(captured)
    assert len({prefix.sum().item() for prefix in used}) == 6
    for prefix, (_, rows, gradients) in zip(used, captured, strict=True):
        expected = per_example_gradients(proxy, pairs, prefix)[rows]
        torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-5)


def test_capturing_changes_nothing(proxy, make_pairs):
    plain = tune_prefix(proxy, make_pairs(), epochs=2, batch_size=5)
    online = tune_prefix(proxy, make_pairs(), epochs=2, batch_size=5, capture=lambda *call: None)
    assert torch.equal(plain.checkpoints, online.checkpoints)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop_at", [1, 4, 8])
def test_an_interrupted_run_goes_on_to_the_same_bits(stop_at, proxy, make_pairs, tmp_path):
    """3 steps an epoch: stopped in the first epoch, in the second, and in the last."""
    settings = {"epochs": 3, "batch_size": 5, "learning_rate": 0.05}
    whole = tune_prefix(proxy, make_pairs(), **settings)

    def interrupt(stage, step, steps):
        if step == stop_at:
            raise Interrupted

    with pytest.raises(Interrupted):
        tune_prefix(proxy, make_pairs(), **settings, directory=tmp_path, progress=interrupt)
    steps = []
    with progress_to(lambda stage, step, steps_: steps.append((stage, step, steps_))):
        resumed = tune_prefix(proxy, make_pairs(), **settings, directory=tmp_path)
    assert torch.equal(resumed.checkpoints, whole.checkpoints)
    assert resumed.losses == whole.losses
    assert steps[0] == ("prefix tuning", 3 * ((stop_at - 1) // 3) + 1, 9)
    assert steps[-1] == ("prefix tuning", 9, 9)


def test_a_finished_run_is_read_back_without_a_step(proxy, make_pairs, tmp_path):
    first = tune_prefix(proxy, make_pairs(), epochs=1, directory=tmp_path / "new")
    steps = []
    again = tune_prefix(
        proxy, make_pairs(), epochs=1, directory=tmp_path / "new", progress=lambda *call: steps.append(call)
    )
    assert steps == []
    assert torch.equal(first.checkpoints, again.checkpoints)


def test_the_state_of_another_run_is_refused_by_name(proxy, make_model, tokenizer, make_pairs, tmp_path):
    tune_prefix(proxy, make_pairs(), epochs=1, directory=tmp_path)
    with pytest.raises(StaleStoreError, match=r"config\.seed"):
        tune_prefix(proxy, make_pairs(), epochs=1, seed=1, directory=tmp_path)
    with pytest.raises(StaleStoreError, match=r"fingerprint\.examples"):
        tune_prefix(proxy, make_pairs(11), epochs=1, directory=tmp_path)
    other = Proxy.from_model(make_model(seed=1), tokenizer)
    with pytest.raises(StaleStoreError, match=r"fingerprint\.weights"):
        tune_prefix(other, make_pairs(), epochs=1, directory=tmp_path)


def test_divergence_names_step_and_rows(make_model, tokenizer, make_pairs):
    model, pairs = make_model(tie_word_embeddings=False), make_pairs(12)
    proxy = Proxy.from_model(model, tokenizer)
    rare = tokenizer.encode("~", add_special_tokens=False)[0]
    with torch.no_grad():
        proxy.model.get_input_embeddings().weight[rare] = math.inf
    questions = [*pairs.questions]
    questions[8] = "~ " + questions[8]
    with pytest.raises(NonFiniteError, match=r"step \d, 1 examples \(rows \[8\]\)"):
        tune_prefix(proxy, SimpleNamespace(questions=questions, answers=pairs.answers), batch_size=5)


def test_too_long_examples_follow_the_policy(proxy, make_pairs):
    pairs = make_pairs(4)
    longer = SimpleNamespace(questions=("my card " * 200, *pairs.questions), answers=(" x", *pairs.answers))
    with pytest.raises(TooLongError):
        tune_prefix(proxy, longer, epochs=1)
    seen = []
    tune_prefix(proxy, longer, epochs=1, on_too_long="skip", capture=lambda _, rows, __: seen.extend(rows))
    assert sorted(seen) == [1, 2, 3, 4]


def test_nothing_to_tune_on_is_refused(proxy):
    with pytest.raises(DataError, match="none of which"):
        tune_prefix(proxy, SimpleNamespace(questions=(), answers=()))


@pytest.mark.parametrize(
    "settings",
    [
        {"length": 0},
        {"epochs": 0},
        {"epochs": 1.5},
        {"epochs": True},
        {"batch_size": -1},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"learning_rate": "fast"},
        {"warmup": 1.5},
        {"schedule": "cosine"},
        {"seed": -1},
        {"seed": 2**63},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(SettingError, match=next(iter(settings))):
        PrefixTuning(**settings)


def test_settings_may_be_numpy_numbers():
    numpy = PrefixTuning(
        np.int64(1), np.int32(2), np.uint8(3), np.float32(0.5), np.int64(0), seed=np.int64(4)
    )
    assert canonical_json(asdict(numpy)) == canonical_json(asdict(PrefixTuning(1, 2, 3, 0.5, 0.0, seed=4)))


def test_the_paper_preset():
    paper = PrefixTuning.paper()
    assert (paper.length, paper.epochs, paper.batch_size, paper.learning_rate, paper.warmup) == (
        4,
        10,
        64,
        1e-3,
        0.1,
    )


def test_rates_warm_up_then_stay_or_fall():
    constant = [PrefixTuning(schedule="constant").rate(step, 100) for step in range(1, 101)]
    linear = [PrefixTuning(schedule="linear").rate(step, 100) for step in range(1, 101)]
    assert constant[:10] == sorted(constant[:10]) and 0 < constant[0] < constant[8]
    assert constant[9:] == [1e-3] * 91
    assert linear[:10] == pytest.approx([1e-4 * step for step in range(1, 11)])
    assert linear[10:] == sorted(linear[10:], reverse=True)
    assert linear[10] == pytest.approx(1e-3) and linear[-1] == pytest.approx(1e-3 / 90)
    assert PrefixTuning(warmup=0).rate(1, 100) == 1e-3


def test_a_curriculum_is_saved_and_loaded_whole(proxy, make_pairs, tmp_path):
    curriculum = tune_prefix(proxy, make_pairs(), epochs=2)
    curriculum.save(tmp_path / "curriculum.safetensors")
    loaded = Curriculum.load(tmp_path / "curriculum.safetensors")
    assert torch.equal(loaded.checkpoints, curriculum.checkpoints)
    assert (loaded.losses, loaded.config, loaded.fingerprint) == (
        curriculum.losses,
        curriculum.config,
        curriculum.fingerprint,
    )
    assert set(loaded.fingerprint) == {"weights", "tokenizer", "examples"}


def test_what_is_no_curriculum_is_refused(proxy, make_pairs, tmp_path):
    path = tmp_path / "curriculum.safetensors"
    with pytest.raises(ArtefactError, match="does not exist"):
        Curriculum.load(path)
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(ArtefactError):
        Curriculum.load(path)
    from safetensors.torch import save_file

    save_file({"checkpoints": torch.zeros(2, 3, 4)}, path)
    with pytest.raises(ArtefactError, match="format"):
        Curriculum.load(path)
    tune_prefix(proxy, make_pairs(), epochs=1).save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtefactError):
        Curriculum.load(path)


def test_a_flipped_bit_in_a_curriculum_is_never_read(proxy, make_pairs, tmp_path):
    """Wherever it is: the file is refused, or (in the header's padding) says just what it said."""
    path = tmp_path / "curriculum.safetensors"
    whole = tune_prefix(proxy, make_pairs(), length=1, epochs=1)
    whole.save(path)
    data = path.read_bytes()
    refused = 0
    for at in range(0, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            found = Curriculum.load(path)
        except ArtefactError:
            refused += 1
        else:
            assert torch.equal(found.checkpoints, whole.checkpoints)
            assert (found.losses, found.config) == (whole.losses, whole.config)
    assert refused > 0.95 * len(data) / 3
