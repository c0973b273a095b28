"""A state against the plain model: scores, written texts, streams, and a model that stays as it came."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from thinking_tools import LABELS, make_prompt, make_proxy, plain_score, queries
from tiny_models import FAMILIES

from icl_plugins import DeepThinking, Proxy, Template
from icl_plugins.errors import DataError, NonFiniteError, SettingError, TemplateError, TooLongError
from icl_plugins.evaluation.evaluate import evaluate
from icl_plugins.evaluation.local import LocalTarget
from icl_plugins.examples import Pool
from icl_plugins.thinking.generating import generator_of


def fit(proxy, prompt, steps=3, **settings):
    return DeepThinking(proxy, steps=steps, **{"step_size": 0.1, **settings}).fit(prompt)


@torch.no_grad()
def written_by_hand(state, query, count):
    """The likeliest token, one by one, behind a fresh copy of the state's keys and values."""
    proxy = state.proxy
    (ids,) = state.target.texts.tokens(state.messages([query]))
    cache, written = state.prefix.cache(), []
    feed = ids[len(state.ids) :]
    for _ in range(count):
        logits = proxy.model(input_ids=torch.tensor([feed]), past_key_values=cache, use_cache=True).logits
        feed = [int(logits[0, -1].argmax())]
        written += feed
        if feed[0] == proxy.tokenizer.eos_token_id:
            break
    return written


@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_is_plain_in_context_learning(proxy_of, prompt, family):
    proxy = proxy_of(family)
    state = fit(proxy, prompt, steps=1)
    scores = state.score(queries(), LABELS)
    assert (scores.shape, scores.dtype) == ((3, 3), torch.float32)
    for row, query in enumerate(queries()):
        expected = [plain_score(proxy, prompt.text(query), f" {label}") for label in LABELS]
        torch.testing.assert_close(scores[row], torch.tensor(expected), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_behind_a_state_are_those_written_by_hand(proxy_of, prompt, family):
    """Queries of several lengths at once, one of them longer than the prompt itself."""
    proxy = proxy_of(family)
    state = fit(proxy, prompt)
    asked = [*queries(), {"text": " ".join(["card"] * 2 * len(state.ids))}]
    texts = state.generate(asked, max_new_tokens=7, stop=())
    decode = state.target.texts.answer
    assert texts == [decode(written_by_hand(state, query, 7)) for query in asked]


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "bloom"])
def test_one_step_writes_what_transformers_writes_behind_the_whole_prompt(proxy_of, prompt, family):
    proxy = proxy_of(family)
    state = fit(proxy, prompt, steps=1)
    for beams in (1, 3):
        for query in queries():
            (ids, _) = proxy.encoder.tokenize([prompt.text(query)])[0]
            whole = torch.tensor([ids])
            expected = proxy.model.generate(
                whole, attention_mask=torch.ones_like(whole), max_new_tokens=6, num_beams=beams,
                do_sample=False, pad_token_id=0,
            )[0, len(ids) :]  # fmt: skip
            (text,) = state.generate([query], max_new_tokens=6, num_beams=beams, stop=())
            assert text == state.target.texts.answer(expected.tolist())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_scores_what_single_queries_score(proxy_of, prompt, family):
    state = fit(proxy_of(family), prompt)
    alone = torch.cat([state.score([query], LABELS) for query in queries(5)])
    torch.testing.assert_close(state.score(queries(5), LABELS), alone, rtol=1e-4, atol=1e-4)
    own = [LABELS[row % 2 : row % 2 + 2] for row in range(5)]
    picked = torch.stack([alone[row, row % 2 : row % 2 + 2] for row in range(5)])
    torch.testing.assert_close(state.score(queries(5), own), picked, rtol=1e-4, atol=1e-4)


def test_thinking_changes_what_is_scored(proxy_of, prompt):
    once, thought = (fit(proxy_of(), prompt, steps=steps).score(queries(), LABELS) for steps in (1, 4))
    assert (once - thought).abs().max() > 1e-3


def test_several_texts_of_a_query_stand_side_by_side(proxy_of, prompt):
    state = fit(proxy_of(), prompt)
    given = {"max_new_tokens": 5, "do_sample": True, "num_return_sequences": 3, "stop": ()}
    texts = state.generate(queries(2), seed=1, **given)
    assert len(texts) == 6
    assert texts == state.generate(queries(2), seed=1, **given)
    assert texts != state.generate(queries(2), seed=2, **given)
    assert len(set(texts[:3])) > 1
    beams = state.generate(queries(2), max_new_tokens=5, num_beams=3, num_return_sequences=2, stop=())
    assert beams[:2] == state.generate(
        queries(1), max_new_tokens=5, num_beams=3, num_return_sequences=2, stop=()
    )


