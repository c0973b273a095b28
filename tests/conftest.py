"""Tiny random models and a tokenizer trained on the spot: no network, no files, milliseconds."""

from types import SimpleNamespace

import pytest

LINES = [
    "Query: my card has not arrived yet\nIntent: card_arrival",
    "Query: what is the exchange rate today\nIntent: exchange_rate",
    "Query: I lost my phone, what now?\nIntent: lost_or_stolen_phone",
    "A gripping film. It is great",
    "Two hours I will never get back. It is terrible",
]
SIZES = {
    "vocab_size": 330,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 24,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
ARCHITECTURES = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": 16},
    "qwen2": {},
    "qwen3": {},
    "gemma2": {"sliding_window": 16, "final_logit_softcapping": 2.0},
    "gemma3_text": {"sliding_window": 16},
    "gpt2": {"resid_pdrop": 0.1},
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 12},
    "gpt_neox": {},
    "bloom": {},
    "cohere": {"logit_scale": 0.5},
}


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE tokenizer of 330 tokens that puts <s> in front of every text; no pad token."""
    return _tokenizer()


@pytest.fixture
def own_tokenizer():
    """The same tokenizer, for a test that changes it."""
    return _tokenizer()


def _tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZES["vocab_size"],
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(LINES * 3, trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{"bos_token": "<s>", "eos_token": "</s>"})


@pytest.fixture(scope="session")
def make_model():
    """Return a factory: architecture name, and config overrides -> a tiny random model, seeded."""

    def make(architecture="llama", seed=0, **overrides):
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(architecture, **{**SIZES, **ARCHITECTURES[architecture], **overrides})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(config)

    return make


@pytest.fixture(scope="session")
def proxy(make_model, tokenizer):
    """A tiny random Llama as a Proxy (hidden size 16, 128 positions)."""
    from icl_plugins.proxy.model import Proxy

    return Proxy.from_model(make_model(), tokenizer, name="tiny")


@pytest.fixture(scope="session")
def make_pairs():
    """Return a factory of what a proxy reads of a pool: n rendered questions and answers, mixed lengths."""

    def make(n=12):
        words = LINES[0].split() + LINES[1].split()
        questions = [
            f"Query: {' '.join(words[row % 5 : row % 5 + 2 + row % 7])} {row}\nIntent:" for row in range(n)
        ]
        labels = ("card_arrival", "exchange_rate", "lost_or_stolen_phone")
        answers = [f" {labels[row % 3]}" for row in range(n)]
        return SimpleNamespace(questions=tuple(questions), answers=tuple(answers))

    return make
