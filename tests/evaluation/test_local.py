"""LocalTarget against plain forwards of whole texts, and everything it refuses."""

import numpy as np
import pytest
import torch

from icl_plugins import ManyShotPrompt, Template
from icl_plugins.errors import DataError, SettingError, TooLongError
from icl_plugins.evaluation.local import LocalTarget
from icl_plugins.evaluation.target import ScoringTarget
from icl_plugins.proxy.model import Proxy

TEMPLATE = Template(question="Query: {text}\nIntent:", answer=" {label}", separator="\n\n")
LABELS = ["card_arrival", "exchange_rate", "card", "lost_or_stolen_phone"]
ITEMS = ["my card", "what is the exchange rate", "I lost it, </s> what now? é", "my car", "7"]
CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ ' ' if m['role'] == 'assistant' else '' }}"
    "{{ m['content'] | trim }}{{ eos_token if m['role'] == 'assistant' else '' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def prompt():
    shots = tuple((f"Query: my text {row}\nIntent:", f" {LABELS[row % 4]}") for row in range(7))
    return ManyShotPrompt(TEMPLATE, shots, tuple({} for _ in shots), instruction="Name the intent.")


@pytest.fixture(scope="module")
def single(prompt):
    return [prompt.messages({"text": text}, "single") for text in ITEMS]


@pytest.fixture
def make_target(make_model, tokenizer):
    def make(architecture="llama", **settings):
        model = make_model(architecture, max_position_embeddings=1024)
        return LocalTarget(Proxy.from_model(model, tokenizer, name="tiny"), **settings)

    return make


@pytest.fixture
def chat_target(make_model, own_tokenizer):
    own_tokenizer.chat_template = CHAT
    proxy = Proxy.from_model(make_model(max_position_embeddings=1024), own_tokenizer)
    return lambda **settings: LocalTarget(proxy, **{"layout": "turns", **settings})


def plain_score(target, ids, start):
    """The definition: log p of ids[start:] by one plain forward of everything."""
    with torch.no_grad():
        logits = target.proxy.model.eval()(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    log_p = logits.double().log_softmax(-1)[start - 1 : -1]
    return float(log_p.gather(1, torch.tensor(ids[start:])[:, None]).sum())


def whole_text_score(target, text, choice):
    """With the tokens of the whole text, of which those that cover the choice count."""
    ((ids, spans),) = target.proxy.encoder.tokenize([text + choice])
    start = next(at for at, (_, stop) in enumerate(spans) if stop > len(text))
    return plain_score(target, ids, start), len(ids) - start


def scores_of(answers):
    return [answer.scores for answer in answers]


def choices_for(requests):
    return [[f" {label}" for label in LABELS]] * len(requests)


def test_it_is_a_scoring_target(make_target):
    target = make_target()
    assert isinstance(target, ScoringTarget)
    assert (target.name, target.layout) == ("tiny", "single")


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "gpt2", "bloom"])
def test_scores_are_those_of_the_whole_text(architecture, make_target, single):
    target = make_target(architecture)
    for messages, answer in zip(single, target.score(single, choices_for(single)), strict=True):
        expected = [whole_text_score(target, messages[0]["content"], f" {label}")[0] for label in LABELS]
        np.testing.assert_allclose(answer.scores, expected, rtol=1e-5)
        assert answer.text is answer.error is None


def test_length_norm_is_the_mean_over_the_tokens_of_the_choice(make_target, single):
    sums, means = make_target(), make_target(length_norm=True)
    counts = [whole_text_score(sums, single[0][0]["content"], f" {label}")[1] for label in LABELS]
    assert len(set(counts)) > 1
    one, other = (target.score(single[:1], choices_for(single[:1]))[0].scores for target in (sums, means))
    np.testing.assert_allclose(np.divide(one, counts), other, rtol=1e-6)