@pytest.mark.parametrize("stop", [(), ("e",), ("ar", "x")])
def test_a_stream_is_the_text_and_never_shows_a_stop(proxy_of, prompt, stop):
    state = fit(proxy_of("gpt2"), prompt)
    for query in queries(4):
        pieces = list(state.stream(query, max_new_tokens=12, stop=stop))
        (text,) = state.generate([query], max_new_tokens=12, stop=stop)
        assert "".join(pieces) == text
        assert all(pieces)
        assert not any(one in text for one in stop)


def test_answers_end_at_the_separator_by_default(proxy_of):
    prompt = make_prompt(template=Template(question="{text}", answer=" {label}", separator="no"))
    state = fit(proxy_of("gpt2"), prompt)
    texts = state.generate(queries(4), max_new_tokens=20)
    whole = state.generate(queries(4), max_new_tokens=20, stop=())
    assert any("no" in text for text in whole)
    assert texts == [text.partition("no")[0] for text in whole]


def test_the_space_in_front_of_an_answer_is_no_separator():
    """With a space as separator, micro's " card_arrival" would end before it began."""
    prompt = make_prompt(6, template=Template(question="{text} ->", answer=" {label}", separator=" "))
    texts = DeepThinking("micro", steps=1).fit(prompt).generate(queries(3), max_new_tokens=12)
    assert all(text.strip() for text in texts)
    assert all(" " not in text.strip() for text in texts)


def test_a_separator_inside_answers_does_not_end_them(proxy_of):
    prompt = make_prompt(template=Template(question="{text}", answer=" {label} ok e", separator="e"))
    state = fit(proxy_of("gpt2"), prompt)
    whole = state.generate(queries(4), max_new_tokens=20, stop=())
    assert any("e" in text for text in whole)
    assert state.generate(queries(4), max_new_tokens=20) == whole


def test_an_end_token_that_is_plain_text_is_no_part_of_the_answer(proxy_of, prompt):
    state = fit(proxy_of(), prompt)
    (text,) = state.generate(queries(1), max_new_tokens=6, stop=())
    tokens = state.proxy.tokenizer(text, add_special_tokens=False).input_ids
    end = next(token for token in tokens[1:] if token != tokens[0])
    (cut,) = state.generate(queries(1), max_new_tokens=6, stop=(), eos_token_id=end)
    assert text.startswith(cut)
    assert state.proxy.tokenizer.decode([end]) not in cut


def test_a_stream_that_is_left_ends_its_writing(proxy_of, prompt):
    state = fit(proxy_of(), prompt)
    before = threading.active_count()
    stream = state.stream(queries()[0], max_new_tokens=200, stop=())
    next(stream)
    stream.close()
    assert threading.active_count() == before


def test_errors_of_a_stream_reach_the_caller(proxy_of, prompt, monkeypatch):
    state = fit(proxy_of(), prompt)
    monkeypatch.setattr(state.proxy.model, "generate", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(state.stream(queries()[0]))


def test_many_threads_get_what_one_gets(proxy_of, prompt):
    states = [fit(proxy_of(), prompt, steps=steps) for steps in (1, 4)]
    asked = [(query, state) for query in queries(8) for state in states]

    def ask(pair):
        query, state = pair
        return state.generate([query], max_new_tokens=5), state.score([query], LABELS)

    expected = [ask(pair) for pair in asked]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask, asked))
    assert [texts for texts, _ in found] == [texts for texts, _ in expected]
    torch.testing.assert_close([scores for _, scores in found], [scores for _, scores in expected])


def test_a_stream_in_progress_disturbs_nobody(proxy_of, prompt):
    """While one answer is written, others fit, score, and run the model plainly."""
    proxy = proxy_of("qwen2")
    state = fit(proxy, prompt)
    whole = torch.tensor([[*state.ids, 5, 6, 7]])

    def all_of_it():
        with torch.no_grad():
            logits = proxy.model(input_ids=whole, use_cache=False).logits
        other = Proxy.from_model(proxy.model, proxy.tokenizer).shared_prefix.way
        return (
            logits,
            fit(proxy, prompt).layers,
            state.target.score(state.messages(queries(1)), [LABELS]),
            other,
        )

    expected = all_of_it()
    for _ in range(5):
        stream = state.stream(queries()[0], max_new_tokens=80, stop=())
        next(stream)
        found = all_of_it()
        stream.close()
        torch.testing.assert_close(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1])
        assert found[2][0].scores == pytest.approx(expected[2][0].scores, rel=1e-5)
        assert found[3] == expected[3]
    assert proxy.model.config._attn_implementation == "sdpa"


