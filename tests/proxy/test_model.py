"""The proxy's losses are those of the plain language model, whatever the architecture, batch or mode."""

import copy
import hashlib
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import ARCHITECTURES

from icl_plugins.errors import DataError, ProxyError, TooLongError
from icl_plugins.proxy.model import Proxy


def loop_losses(model, tokenizer, pairs, prefix=None):
    """The definition, one example at a time: -log p of the answer's tokens by the full logits."""
    losses = []
    for question, answer in zip(pairs.questions, pairs.answers, strict=True):
        ids = torch.tensor([tokenizer(question + answer).input_ids])
        answer_length = len(tokenizer(answer, add_special_tokens=False).input_ids)
        embeddings = model.get_input_embeddings()(ids)
        if prefix is not None:
            embeddings = torch.cat([prefix[None].to(embeddings.dtype), embeddings], dim=1)
        logits = model(inputs_embeds=embeddings).logits[0, -answer_length - 1 : -1].to(torch.float64)
        losses.append(-logits.log_softmax(-1).gather(1, ids[0, -answer_length:, None]).sum())
    return torch.stack(losses)


def state_hash(model):
    """Everything a caller could notice: weights, their flags and gradients, modes, hooks, config."""
    digest = hashlib.sha256(model.config.to_json_string().encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode() + weight.numpy().tobytes())
    for name, weight in model.named_parameters():
        digest.update(f"{name} {weight.requires_grad} {weight.grad is None}".encode())
    for name, module in model.named_modules():
        hooks = len(module._forward_hooks), len(module._forward_pre_hooks), len(module._backward_hooks)
        digest.update(f"{name} {module.training} {hooks}".encode())
    return digest.hexdigest()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_equal_the_definition(architecture, make_model, tokenizer, make_pairs):
    """Includes: the loss with the prefix removed is the plain language model's."""
    model, pairs = make_model(architecture).eval(), make_pairs()
    proxy = Proxy.from_model(model, tokenizer)
    prefix = torch.randn(3, proxy.hidden_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for start in (None, prefix):
            expected = loop_losses(model, tokenizer, pairs, start).float()
            torch.testing.assert_close(proxy.answer_losses(pairs, start), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_head_runs_on_answer_positions_only(architecture, make_model, tokenizer, make_pairs):
    """Soft-capping (gemma2) and scaling (cohere) of logits included: none needs the full logits."""
    proxy = Proxy.from_model(make_model(architecture), tokenizer)
    assert proxy.slice_head, proxy.reasons["head"]
    seen = []
    head = proxy.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda *call: seen.append(call[2].shape[:-1].numel()))
    pairs = make_pairs(1)
    proxy.answer_losses(pairs)
    hook.remove()
    assert seen == [len(tokenizer(pairs.answers[0], add_special_tokens=False).input_ids)]


def test_a_head_that_is_no_module_call_falls_back_to_full_logits(make_model, tokenizer, proxy, make_pairs):
    model = make_model()
    head = model.lm_head
    model.lm_head = None
    full = Proxy.from_model(FunctionalHead(model.model, head), tokenizer)
    assert not full.slice_head
    assert "all positions" in full.reasons["head"]
    torch.testing.assert_close(full.answer_losses(make_pairs()), proxy.answer_losses(make_pairs()))


class FunctionalHead(torch.nn.Module):
    """A causal language model that multiplies with its head's weight without calling the head."""

    def __init__(self, body, head):
        super().__init__()
        self.body, self.head, self.config = body, head, body.config

    def get_input_embeddings(self):
        return self.body.embed_tokens

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids=None, inputs_embeds=None, **options):
        hidden = self.body(input_ids=input_ids, inputs_embeds=inputs_embeds, use_cache=False)
        return SimpleNamespace(logits=hidden.last_hidden_state @ self.head.weight.T)


class Mixing(torch.nn.Module):
    """A feed-forward part that is causal but not position-wise: it sums over what came before."""

    def __init__(self, width):
        super().__init__()
        self.linear = torch.nn.Linear(width, width)

    def forward(self, hidden):
        return self.linear(hidden).cumsum(dim=1)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "gpt_neox"])
def test_the_last_layers_feed_forward_part_runs_on_answer_positions_only(
    architecture, make_model, tokenizer, make_pairs
):
    model = make_model(architecture)
    (tail,) = Proxy.from_model(model, tokenizer).tail
    assert tail is [module for name, module in model.named_modules() if name.endswith("1.mlp")][0]