def test_scores_do_not_depend_on_order_or_company(make_target, single):
    """Nor on how requests are split over calls, nor on what was asked before."""
    together = scores_of(make_target().score(single, choices_for(single)))
    target = make_target()
    for row in (3, 0, 4, 0, 1):
        (answer,) = target.score([single[row]], choices_for([0]))
        np.testing.assert_allclose(answer.scores, together[row], rtol=1e-5)
    reverse = scores_of(target.score(single[::-1], choices_for(single)))
    np.testing.assert_allclose(reverse[::-1], together, rtol=1e-5)


def test_requests_without_a_common_prefix_work_too(make_target, single):
    target = make_target()
    texts = [
        "Intent:",
        single[0][0]["content"],
        "A film. It is",
        "Intent: x " * 60 + "?",
        single[1][0]["content"],
    ]
    requests = [[{"role": "user", "content": text}] for text in texts]
    choices = [[" it"], [" card", " it"], [" great", " terrible", " it"], [" it"], [" card"]]
    for text, own, answer in zip(texts, choices, target.score(requests, choices), strict=True):
        expected = [whole_text_score(target, text, choice)[0] for choice in own]
        np.testing.assert_allclose(answer.scores, expected, rtol=1e-5)


def test_a_prefix_is_read_once_and_kept_for_the_next_call(make_target, single, monkeypatch):
    target, read = make_target(), []
    real = target._shared.read
    monkeypatch.setattr(
        target._shared, "read", lambda ids, behind: read.append(len(ids)) or real(ids, behind)
    )
    first = target.score(single[:3], choices_for(single[:3]))
    again = target.score(single[2:], choices_for(single[2:]))
    target.generate(single, max_tokens=2)
    assert len(read) == 1
    assert first[0].usage.cached_tokens == 0
    assert all(answer.usage.cached_tokens >= read[0] - 1 for answer in (*first[1:], *again))
    whole = target.proxy.encoder.tokenize([single[0][0]["content"] + " lost_or_stolen_phone"])[0][0]
    assert first[0].usage.prompt_tokens == len(whole)


def test_several_messages_of_a_single_layout_are_one_text(make_target):
    target, choices = make_target(), [[" card"]]
    parts = [[{"role": "system", "content": "Query: my"}, {"role": "user", "content": " card\nIntent:"}]]
    whole = [[{"role": "user", "content": "Query: my card\nIntent:"}]]
    assert scores_of(target.score(parts, choices)) == scores_of(target.score(whole, choices))


def test_chat_layouts_go_through_the_template(chat_target, prompt):
    """The choice stands where the template puts the assistant's text, its leading space included."""
    labels = [label for label in LABELS if label != "card"]
    target = chat_target()
    requests = [prompt.messages({"text": text}, "turns") for text in ITEMS[:2]]
    tokenizer = target.proxy.tokenizer
    for messages, answer in zip(requests, target.score(requests, [labels] * 2), strict=True):
        begun = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        for label, score in zip(labels, answer.scores, strict=True):
            whole = tokenizer.apply_chat_template(
                [*messages, {"role": "assistant", "content": label}], tokenize=False
            ).removesuffix("</s>")
            encoding = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
            start = next(at for at, (_, stop) in enumerate(encoding.offset_mapping) if stop > len(begun))
            np.testing.assert_allclose(score, plain_score(target, encoding.input_ids, start), rtol=1e-5)


def test_choices_that_begin_alike_are_scored_with_the_end_of_their_turn(chat_target, prompt):
    """Without it "card_arrival" could never be likelier than "card"."""
    target, messages = chat_target(), prompt.messages({"text": ITEMS[0]}, "turns")
    tokenizer = target.proxy.tokenizer
    begun = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    start = len(tokenizer(begun, add_special_tokens=False).input_ids)
    (answer,) = target.score([messages], [LABELS])
    for label, score in zip(LABELS, answer.scores, strict=True):
        turn = {"role": "assistant", "content": label}
        ids = tokenizer.apply_chat_template([*messages, turn], return_dict=True)["input_ids"]
        assert ids[-1] == tokenizer.eos_token_id
        np.testing.assert_allclose(score, plain_score(target, ids, start), rtol=1e-5)


