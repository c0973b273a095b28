"""One pass over many shots: the same losses and gradients as every k-shot prompt on its own."""

import pytest
import torch
from tuning_tools import NAMES, WORDS, all_nats, batch_of, numbers, show

from icl_plugins.proxy.forward import frozen
from icl_plugins.tuning import Weighting
from icl_plugins.tuning.objective import logits_at, nats

PAIRS = [
    (f"Query: {' '.join(WORDS[row : row + 1 + row % 3])}\nIntent:", f" {NAMES[row % 4]}") for row in range(4)
]
MODELS = [
    *[(name, {}) for name in ("llama", "qwen2", "qwen3", "gpt2", "opt", "gpt_neox", "gemma2", "gemma3_text")],
    ("mistral", {"sliding_window": None}),
    ("mistral", {"sliding_window": 16}),
]


def one_pass(model, sequence, weighting):
    batch = batch_of(sequence, weighting=weighting)
    return nats(logits_at(model, batch), batch), batch


def k_shot(model, sequence, k, ends=False):
    """The loss of answer k behind the k examples before it, in a sequence that ends there."""
    start, stop = sequence.answers[k]
    return all_nats(model, sequence.ids[: stop + ends])[start : stop + ends].sum()


@pytest.mark.parametrize(("family", "overrides"), MODELS)
@pytest.mark.parametrize("ends", [False, True])
def test_one_pass_gives_the_loss_of_every_k_shot_prompt(proxy_of, family, overrides, ends):
    proxy = proxy_of(family, **overrides)
    sequence = show(proxy.encoder, PAIRS)
    assert len({stop - start for start, stop in sequence.answers}) > 1
    with frozen(proxy.model), torch.no_grad():
        found, batch = one_pass(proxy.model, sequence, Weighting(ends=ends))
        for k, (start, stop) in enumerate(sequence.answers):
            mine = (batch["positions"] + 1 >= start) & (batch["positions"] + 1 < stop + ends)
            expected = k_shot(proxy.model, sequence, k, ends)
            torch.testing.assert_close(found[mine].sum(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("family", "overrides"), MODELS)
def test_gradients_are_those_of_the_k_shot_prompts_together(make_model, proxy_of, family, overrides):
    model = make_model(family, **overrides).eval().double()
    sequence = show(proxy_of().encoder, PAIRS)
    found, _ = one_pass(model, sequence, Weighting(ends=False))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    one = torch.autograd.grad(found.sum(), weights)
    several = torch.autograd.grad(sum(k_shot(model, sequence, k) for k in range(len(PAIRS))), weights)
    scale = max(float(gradient.abs().max()) for gradient in several)
    for mine, other in zip(one, several, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6 * scale)


def slow(model, sequences, weighting):
    """The definition, answer by answer: (sum of weighted losses, sum of weights)."""
    total = weights = 0.0
    for sequence in sequences:
        for k, (start, stop) in enumerate(sequence.answers):
            losses = all_nats(model, sequence.ids)[start : stop + weighting.ends]
            weight = weighting.positions[min(k, len(weighting.positions) - 1)] * sequence.factors[k]
            if weighting.unit == "answer":
                total, weights = total + weight * losses.mean(), weights + weight
            else:
                total, weights = total + weight * losses.sum(), weights + weight * len(losses)
    return float(total), float(weights)


@pytest.mark.parametrize("unit", ["token", "answer"])
@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("positions", [(1.0,), (0.0, 1.0), (4.0, 2.0, 0.5)])
def test_weights_are_what_they_say(proxy_of, unit, ends, positions):
    proxy = proxy_of()
    weighting = Weighting(unit=unit, ends=ends, positions=positions)
    sequences = [show(proxy.encoder, PAIRS), show(proxy.encoder, PAIRS[1:3], factor=2.5)]
    with frozen(proxy.model), torch.no_grad():
        batch = batch_of(*sequences, weighting=weighting)
        found = (nats(logits_at(proxy.model, batch), batch) * batch["weights"]).sum()
        total, weights = slow(proxy.model, sequences, weighting)
    assert float(batch["weights"].sum()) == pytest.approx(weights, rel=1e-5)
    assert float(found) == pytest.approx(total, rel=1e-5)


def test_long_answers_count_more_by_token_and_the_same_by_answer(proxy_of):
    proxy = proxy_of()
    means = {}
    for unit in ("token", "answer"):
        weighting = Weighting(unit=unit, ends=False)
        with frozen(proxy.model), torch.no_grad():
            losses, batch = one_pass(proxy.model, show(proxy.encoder, PAIRS), weighting)
        means[unit] = float((losses * batch["weights"]).sum() / batch["weights"].sum())
    assert abs(means["token"] - means["answer"]) > 1e-3
    assert means["token"] == pytest.approx(float(losses.mean()), rel=1e-5)


def test_text_weighs_every_token_as_much_as_its_task(proxy_of):
    encoder = proxy_of().encoder
    sequence = show(encoder, PAIRS, factor=2.5)
    assert Weighting(targets="text").of(sequence).tolist() == [0.0] + [2.5] * (len(sequence.ids) - 1)
    assert Weighting().of(numbers(7)).tolist() == [0.0] + [1.0] * 6


def test_no_weight_goes_to_a_token_behind_nothing():
    assert Weighting().of(numbers(6, answers=[(0, 2), (4, 5)])).tolist() == [0.0, 1.0, 1.0, 0.0, 1.0, 1.0]