def test_a_last_layer_that_mixes_positions_runs_on_all_of_them(make_model, tokenizer, make_pairs):
    model, pairs = make_model(), make_pairs()
    with torch.random.fork_rng(devices=[]):
        model.model.layers[-1].mlp = Mixing(16)
    proxy = Proxy.from_model(model, tokenizer)
    assert proxy.tail == ()
    with torch.no_grad():
        expected = loop_losses(model, tokenizer, pairs).float()
    torch.testing.assert_close(proxy.answer_losses(pairs), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_passes_the_probe_and_comes_near(dtype, make_model, tokenizer, proxy, make_pairs):
    half = Proxy.from_model(make_model().to(dtype), tokenizer)
    assert half.slice_head and half.tail
    torch.testing.assert_close(
        half.answer_losses(make_pairs()), proxy.answer_losses(make_pairs()), rtol=0.1, atol=0.5
    )


def test_losses_do_not_depend_on_batches(make_model, tokenizer, make_pairs):
    proxy, pairs = Proxy.from_model(make_model(), tokenizer), make_pairs(20)
    whole = proxy.answer_losses(pairs)
    for budget in (1, 70, 100_000):
        proxy.budget.tokens = budget
        torch.testing.assert_close(proxy.answer_losses(pairs), whole)


def test_losses_do_not_depend_on_the_tokenizers_padding(make_model, own_tokenizer, proxy, make_pairs):
    own_tokenizer.padding_side, own_tokenizer.pad_token = "left", "</s>"
    changed = Proxy.from_model(make_model(), own_tokenizer)
    assert torch.equal(changed.answer_losses(make_pairs()), proxy.answer_losses(make_pairs()))


def test_out_of_memory_in_the_model_changes_nothing_but_the_budget(make_model, tokenizer, proxy, make_pairs):
    model = make_model()
    starved, pairs = Proxy.from_model(model, tokenizer), make_pairs(20)

    def starve(module, inputs):
        if inputs[0].numel() > 150:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    hook = model.get_input_embeddings().register_forward_pre_hook(starve)
    losses = starved.answer_losses(pairs)
    hook.remove()
    torch.testing.assert_close(losses, proxy.answer_losses(pairs))
    assert starved.token_budget < proxy.token_budget


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_the_callers_model_and_the_random_state_stay_as_they_were(
    architecture, make_model, own_tokenizer, make_pairs
):
    model = make_model(architecture)
    model.train()
    model.get_output_embeddings().eval()  # modes may be mixed
    for index, weight in enumerate(model.parameters()):
        weight.requires_grad_(index % 2 == 0)
    tokenizer_before = own_tokenizer.backend_tokenizer.to_str(), repr(own_tokenizer)
    before = state_hash(model), torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    proxy = Proxy.from_model(model, own_tokenizer)
    proxy.answer_losses(make_pairs())
    proxy.embed(make_pairs().questions)
    proxy.count_tokens(make_pairs().questions)
    assert proxy.fingerprint
    after = state_hash(model), torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert before[0] == after[0]
    assert torch.equal(before[1], after[1])
    assert before[2:] == after[2:]
    assert (own_tokenizer.backend_tokenizer.to_str(), repr(own_tokenizer)) == tokenizer_before


def test_the_model_is_as_it_was_after_an_error_too(make_model, tokenizer, make_pairs):
    model = make_model().train()
    proxy = Proxy.from_model(model, tokenizer)
    before = state_hash(model)
    hook = model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        proxy.answer_losses(make_pairs())
    hook.remove()
    assert state_hash(model) == before


def test_dropout_of_a_model_in_training_mode_is_off(make_model, tokenizer, make_pairs):
    trained = Proxy.from_model(make_model("gpt2").train(), tokenizer)
    resting = Proxy.from_model(make_model("gpt2").eval(), tokenizer)
    assert torch.equal(trained.answer_losses(make_pairs()), resting.answer_losses(make_pairs()))


def test_embeddings_are_means_of_the_last_hidden_states(proxy, tokenizer):
    texts = ["It is great", "my card has not arrived yet", "x"]
    embeddings = proxy.embed(texts)
    assert embeddings.dtype == torch.float32
    with torch.no_grad():
        for text, embedding in zip(texts, embeddings, strict=True):
            hidden = proxy.model.model(torch.tensor([tokenizer(text).input_ids])).last_hidden_state
            torch.testing.assert_close(embedding, hidden[0, 1:].mean(0))


def test_embeddings_refuse_what_has_no_tokens_or_too_many(proxy):
    long = "my card has not arrived yet " * 100
    with pytest.raises(DataError, match=r"rows \[1\]"):
        proxy.embed(["a", ""])
    with pytest.raises(TooLongError, match=r"rows 1 \("):
        proxy.embed(["a", long])
    assert proxy.embed(["a", long], on_too_long="truncate").isfinite().all()
    assert proxy.embed([]).shape[0] == 0


def test_a_skipped_example_has_no_loss_and_the_others_keep_theirs(proxy, make_pairs):
    pairs = make_pairs(4)
    longer = SimpleNamespace(
        questions=(*pairs.questions[:2], "my card " * 200, *pairs.questions[2:]),
        answers=(*pairs.answers[:2], " x", *pairs.answers[2:]),
    )
    losses = proxy.answer_losses(longer, on_too_long="skip")
    assert losses[2].isnan()
    torch.testing.assert_close(losses[[0, 1, 3, 4]], proxy.answer_losses(pairs))
    with pytest.raises(TooLongError):
        proxy.answer_losses(longer)


def test_room_for_the_prefix_counts(proxy, make_pairs):
    pairs = make_pairs(1)
    length = len(proxy.encode(pairs)[0].ids)
    assert proxy.encode(pairs, prefix_length=proxy.max_length - length)
    with pytest.raises(TooLongError, match=f"at most {length - 1} tokens"):
        proxy.encode(pairs, prefix_length=proxy.max_length - length + 1)


def test_an_answer_with_nothing_in_front_is_refused_without_a_prefix(make_model, own_tokenizer):
    from tokenizers import processors

    own_tokenizer.backend_tokenizer.post_processor = processors.ByteLevel()
    proxy = Proxy.from_model(make_model(), own_tokenizer)
    pairs = SimpleNamespace(questions=("",), answers=("great",))
    with pytest.raises(DataError, match="in front of the answer"):
        proxy.answer_losses(pairs)
    assert proxy.answer_losses(pairs, torch.zeros(2, proxy.hidden_size)).isfinite()


def test_an_encoder_is_refused(tokenizer):
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(
        vocab_size=330,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]), pytest.raises(ProxyError, match="causal|padding"):
        Proxy.from_model(BertLMHeadModel(config), tokenizer)


