"""Batched per-example gradients are exact: the definition, finite differences, and every batch agree."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import ARCHITECTURES

from icl_plugins.errors import NonFiniteError, SettingError, TooLongError
from icl_plugins.proxy.forward import collate
from icl_plugins.proxy.gradients import gradient_batches, per_example_gradients
from icl_plugins.proxy.model import Proxy


def start_of(proxy, length=3, seed=1):
    return torch.randn(length, proxy.hidden_size, generator=torch.Generator().manual_seed(seed))


def loop_gradients(model, tokenizer, pairs, prefix):
    """The definition: a batch of one, the prefix as a parameter, the loss by the full logits, backward."""
    gradients = []
    for question, answer in zip(pairs.questions, pairs.answers, strict=True):
        ids = torch.tensor([tokenizer(question + answer).input_ids])
        answer_length = len(tokenizer(answer, add_special_tokens=False).input_ids)
        parameter = torch.nn.Parameter(prefix.clone().to(model.dtype))
        embeddings = torch.cat([parameter[None], model.get_input_embeddings()(ids)], dim=1)
        logits = model(inputs_embeds=embeddings).logits[0, -answer_length - 1 : -1]
        torch.nn.functional.cross_entropy(logits, ids[0, -answer_length:], reduction="sum").backward()
        gradients.append(parameter.grad)
    return torch.stack(gradients)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batched_gradients_equal_the_loop(architecture, make_model, tokenizer, make_pairs):
    model, pairs = make_model(architecture).eval(), make_pairs()
    proxy = Proxy.from_model(model, tokenizer)
    prefix = start_of(proxy)
    expected = loop_gradients(model, tokenizer, pairs, prefix)
    got = per_example_gradients(proxy, pairs, prefix)
    assert got.shape == (12, 3, proxy.hidden_size)
    errors, norms = (got - expected).flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1)
    assert (errors <= 1e-5 * norms).all()  # 0 where a sliding window hides the prefix from the answer
    assert norms.max() > 0.1


@pytest.mark.parametrize(
    ("architecture", "dtype", "step", "tolerance"),
    [
        (name, "float64", 1e-5, 1e-6) for name in ("gpt2", "opt", "gpt_neox")
    ]  # the others' norms are float32 inside
    + [(name, "float32", 1e-2, 1e-3) for name in ("llama", "qwen3", "gemma2", "gpt2")],
)
def test_gradients_equal_central_finite_differences(
    architecture, dtype, step, tolerance, make_model, tokenizer, make_pairs
):
    """Along the gradient itself, where the derivative is its norm."""
    pairs = make_pairs(4)
    model = make_model(architecture).to(getattr(torch, dtype))
    proxy = Proxy.from_model(model, tokenizer)
    prefix = start_of(proxy).to(model.dtype)
    gradients = per_example_gradients(proxy, pairs, prefix)
    assert gradients.dtype == model.dtype
    for row in range(4):
        norm = gradients[row].norm()
        direction = gradients[row] / norm * step
        up = losses_in_full_precision(proxy, pairs, prefix + direction)[row]
        down = losses_in_full_precision(proxy, pairs, prefix - direction)[row]
        assert abs((up - down) / (2 * step) - norm) < tolerance * norm


def losses_in_full_precision(proxy, pairs, prefix):
    from icl_plugins.proxy.forward import answer_losses, frozen

    batch = collate(proxy.encode(pairs), proxy.device)
    with frozen(proxy.model), torch.no_grad():
        return answer_losses(proxy.model, batch, prefix.expand(4, -1, -1), slice_head=proxy.slice_head)


def test_the_mean_of_the_gradients_is_the_gradient_of_the_mean_loss(make_model, tokenizer, make_pairs):
    model, pairs = make_model().double(), make_pairs()
    proxy = Proxy.from_model(model, tokenizer)
    prefix = start_of(proxy).double()
    shared = prefix.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for example in proxy.encode(pairs):
        ids = torch.tensor([example.ids])
        embeddings = torch.cat([shared[None], model.get_input_embeddings()(ids)], dim=1)
        log_probs = model(inputs_embeds=embeddings).logits[0].log_softmax(-1)
        for at in range(example.answer_start, example.answer_stop):
            total = total - log_probs[len(prefix) + at - 1, example.ids[at]]
    (total / 12).backward()
    torch.testing.assert_close(per_example_gradients(proxy, pairs, prefix).mean(0), shared.grad)


def test_gradients_do_not_depend_on_batches_or_the_company_of_rows(proxy, make_pairs, make_model, tokenizer):
    pairs = make_pairs(20)
    prefix = start_of(proxy)
    whole = per_example_gradients(proxy, pairs, prefix)
    other = Proxy.from_model(make_model(), tokenizer)
    for budget in (1, 90, 100_000):
        other.budget.tokens = budget
        torch.testing.assert_close(per_example_gradients(other, pairs, prefix), whole, rtol=1e-4, atol=1e-5)
    back = SimpleNamespace(questions=pairs.questions[::-1], answers=pairs.answers[::-1])
    torch.testing.assert_close(
        per_example_gradients(proxy, back, prefix).flip(0), whole, rtol=1e-4, atol=1e-5
    )


def test_only_answer_tokens_are_ever_predicted(proxy, make_pairs):
    """What would be the label of a question's token does not exist, so it cannot change the loss."""
    examples = proxy.encode(make_pairs())
    batch = collate(examples, proxy.device)
    for row, example in enumerate(examples):
        mine = batch.rows == row
        assert batch.targets[mine].tolist() == example.ids[example.answer_start : example.answer_stop]
        assert (batch.positions[mine] + 1).tolist() == list(range(example.answer_start, example.answer_stop))


