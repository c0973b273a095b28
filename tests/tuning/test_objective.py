"""The loss of a batch: at predictions only, whatever the padding, the accumulation and the adapter."""

import numpy as np
import pytest
import torch
from tuning_tools import PLAIN, batch_of, last_checkpoint, make_drawer, make_proxy, numbers, rngs, settings

from icl_plugins.proxy.forward import frozen
from icl_plugins.tuning import Weighting
from icl_plugins.tuning.objective import divergence, logits_at, nats
from icl_plugins.tuning.rows import collate
from icl_plugins.tuning.trainer import Schedule
from icl_plugins.tuning.weights import kept_randomness, learner

ANSWERED = numbers(30, answers=[(5, 7), (12, 13), (18, 22)])
SHORT = numbers(11, 50, answers=[(3, 5), (8, 10)])


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt", "cohere", "gpt2"])
@torch.no_grad()
def test_logits_at_predictions_are_those_of_the_full_logits(proxy_of, family):
    model = proxy_of(family).model
    batch = batch_of(ANSWERED, SHORT, weighting=Weighting())
    with frozen(model):
        found = logits_at(model, batch)
        full = model(input_ids=batch["input_ids"], use_cache=False).logits
    expected = full[batch["rows"], batch["positions"]]
    assert len(found) == 10 + 6 and found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_head_reads_nothing_but_the_predictions(proxy_of):
    model, seen = proxy_of().model, []
    hook = model.lm_head.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[:2].numel()))
    logits_at(model, batch_of(ANSWERED, weighting=Weighting(ends=False)))
    hook.remove()
    assert seen == [7]


@torch.no_grad()
def test_padding_changes_no_loss(proxy_of):
    model, weighting = proxy_of().model, Weighting()
    with frozen(model):
        batch = batch_of(ANSWERED, SHORT, weighting=weighting)
        together = nats(logits_at(model, batch), batch)[batch["rows"] == 1]
        alone = batch_of(SHORT, weighting=weighting)
        torch.testing.assert_close(together, nats(logits_at(model, alone), alone), rtol=1e-5, atol=1e-5)


def one_step(proxy, task, monkeypatch, tmp_path, grouped, **changed):
    """Losses and gradients (as Adam keeps them) of one step over the same four rows."""
    rows = [make_drawer(proxy.encoder, [task]).row(rng) for rng in rngs(4)]
    batches = [rows[at : at + grouped] for at in range(0, 4, grouped)]
    monkeypatch.setattr(
        "icl_plugins.tuning.rows.Batches.__getitem__",
        lambda self, index: collate(batches[index], self.weighting),
    )
    out = tmp_path / str(grouped)
    run = settings(proxy, steps=1, rows=grouped, accumulation=4 // grouped, clip=1e9, **changed)
    return run.fit([task], out).record["losses"], last_checkpoint(out).moments


@pytest.mark.parametrize("unit", ["token", "answer"])
def test_accumulated_rows_give_the_step_of_one_large_batch(proxy_of, task, monkeypatch, tmp_path, unit):
    given = {"lora_rank": None, "weighting": Weighting(unit=unit)}
    losses, gradients = one_step(proxy_of(), task, monkeypatch, tmp_path, 4, **given)
    others, other_gradients = one_step(proxy_of(), task, monkeypatch, tmp_path, 1, **given)
    assert losses == pytest.approx(others, rel=1e-5)
    scale = max(float(gradient.abs().max()) for name, gradient in gradients.items() if "exp_avg" in name)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, other_gradients[name], rtol=1e-3, atol=1e-5 * scale)


def adapted(tokenizer, family="llama"):
    with kept_randomness(0):
        return learner(settings(make_proxy(family, tokenizer)))