def test_choices_that_begin_alike_need_a_template_that_ends_a_turn(make_model, own_tokenizer):
    own_tokenizer.chat_template = CHAT.replace("{{ eos_token if m['role'] == 'assistant' else '' }}", "")
    target = LocalTarget(Proxy.from_model(make_model(), own_tokenizer), layout="turns")
    request = [{"role": "user", "content": "my card"}]
    assert target.score([request], [["rate", "card"]])[0].scores
    with pytest.raises(SettingError, match="among them 'card'"):
        target.score([request], [["card_arrival", "card"]])


def test_special_tokens_in_a_message_are_text(chat_target):
    """What the template writes is a token, what the data writes is cut in two."""
    target = chat_target()
    (ids,) = target.texts.tokens([[{"role": "user", "content": "a </s> <s> b"}]])
    assert (ids.count(0), ids.count(1)) == (1, 0)
    assert target.proxy.tokenizer.decode(ids) == "<s><user>a </s> <s> b<assistant>"


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "bloom"])
def test_generated_texts_are_those_of_transformers(architecture, make_target, single):
    target = make_target(architecture)
    model, tokenizer = target.proxy.model.eval(), target.proxy.tokenizer
    for messages, answer in zip(single, target.generate(single, max_tokens=9), strict=True):
        ((ids, _),) = target.proxy.encoder.tokenize([messages[0]["content"]])
        mask = torch.ones(1, len(ids), dtype=torch.long)
        out = model.generate(torch.tensor([ids]), attention_mask=mask, max_new_tokens=9, do_sample=False)
        assert answer.text == tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)
        assert answer.usage.completion_tokens == out.shape[1] - len(ids)


def scripted(target, monkeypatch, texts):
    """Let the model generate these texts, token by token, as long as it is let."""
    from icl_plugins.proxy import prefix_paths

    scripts = [target.proxy.tokenizer(text, add_special_tokens=False).input_ids for text in texts]

    def generate(state, queries, *, max_tokens, ended):
        for row, script in enumerate(scripts):
            answer = []
            while not answer or prefix_paths._goes_on(answer, max_tokens, ended):
                answer.append(script[len(answer)])
            yield [row], [answer]

    monkeypatch.setattr(target._shared, "generate", generate)


def test_an_answer_stops_at_eos_at_a_stop_text_and_at_max_tokens(make_target, single, monkeypatch):
    target = make_target(stop=["\n\n", "Query"])
    scripted(target, monkeypatch, [" card</s> it", " a card\n\nQuery", " the exchange rate today and on"])
    answers = target.generate(single[:3], max_tokens=8)
    assert [answer.text for answer in answers[:2]] == [" card", " a card"]
    assert answers[2].usage.completion_tokens == 8
    assert " the exchange rate today and on".startswith(answers[2].text)


def test_what_the_template_puts_before_answers_is_no_part_of_them(chat_target, monkeypatch):
    target = chat_target()
    scripted(target, monkeypatch, [" card</s>"])
    (answer,) = target.generate([[{"role": "user", "content": "x"}]], max_tokens=9)
    assert answer.text == "card"


def test_every_answer_is_told_as_soon_as_it_is_there(make_target, single):
    target, told = make_target(), {}
    target._shared.budget.tokens = 1
    answers = target.score(single, choices_for(single), on_answer=told.__setitem__)
    assert [told[row] for row in range(len(single))] == answers
    told.clear()
    answers = target.generate(single, max_tokens=2, on_answer=told.__setitem__)
    assert [told[row] for row in range(len(single))] == answers


def test_no_requests_give_no_answers(make_target):
    assert make_target().score([], []) == []
    assert make_target().generate([], max_tokens=1) == []


def test_scores_that_are_not_numbers_are_an_error_of_their_item(make_target, single, monkeypatch):
    target = make_target()
    monkeypatch.setattr(
        target._shared,
        "score",
        lambda state, queries: iter([([0, 1], [np.array([1.0, np.nan]), np.ones(2)])]),
    )
    bad, good = target.score(single[:2], [[" a", " b"]] * 2)
    assert bad.scores is None
    assert "float32" in bad.error
    assert good.scores == (1.0, 1.0)