def test_threads_that_fit_score_and_write_do_not_disturb_each_other(proxy_of, prompt):
    proxy = proxy_of("qwen2")
    state = fit(proxy, prompt)
    work = [
        lambda: state.generate(queries(2), max_new_tokens=6),
        lambda: fit(proxy, prompt).score(queries(2), LABELS).tolist(),
        lambda: proxy.model(input_ids=torch.tensor([state.ids]), use_cache=False).logits.sum().item(),
    ]
    expected = [one() for one in work]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda at: work[at % 3](), range(30)))
    for at, value in enumerate(found):
        if at % 3:
            torch.testing.assert_close(
                torch.tensor(value), torch.tensor(expected[at % 3]), rtol=1e-4, atol=1e-3
            )
        else:
            assert value == expected[0]
    assert proxy.model.config._attn_implementation == "sdpa"


def test_samples_of_two_models_at_once_are_those_of_each_alone(proxy_of, prompt):
    states = [fit(proxy_of(family), prompt) for family in ("llama", "qwen2")]
    given = {"max_new_tokens": 8, "do_sample": True, "stop": ()}
    asked = [(state, seed) for seed in range(6) for state in states]
    expected = [state.generate(queries(1), seed=seed, **given) for state, seed in asked]
    with ThreadPoolExecutor(4) as pool:
        assert (
            list(pool.map(lambda one: one[0].generate(queries(1), seed=one[1], **given), asked)) == expected
        )


def test_scoring_keeps_no_copy_of_the_prefix(proxy_of, prompt):
    state = fit(proxy_of(), prompt)
    state.score(queries(1), LABELS)
    state.score(queries(3), LABELS)
    assert state.target._state is state.prefix


def test_large_logits_of_half_precision_keep_the_prefix_shared(tokenizer):
    proxy = make_proxy("llama", tokenizer)
    model = proxy.model.to(torch.bfloat16)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(60)
    assert generator_of(Proxy.from_model(model, tokenizer)).way == "shared"


def test_an_empty_question_is_told(proxy_of):
    prompt = make_prompt(template=Template(question="{text}", answer=" {label}", separator="\n\n"))
    state = fit(proxy_of(), prompt)
    for ask in (lambda: state.score([{"text": ""}], LABELS), lambda: state.generate([{"text": ""}])):
        with pytest.raises(DataError, match="not empty"):
            ask()


def test_the_model_stays_as_it_came(tokenizer, prompt):
    proxy = make_proxy("llama", tokenizer)
    model = proxy.model.train()
    model.gradient_checkpointing_enable()
    model.generation_config.update(cache_implementation="static", max_length=3, do_sample=True)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config, settings = copy.deepcopy(model.config.to_dict()), model.generation_config.to_dict()
    random = torch.random.get_rng_state()
    state = fit(proxy, prompt)
    first = (state.score(queries(), LABELS), state.generate(queries(), do_sample=True, seed=3))
    second = (state.score(queries(), LABELS), state.generate(queries(), do_sample=True, seed=3))
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1]
    assert model.training
    assert all(module.training for module in model.modules())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert (model.config.to_dict(), model.generation_config.to_dict()) == (config, settings)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(torch.random.get_rng_state(), random)


def test_training_mode_and_checkpointing_change_no_state(tokenizer, proxy_of, prompt):
    proxy = make_proxy("gpt2", tokenizer)  # with dropout
    proxy.model.train()
    proxy.model.gradient_checkpointing_enable()
    expected = fit(proxy_of("gpt2"), prompt)
    for found, layer in zip(fit(proxy, prompt).layers, expected.layers, strict=True):
        torch.testing.assert_close(found, layer)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_keeps_its_state_in_float32(tokenizer, dtype):
    prompt = make_prompt(6)
    exact, half = (
        fit(Proxy.load("micro", dtype=name), prompt, steps=6, step_size=0.05) for name in ("float32", dtype)
    )
    assert {part.dtype for layer in half.layers for part in layer} == {torch.float32}
    assert {part.dtype for layer in half.prefix.layers for part in layer} == {half.proxy.dtype}
    scores = half.score(queries(), LABELS)
    torch.testing.assert_close(scores, exact.score(queries(), LABELS), rtol=0.05, atol=0.5)