def test_what_stands_behind_the_answer_does_not_matter(proxy, make_pairs):
    """Right padding and an EOS that a tokenizer may add: later tokens of a causal model."""
    from dataclasses import replace

    examples = proxy.encode(make_pairs(4))
    longer = [replace(example, ids=[*example.ids, 5, 6, 7]) for example in examples]
    prefix = start_of(proxy)
    for (_, plain), (_, padded) in zip(
        gradient_batches(proxy, examples, prefix), gradient_batches(proxy, longer, prefix), strict=True
    ):
        torch.testing.assert_close(plain, padded, rtol=1e-4, atol=1e-5)


def test_only_the_rows_asked_for_are_computed(proxy, make_pairs):
    examples, prefix = proxy.encode(make_pairs()), start_of(proxy)
    examples[7] = None
    computed = dict(
        pair
        for rows, values in gradient_batches(proxy, examples, prefix, np.array([9, 2, 7]))
        for pair in zip(rows, values, strict=True)
    )
    assert sorted(computed) == [2, 9]
    whole = per_example_gradients(proxy, make_pairs(), prefix)
    torch.testing.assert_close(computed[9], whole[9], rtol=1e-4, atol=1e-5)
    assert list(gradient_batches(proxy, examples, prefix, [])) == []


def test_a_skipped_example_has_a_row_of_nan(proxy, make_pairs):
    pairs = make_pairs(2)
    longer = SimpleNamespace(questions=(pairs.questions[0], "my card " * 200), answers=pairs.answers)
    gradients = per_example_gradients(proxy, longer, start_of(proxy), on_too_long="skip")
    assert gradients[0].isfinite().all()
    assert gradients[1].isnan().all()
    with pytest.raises(TooLongError):
        per_example_gradients(proxy, longer, start_of(proxy))


def test_a_prefix_that_cannot_be_used_is_refused(proxy, make_pairs):
    for shape in ((4, 17), (16,), (1, 4, 16), (0, 16)):
        with pytest.raises(SettingError, match="shape"):
            per_example_gradients(proxy, make_pairs(), torch.zeros(shape))
    with pytest.raises(NonFiniteError):
        per_example_gradients(proxy, make_pairs(), torch.full((2, 16), torch.nan))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_come_out_inside_no_grad_and_inference_mode(context, proxy, make_pairs):
    prefix = start_of(proxy)
    expected = per_example_gradients(proxy, make_pairs(), prefix)
    with context():
        assert torch.equal(per_example_gradients(proxy, make_pairs(), prefix), expected)


def test_weights_get_no_gradients_and_the_prefix_stays(proxy, make_pairs):
    prefix = start_of(proxy).requires_grad_()
    before = prefix.detach().clone()
    gradients = per_example_gradients(proxy, make_pairs(), prefix)
    assert not gradients.requires_grad
    assert prefix.grad is None
    assert torch.equal(prefix.detach(), before)
    assert all(weight.grad is None and weight.requires_grad for weight in proxy.model.parameters())