def test_the_fingerprint_tells_all_that_answers_depend_on(make_target, chat_target):
    prints = [
        make_target().fingerprint,
        make_target("qwen2").fingerprint,
        make_target(length_norm=True).fingerprint,
        make_target(stop=["\n"]).fingerprint,
        chat_target().fingerprint,
        chat_target(layout="json").fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert make_target().fingerprint == prints[0]


@pytest.fixture
def idle(make_target, monkeypatch):
    """A target whose model must not run."""
    target = make_target()
    monkeypatch.setattr(target._shared, "read", lambda *args: pytest.fail("ran"))
    return target


def message(content):
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize(
    "request_", [message(None), message(7), message(["a"]), [], "text", [{"role": "user"}], message("\ud800")]
)
def test_content_that_is_no_text_is_refused_by_request(request_, idle):
    with pytest.raises(DataError, match="request 1"):
        idle.score([message("a"), request_], [[" b"]] * 2)
    with pytest.raises(DataError, match="request 1"):
        idle.generate([message("a"), request_], max_tokens=1)


@pytest.mark.parametrize("own", [[], " b", [""], [" b", None], [7], ["\ud800"]])
def test_choices_that_are_no_texts_are_refused_by_request(own, idle):
    with pytest.raises(DataError, match="request 1"):
        idle.score([message("a")] * 2, [[" b"], own])


def test_choices_for_fewer_requests_are_refused(idle):
    with pytest.raises(SettingError, match="1 of 2"):
        idle.score([message("a")] * 2, [[" b"]])


def test_requests_that_do_not_fit_are_named_before_anything_runs(idle):
    long = message("what is it? " * 400)
    with pytest.raises(TooLongError, match=r"1 requests .* requests 1 \(\d+ tokens\).*at most 1024"):
        idle.score([message("a"), long], [[" b"]] * 2)
    with pytest.raises(TooLongError, match=r"requests 0 \(\d+ tokens\)"):
        idle.generate([message("a")], max_tokens=1024)


def test_a_request_may_fill_the_context(make_target):
    target = make_target()
    target.proxy.max_length = len(target.proxy.encoder.tokenize(["a b"])[0][0])
    assert target.score([message("a")], [[" b"]])[0].scores
    with pytest.raises(TooLongError):
        target.score([message("a")], [[" b b"]])


def test_a_chat_layout_needs_a_chat_template(make_target):
    with pytest.raises(SettingError, match="chat template"):
        make_target(layout="turns")


def test_messages_that_the_template_refuses_are_named(chat_target):
    target = chat_target()
    target.proxy.tokenizer.chat_template = "{{ raise_exception('no system') }}"
    with pytest.raises(DataError, match="no system"):
        target.score([message("a")], [["b"]])


@pytest.mark.parametrize(
    "wrong",
    [
        {"layout": "chat"},
        {"stop": "\n"},
        {"stop": [""]},
        {"stop": [1]},
        {"stop": 5},
        {"stop": None},
        {"length_norm": "no"},
    ],
    ids=str,
)
def test_settings_are_checked_before_the_model_is_loaded(wrong, monkeypatch):
    monkeypatch.setattr(Proxy, "load", lambda *args: pytest.fail("loaded"))
    with pytest.raises(SettingError, match=next(iter(wrong))):
        LocalTarget.load("micro", **wrong)


def test_micro_scores_plain_and_chat(prompt):
    """Its template writes turns as plain text, so that labels begin with a space in both."""
    target = LocalTarget.load("micro", layout="turns")
    (answer,) = target.score([prompt.messages({"text": "my card"})], [LABELS])
    text = target.texts.text(prompt.messages({"text": "my card"}))
    for label, score in zip(LABELS, answer.scores, strict=True):
        ids = target.proxy.tokenizer(f"{text} {label}{target.texts.end}", add_special_tokens=False).input_ids
        start = len(target.proxy.tokenizer(text, add_special_tokens=False).input_ids)
        np.testing.assert_allclose(score, plain_score(target, ids, start), rtol=1e-4)