def test_a_model_that_reads_the_token_it_predicts_is_refused(make_model, tokenizer):
    class Peeking(FunctionalHead):
        def forward(self, input_ids=None, inputs_embeds=None, **options):
            if inputs_embeds is None:
                inputs_embeds = self.get_input_embeddings()(input_ids)
            return super().forward(inputs_embeds=inputs_embeds + inputs_embeds.roll(-1, dims=1))

    model = make_model()
    with pytest.raises(ProxyError, match="not causal"):
        Proxy.from_model(Peeking(model.model, model.lm_head), tokenizer)


def test_a_model_that_takes_no_embeddings_is_refused(make_model, tokenizer):
    class IdsOnly(FunctionalHead):
        def forward(self, input_ids, **options):
            return super().forward(input_ids=input_ids)

    model = make_model()
    with pytest.raises(ProxyError, match="cannot be run on embeddings"):
        Proxy.from_model(IdsOnly(model.model, model.lm_head), tokenizer)


def test_a_model_without_head_offloaded_or_too_small_is_refused(make_model, tokenizer):
    with pytest.raises(ProxyError, match="no language-model head|no input embeddings"):
        Proxy.from_model(make_model().model, tokenizer)
    with pytest.raises(ProxyError, match="meta"):
        Proxy.from_model(make_model().to("meta"), tokenizer)
    with pytest.raises(ProxyError, match="ids up to 329, the model only 100"):
        Proxy.from_model(make_model(vocab_size=100), tokenizer)


def test_the_fingerprint_tells_weights_config_and_tokenizer_apart(
    make_model, tokenizer, own_tokenizer, proxy
):
    same = Proxy.from_model(make_model(), tokenizer).fingerprint
    assert same == proxy.fingerprint
    model = copy.deepcopy(proxy.model)
    with torch.no_grad():
        model.model.norm.weight[3] += 1e-6
    assert Proxy.from_model(model, tokenizer).fingerprint["weights"] != same["weights"]
    other_config = Proxy.from_model(make_model(rms_norm_eps=1e-3), tokenizer).fingerprint
    assert other_config["weights"] != same["weights"]
    own_tokenizer.add_tokens(["<new>"])
    assert (
        Proxy.from_model(make_model(vocab_size=331), own_tokenizer).fingerprint["tokenizer"]
        != same["tokenizer"]
    )


@pytest.mark.parametrize("name", [None, 3, "", b"micro"])
def test_what_is_no_name_is_refused_as_a_proxy(name):
    with pytest.raises(ProxyError, match="as a proxy"):
        Proxy.load(name)


def test_a_folder_may_be_given_as_a_path(make_model, tokenizer, tmp_path):
    make_model().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert Proxy.load(tmp_path).name == str(tmp_path)
    with pytest.raises(ProxyError, match="no folder"):
        Proxy.load(tmp_path / "nonesuch")