def bend(model, by):
    """Make the adapter say something."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.linspace(-by, by, weight.numel()).view_as(weight))


def test_kl_is_nothing_for_an_untouched_adapter_and_grows_with_it(tokenizer):
    batch = batch_of(ANSWERED, numbers(20, 60), numbers(9, 90), weighting=Weighting())
    one, found = adapted(tokenizer), []
    for by in (0.0, 0.05, 0.2):
        bend(one.model, by)
        found.append(divergence(logits_at(one.model, batch), one.model, batch, one.base()).item())
    assert found[0] == pytest.approx(0.0, abs=1e-5)
    assert 1e-4 < found[1] < found[2]


@torch.no_grad()
def test_kl_is_the_sum_over_tokens_of_plain_text(tokenizer):
    one, plain = adapted(tokenizer), numbers(20, 60)
    bend(one.model, 0.1)
    batch = batch_of(ANSWERED, plain, weighting=Weighting(text=0.0))
    found = divergence(logits_at(one.model, batch), one.model, batch, one.base())
    ids = torch.tensor([plain.ids])
    after = one.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    with one.base():
        before = one.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    slow = sum(float((b.exp() * (b - a)).sum()) for a, b in zip(after, before, strict=True))
    assert float(found) == pytest.approx(slow, rel=1e-4)


def test_kl_asks_the_base_without_dropout_and_leaves_modes_and_gradients(tokenizer):
    one = adapted(tokenizer, "gpt2")
    bend(one.model, 0.1)
    one.model.train()
    batch = batch_of(numbers(20, 60), weighting=Weighting())
    logits = logits_at(one.model, batch)
    first, again = (divergence(logits, one.model, batch, one.base()).item() for _ in range(2))
    assert first == again
    assert all(module.training for module in one.model.modules())
    assert set(one.trained) == {name for name, _ in one.model.named_parameters() if "lora_" in name}


def test_the_gradient_of_kl_reaches_the_adapter_and_not_the_base(tokenizer):
    one = adapted(tokenizer)
    bend(one.model, 0.1)
    batch = batch_of(numbers(20, 60), weighting=Weighting(text=0.0))
    divergence(logits_at(one.model, batch), one.model, batch, one.base()).backward()
    for name, weight in one.model.named_parameters():
        assert (weight.grad is not None) == ("lora_" in name)
    seen = torch.cat([weight.grad.flatten() for weight in one.trained.values()])
    assert seen.any()


def test_a_batch_in_which_nothing_counts_has_no_loss_and_changes_nothing(proxy_of, task, tmp_path):
    weighting = Weighting(text=0.0)
    tuned = settings(proxy_of(), plain=1.0, zero_shot=0.0, weighting=weighting, steps=2).fit(
        [task], tmp_path, text=PLAIN
    )
    assert tuned.record["losses"] == [0.0, 0.0]
    for weight in tuned.model.parameters():
        assert weight.isfinite().all()


def test_kl_holds_the_model_near_the_base(proxy_of, task, tmp_path):
    def drift(kl):
        run = settings(proxy_of(), plain=0.5, kl=kl, steps=8, rows=1, weighting=Weighting(text=0.0))
        tuned = run.fit([task], tmp_path / str(kl), text=PLAIN)
        batch = batch_of(numbers(40, 7), weighting=Weighting())
        with torch.no_grad():
            return float(
                divergence(logits_at(tuned.model, batch), tuned.model, batch, tuned.model.disable_adapter())
            )

    assert drift(20.0) < 0.7 * drift(0.0)


def test_plain_text_weighs_as_much_as_is_said_however_long_it_is(proxy_of, task, tmp_path):
    proxy = proxy_of()
    run = settings(proxy, plain=0.4, steps=1, rows=8, weighting=Weighting(text=0.3, unit="answer"))
    drawer = make_drawer(proxy.encoder, [task], text=PLAIN, plain=0.4, zero_shot=0.1)
    rng = np.random.default_rng([0, 0])
    batch = collate([drawer.row(rng) for _ in range(8)], run.weighting)
    with torch.no_grad():
        losses = nats(logits_at(proxy.model, batch), batch)
    plain, weights = batch["plain"], batch["weights"]
    answers = (losses * weights)[~plain].sum() / weights[~plain].sum()
    found = run.fit([task], tmp_path, text=PLAIN).record["losses"][0]
    assert plain.any() and not plain.all()
    assert found == pytest.approx(float(answers + 0.3 * losses[plain].mean()), rel=1e-5)


def test_the_schedule_rises_holds_and_falls_to_a_hundredth():
    rates = [Schedule(100, 10, 0.5)(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:51] == [1.0] * 41
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[75] == pytest.approx(0.505)
    assert 0.01 < rates[99] < 0.02
    assert Schedule(100, 0, 1.0)(0) == 1.0
