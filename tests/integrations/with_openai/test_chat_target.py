"""ChatTarget against a real server, and what it sends."""

import threading
from dataclasses import replace

import pytest
from fault_server import Reply, completion
from openai import OpenAI
from openai_icl import ChatTarget, KnownModel
from openai_icl.target import _known

from icl_plugins import Pool, Random, Template
from icl_plugins.errors import SettingError, TargetError
from icl_plugins.evaluation.target import Answer, Target

TEMPLATE = Template(question="Query: {text}\nIntent:", answer=" {label}")
RECORDS = [{"text": f"my {label} {n}", "label": label} for n in range(4) for label in ("card", "rate")]
QUERIES = [{"text": text} for text in ("what is the rate", "{braces} %s </s>")]


@pytest.fixture(scope="module")
def prompt():
    return Random().select(Pool.from_records(RECORDS, TEMPLATE), 6).to_prompt("Name the intent.")


@pytest.mark.parametrize("layout", ["turns", "single", "json"])
def test_a_real_server_is_answered_as_the_bare_client_is(server, prompt, layout):
    target = ChatTarget(server.model, server.base_url, layout=layout, concurrency=2)
    requests = [prompt.messages(query, layout) for query in QUERIES]
    answers = target.generate(requests, max_tokens=6)
    with OpenAI(base_url=server.base_url, api_key="none") as client:
        for messages, answer in zip(requests, answers, strict=True):
            reply = client.chat.completions.create(
                model=server.model, messages=messages, temperature=0, max_tokens=6
            )
            expected = reply.choices[0].message.content
            assert answer.text == expected if expected else "no text" in answer.error
            assert answer.usage.prompt_tokens == reply.usage.prompt_tokens
            assert answer.usage.completion_tokens == reply.usage.completion_tokens
            assert answer.usage.cost is None and answer.seconds > 0


def test_a_name_that_a_real_server_does_not_know_stops_at_once(server, prompt):
    target = ChatTarget("another", server.base_url)
    with pytest.raises(TargetError, match="correct the name of the model"):
        target.generate([prompt.messages(QUERIES[0])], max_tokens=4)


def test_it_is_a_target(make_target):
    assert isinstance(make_target(), Target)


def test_answers_keep_the_order_and_are_told_as_they_come_in_the_calling_thread(faults, ask):
    waits = {"a": 0.3, "b": 0.0, "c": 0.1}
    faults.answer = lambda query, n: Reply(completion(query.upper()), delay=waits[query])
    told = []
    answers = ask("a", "b", "c", on_answer=lambda *pair: told.append((*pair, threading.get_ident())))
    assert [answer.text for answer in answers] == ["A", "B", "C"]
    assert [index for index, *_ in told] == [1, 2, 0]
    assert all(answers[index] == answer for index, answer, _ in told)
    assert {ident for *_, ident in told} == {threading.get_ident()}


async def test_it_works_where_an_event_loop_is_running(ask):
    assert [answer.text for answer in ask("a", "b")] == ["yes", "yes"]


def test_no_requests_are_no_work(faults, ask):
    assert ask() == [] and not faults.asked
    assert ChatTarget("gpt-4o-mini").generate([], max_tokens=1) == []  # all answers stored: no key is needed


def test_no_more_requests_are_under_way_than_allowed(faults, ask):
    faults.answer = lambda query, n: Reply(delay=0.03)
    ask(*map(str, range(15)), concurrency=3)
    assert 2 <= faults.most <= 3
    faults.most = 0
    ask(*map(str, range(4)), concurrency=1)
    assert faults.most == 1


def test_settings_are_sent_as_they_are_and_none_is_not_sent(faults, ask):
    ask("a", temperature=0.5, seed=3)
    ask("b", temperature=None)
    (*_, first), (*_, second) = faults.asked
    message = {"role": "user", "content": "a"}
    assert first == {
        "model": "model",
        "messages": [message],
        "max_tokens": 4,
        "temperature": 0.5,
        "seed": 3,
    }
    assert second.keys() == {"model", "messages", "max_tokens"}


