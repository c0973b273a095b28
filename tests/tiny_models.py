"""Tiny random models of many architectures and a tokenizer trained on the spot."""

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
FAMILIES = {
    **ARCHITECTURES,
    "phi3": {"pad_token_id": 0},
    "gptj": {"rotary_dim": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
}


def tiny_model(architecture="llama", seed=0, **overrides):
    """A random model of the architecture; overrides are config fields."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(architecture, **{**SIZES, **FAMILIES[architecture], **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config)


def tiny_tokenizer():
    """A byte-level BPE tokenizer of 330 tokens that puts <s> in front of every text; no pad token."""
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
