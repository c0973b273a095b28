"""Models, prompts and settings that deep thinking refuses, with what to do instead."""

import pytest
import torch
from thinking_tools import LABELS, make_prompt, make_proxy, plain_score, queries

from icl_plugins import DeepThinking, ManyShotPrompt, Proxy
from icl_plugins.errors import NonFiniteError, ProxyError, SettingError, TooLongError


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"steps": "many"},
        {"step_size": -0.1},
        {"step_size": float("nan")},
        {"step_size": ()},
        {"step_size": "auto"},
        {"momentum": 1.1},
        {"positions": "absolute"},
        {"positions": ()},
        {"max_steps": 0},
        {"folds": 1},
        {"layout": "chat"},
        {"seed": -1},
        {"model": 3},
        {"model": ""},
    ],
)
def test_settings_that_cannot_be_are_named(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        DeepThinking(**wrong)


def test_the_paper_is_a_preset():
    paper = DeepThinking.paper()
    assert (paper.steps, paper.step_size, paper.momentum, paper.positions) == (15, 0.01, 0.9, "reference")


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_frequencies_that_change_beyond_a_length_are_used_up_to_it(make_model, tokenizer, kind):
    rope = {"rope_type": kind, "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 128}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    model = make_model("llama", rope_parameters=rope, max_position_embeddings=512)
    proxy = Proxy.from_model(model.eval(), tokenizer)
    state = DeepThinking(proxy, steps=1).fit(make_prompt(4))
    assert (proxy.max_length, state.proxy.max_length) == (512, 128)
    found = state.score(queries(2), LABELS)
    for row, query in enumerate(queries(2)):
        expected = [plain_score(proxy, state.prompt.text(query), f" {label}") for label in LABELS]
        torch.testing.assert_close(found[row], torch.tensor(expected), rtol=1e-3, atol=1e-3)
    with pytest.raises(TooLongError, match="at most 128 tokens"):
        DeepThinking(proxy, steps=2).fit(make_prompt(12))


def test_a_model_that_keeps_no_cache_is_refused(tokenizer, prompt, monkeypatch):
    proxy = make_proxy("llama", tokenizer)
    forward = type(proxy.model).forward

    def forgetful(self, *args, past_key_values=None, use_cache=None, **kwargs):
        return forward(self, *args, use_cache=False, **kwargs)

    monkeypatch.setattr(type(proxy.model), "forward", forgetful)
    with pytest.raises(ProxyError, match="cannot go on behind keys and values"):
        DeepThinking(proxy, steps=2).fit(prompt)


def test_a_state_space_model_is_refused(tokenizer, prompt):
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(vocab_size=330, hidden_size=16, num_hidden_layers=2, state_size=4)
    with pytest.raises(ProxyError):
        DeepThinking(Proxy.from_model(MambaForCausalLM(config).eval(), tokenizer), steps=2).fit(prompt)


def test_a_prompt_longer_than_the_context_is_refused(tokenizer):
    proxy = make_proxy("llama", tokenizer, max_position_embeddings=64)
    with pytest.raises(TooLongError, match="at most 64 tokens"):
        DeepThinking(proxy, steps=2).fit(make_prompt(30))


def test_a_prompt_without_demonstrations_is_refused(proxy_of, prompt):
    empty = ManyShotPrompt(prompt.template, (), (), "Name the intent.")
    with pytest.raises(SettingError, match="without demonstrations"):
        DeepThinking(proxy_of(), steps=2).fit(empty)


def test_a_chat_layout_without_a_chat_template_is_refused(proxy_of, prompt):
    with pytest.raises(SettingError, match="chat template"):
        DeepThinking(proxy_of(), steps=2, layout="turns").fit(prompt)


def test_steps_that_half_precision_cannot_hold_are_refused():
    prompt = make_prompt(6)
    half = Proxy.load("micro", dtype="float16")
    for settings in ({"steps": 2, "step_size": 1e5}, {"steps": 2, "step_size": (1e5, 0.01)}):
        with pytest.raises(NonFiniteError, match="lower step_size"):
            DeepThinking(half, **settings).fit(prompt)


def test_steps_that_leave_the_numbers_are_refused(proxy_of, prompt):
    with pytest.raises(NonFiniteError, match="lower step_size"):
        DeepThinking(proxy_of(), steps=60, step_size=1e9, momentum=1.0).fit(prompt)


def test_a_quantised_or_static_cache_in_the_folder_of_a_model_is_left_aside(tokenizer, proxy_of, prompt):
    proxy = make_proxy("llama", tokenizer)
    expected = DeepThinking(proxy_of(), steps=2).fit(prompt)
    for kind in ("quantized", "static"):
        proxy.model.generation_config.cache_implementation = kind
        state = DeepThinking(proxy, steps=2).fit(prompt)
        assert state.generate(queries(), max_new_tokens=4) == expected.generate(queries(), max_new_tokens=4)
        assert proxy.model.generation_config.cache_implementation == kind


def test_a_model_on_half_a_context_reads_its_prompt_where_it_stands(tokenizer, prompt):
    length = len(DeepThinking(make_proxy("llama", tokenizer), steps=1).fit(prompt).ids)
    proxy = make_proxy("llama", tokenizer, max_position_embeddings=length + 40)
    state = DeepThinking(proxy, steps=3).fit(prompt)
    assert state.thinking["positions"] == "overlap"
    assert torch.isfinite(state.score(queries(1), LABELS)).all()