def test_openais_own_server_gets_the_name_of_the_limit_that_its_new_models_take():
    messages = [{"role": "user", "content": "a"}]
    assert ChatTarget("gpt-5-mini")._body(messages, 7)["max_completion_tokens"] == 7
    assert ChatTarget("deepseek-chat")._body(messages, 7)["max_tokens"] == 7


@pytest.mark.parametrize(
    ("model", "name", "priced_as"),
    [
        ("gpt-4o-mini", "gpt-4o-mini", "gpt-4o-mini"),
        ("openai/gpt-4o-mini", "gpt-4o-mini", "gpt-4o-mini"),
        ("deepseek-chat", "deepseek-chat", "deepseek/deepseek-chat"),
        ("deepseek/deepseek-chat", "deepseek-chat", "deepseek/deepseek-chat"),
        ("gpt-of-tomorrow", "gpt-of-tomorrow", None),
    ],
)
def test_a_providers_models_are_named_as_it_names_them_and_priced(model, name, priced_as):
    target = ChatTarget(model)
    assert target.name == name
    known = _known(target.name, target._url)
    assert (known and known.name) == priced_as


def test_a_server_of_ones_own_has_no_prices_unless_they_are_given(faults, ask):
    faults.answer = lambda query, n: Reply(
        {**completion(), "usage": {**usage(1000, 10), "prompt_tokens_details": {"cached_tokens": 600}}}
    )
    (free,) = ask("a")
    (priced,) = ask("a", known=KnownModel.of("gpt-4o-mini"))
    assert free.usage.cost is None and free.usage.cached_tokens == 600
    assert priced.usage.cost == pytest.approx(400 * 0.15e-6 + 600 * 0.075e-6 + 10 * 0.6e-6)


def usage(prompt, made):
    return {"prompt_tokens": prompt, "completion_tokens": made}


def test_the_fingerprint_is_of_what_answers_depend_on(make_target):
    target = make_target(api_key="one")
    same = [{"api_key": "two"}, {"concurrency": 1}, {"timeout": 1}, {"retries": 0}, {"backoff": 1}]
    assert {replace(target, **change).fingerprint for change in same} == {target.fingerprint}
    other = [{"model": "b"}, {"base_url": "http://b"}, {"layout": "json"}, {"temperature": 1.0}, {"seed": 1}]
    assert len({target.fingerprint, *(replace(target, **change).fingerprint for change in other)}) == 6


@pytest.mark.parametrize(
    "setting",
    [
        {"model": ""},
        {"base_url": "127.0.0.1:8000"},
        {"base_url": "http://user:hidden@host/v1"},
        {"base_url": "http://:hidden@host/v1"},
        {"base_url": "http://host/v1?key=1"},
        {"base_url": "http://host/v1#hidden"},
        {"base_url": 8000},
        {"api_key": b"hidden"},
        {"api_key_env": "sk-hidden"},
        {"layout": "yaml"},
        {"temperature": float("nan")},
        {"temperature": "hot"},
        {"seed": 1.5},
        {"concurrency": 0},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"retries": -1},
        {"backoff": True},
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_request(setting):
    with pytest.raises(SettingError) as refused:
        ChatTarget(**{"model": "m", **setting})
    assert "hidden" not in str(refused.value)


def test_max_tokens_is_checked_before_any_request(faults, make_target):
    with pytest.raises(SettingError, match="max_tokens=0"):
        make_target().generate([[{"role": "user", "content": "a"}]], max_tokens=0)
    assert not faults.asked


def test_an_answer_is_as_plain_as_the_contract_says(ask):
    (answer,) = ask("a")
    assert isinstance(answer, Answer) and answer.scores is None and answer.error is None