def test_the_prefix_is_there_once_for_a_batch(proxy_of, prompt, monkeypatch):
    """What is written into the cache of a batch is the queries' own."""
    state, held = fit(proxy_of(), prompt), []
    forward = type(state.proxy.model).forward

    def watched(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        held.append(kwargs["past_key_values"].layers[0].keys.shape)
        return output

    generator_of(state.proxy)
    monkeypatch.setattr(type(state.proxy.model), "forward", watched)
    state.generate(queries(3), max_new_tokens=3, stop=())
    assert held[0][0] == 3
    assert max(shape[2] for shape in held) < len(state.ids)


def test_evaluation_reads_a_state_as_a_target(proxy_of, prompt):
    state = fit(proxy_of(), prompt)
    items = Pool.from_records(
        [
            {"text": f"{query['text']} {row}", "label": LABELS[row % 3]}
            for row, query in enumerate(queries(6))
        ],
        prompt.template,
    )
    found = evaluate(prompt, items, state.target, choices=LABELS)
    best = state.score(items.examples, LABELS).argmax(1).tolist()
    assert [one.strip() for one in found.predictions] == [LABELS[at] for at in best]
    assert state.target.fingerprint != LocalTarget(state.proxy).fingerprint
    with pytest.raises(DataError, match="are those of the state"):
        state.target.score([[{"role": "user", "content": "another prompt"}]], [LABELS])


@pytest.mark.parametrize("question", ["{text}", "Query: {text}\nIntent:"])
@pytest.mark.parametrize("separator", ["\n\n", "\n", " ", "###"])
@pytest.mark.parametrize("text", ["\n\nx", " x", "x", "!", "中", "##"])
def test_whatever_is_asked_stands_behind_the_same_tokens(proxy_of, question, separator, text):
    template = Template(question=question, answer=" {label}", separator=separator)
    state = fit(proxy_of(), make_prompt(template=template), steps=1)
    expected = plain_score(state.proxy, state.prompt.text({"text": text}), " card_arrival")
    assert float(state.score([{"text": text}], ["card_arrival"])) == pytest.approx(expected, rel=1e-3)


def test_a_chat_state_reads_what_the_template_writes(prompt):
    proxy = Proxy.load("micro")
    state = fit(proxy, replace(prompt, instruction="Name the intent."), steps=1, layout="turns")
    plain = LocalTarget(proxy, layout="turns")
    expected = plain.score([state.prompt.messages(one) for one in queries()], [list(LABELS)] * 3)
    found = state.score(queries(), LABELS)
    torch.testing.assert_close(found, torch.tensor([one.scores for one in expected]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda state: state.score(queries(), []), SettingError, "choices"),
        (lambda state: state.score(queries(), "label"), SettingError, "one list of texts for each"),
        (lambda state: state.score(queries(2), [["a"], ["a", "b"]]), SettingError, "all of one length"),
        (lambda state: state.score([{"word": "x"}], LABELS), TemplateError, "text"),
        (lambda state: state.score([{"text": "card " * 600}], LABELS), TooLongError, "at most 512 tokens"),
        (lambda state: state.generate(queries(), max_new_tokens=500), TooLongError, "max_tokens"),
        (lambda state: state.generate(queries(), max_new_tokens=0), SettingError, "max_new_tokens"),
        (lambda state: state.generate(queries(), max_length=9), SettingError, "max_new_tokens"),
        (lambda state: state.generate(queries(), past_key_values=None), SettingError, "past_key_values"),
        (lambda state: state.generate(queries(), cache_implementation="quantized"), SettingError, "cache"),
        (lambda state: state.generate(queries(), num_return_sequences=2), SettingError, "num_return"),
        (lambda state: state.generate(queries(), temperature="hot"), SettingError, "temperature"),
        (lambda state: state.generate(queries(), stop="\n"), SettingError, "list of texts"),
        (lambda state: list(state.stream(queries()[0], num_beams=2)), SettingError, "for a stream"),
    ],
)
def test_wrong_calls_are_refused_before_the_model_runs(proxy_of, prompt, call, error, message, monkeypatch):
    state = fit(proxy_of(), prompt)
    assert state.target
    monkeypatch.setattr(type(state.proxy.model), "forward", lambda *args, **kwargs: pytest.fail("ran"))
    with pytest.raises(error, match=message):
        call(state)


def test_scores_that_are_no_numbers_are_no_scores(tokenizer, prompt):
    proxy = make_proxy("llama", tokenizer)
    state = fit(proxy, prompt)
    with torch.no_grad():
        proxy.model.lm_head.weight[3] = torch.nan
    with pytest.raises(NonFiniteError, match="3 queries without scores"):
        state.score(queries(), LABELS)


def test_no_queries_give_no_rows(proxy_of, prompt):
    state = fit(proxy_of(), prompt)
    assert state.score([], LABELS).shape == (0, 3)
    assert state.generate([]) == []
