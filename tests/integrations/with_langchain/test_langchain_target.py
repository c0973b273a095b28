"""Chat models and chains as targets of an evaluation."""

import threading
import time
from dataclasses import replace

import pytest
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import RunnableLambda
from langchain_icl import RunnableTarget
from langchain_icl.target import read_output
from langchain_openai import ChatOpenAI
from openai import OpenAI

from icl_plugins.errors import SettingError, TargetError
from icl_plugins.evaluation.target import Target, Usage

KEY = "sk-MARKER-0123456789"
REQUESTS = [
    [{"role": "system", "content": "Name the intent."}, {"role": "user", "content": text}]
    for text in ("my card", "{braces}", "a rate")
]


def lambda_target(function, **settings):
    return RunnableTarget(RunnableLambda(function), **{"name": "lambda", **settings})


def chat(**settings):
    return ChatOpenAI(
        **{"model": "m", "api_key": "none", "base_url": "http://127.0.0.1:9", "max_retries": 0, **settings}
    )


def test_chat_models_and_chains_answer_as_the_bare_client_does(server):
    with OpenAI(base_url=server.base_url, api_key="none") as client:
        replies = [
            client.chat.completions.create(model=server.model, messages=m, temperature=0, max_tokens=5)
            for m in REQUESTS
        ]
    model = chat(base_url=server.base_url, model=server.model, temperature=0)
    for runnable in (model, model | StrOutputParser(), model.bind(seed=1).with_retry()):
        answers = RunnableTarget(runnable, "m", concurrency=2).generate(REQUESTS, max_tokens=5)
        for answer, reply in zip(answers, replies, strict=True):
            said = reply.choices[0].message.content
            assert answer.text == said if said else answer.error
            counted = reply.usage
            assert answer.usage == Usage(counted.prompt_tokens, counted.completion_tokens)
            assert answer.seconds > 0


def test_it_is_a_target():
    assert isinstance(RunnableTarget(chat()), Target)


def test_a_runnable_reads_the_messages_as_messages():
    seen = []
    lambda_target(lambda messages: seen.append(messages) or "yes").generate(REQUESTS[:1], max_tokens=1)
    assert [(message.type, message.content) for message in seen[0]] == [
        ("system", "Name the intent."),
        ("human", "my card"),
    ]


def test_answers_keep_the_order_and_are_told_as_they_come_in_the_calling_thread():
    first = threading.Event()

    def answer(messages):
        text = messages[-1].content
        if text == "my card":
            first.wait(9)
        return text

    told = []

    def tell(index, answer):
        told.append((index, answer, threading.get_ident()))
        first.set()

    answers = lambda_target(answer).generate(REQUESTS, max_tokens=1, on_answer=tell)
    assert [answer.text for answer in answers] == ["my card", "{braces}", "a rate"]
    assert told[0][0] != 0 and {index for index, *_ in told} == {0, 1, 2}
    assert all(answers[index] is answer for index, answer, _ in told)
    assert {ident for *_, ident in told} == {threading.get_ident()}
    assert lambda_target(answer).generate([], max_tokens=1) == []


def test_no_more_calls_are_under_way_than_allowed():
    under_way, most, lock = 0, 0, threading.Lock()

    def count(messages):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.02)
        with lock:
            under_way -= 1
        return "yes"

    lambda_target(count, concurrency=2).generate(REQUESTS * 4, max_tokens=1)
    assert most == 2


def test_what_fails_for_one_is_its_error_without_its_words_and_the_rest_goes_on():
    def fail(messages):
        if "card" in messages[-1].content:
            raise ValueError(f"data, {KEY}")
        return "yes"

    failed, *others = lambda_target(fail).generate(REQUESTS, max_tokens=1)
    assert failed.error == "ValueError" and [answer.text for answer in others] == ["yes", "yes"]


class StatusError(Exception):
    def __init__(self, status):
        super().__init__(KEY)
        self.status_code = status


def raises(error):
    def fail(messages):
        raise error

    return fail


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_what_fails_for_all_stops_at_once(status):
    with pytest.raises(TargetError, match=f"lambda: StatusError, status {status}") as stopped:
        lambda_target(raises(StatusError(status))).generate(REQUESTS, max_tokens=1)
    assert KEY not in str(stopped.value) and stopped.value.__context__ is None


def test_a_passing_status_is_an_error_of_the_item():
    (answer,) = lambda_target(raises(StatusError(429))).generate(REQUESTS[:1], max_tokens=1)
    assert answer.error == "StatusError, status 429"


def test_a_server_that_is_not_there_stops_at_once():
    with pytest.raises(TargetError, match="start the server"):
        RunnableTarget(chat()).generate(REQUESTS, max_tokens=1)


def test_an_error_of_the_caller_comes_through():
    with pytest.raises(KeyboardInterrupt):
        lambda_target(lambda _: "yes").generate(
            REQUESTS, max_tokens=1, on_answer=lambda *_: raises(KeyboardInterrupt())(None)
        )


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("yes", "yes"),
        (AIMessage("yes"), "yes"),
        (AIMessage([{"type": "text", "text": "ye"}, {"type": "reasoning", "reasoning": "x"}, "s"]), "yes"),
        (AIMessage("", response_metadata={"finish_reason": "stop"}), ""),
        (AIMessage("", response_metadata={"stop_reason": "end_turn"}), ""),
        (AIMessage("ye", response_metadata={"finish_reason": "length"}), "ye"),
    ],
)
def test_texts_of_messages_blocks_and_strings_are_read(output, text):
    assert read_output(output) == (text, None)
    assert type(read_output(output)[0]) is str


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ("", "no text"),
        (AIMessage(""), "no text"),
        (AIMessage("", response_metadata={"finish_reason": "length"}), "no text: cut by the limit of tokens"),
        (AIMessage([{"type": "image", "url": "u"}]), "no text"),
        (AIMessage("", additional_kwargs={"refusal": "no"}), "refused by the model or its provider"),
        (
            AIMessage("a", response_metadata={"finish_reason": "content_filter"}),
            "refused by the model or its provider",
        ),
        ({"answer": "yes"}, "output of type dict, not a message or text"),
        (None, "output of type NoneType, not a message or text"),
        ("\ud83d", "text with lone surrogates"),
    ],
)
def test_the_lack_of_a_text_is_named(output, error):
    assert read_output(output) == (None, error)


def test_usage_with_cached_tokens_comes_through_a_parser():
    counted = {
        "input_tokens": 100,
        "output_tokens": 3,
        "total_tokens": 103,
        "input_token_details": {"cache_read": 64},
    }
    for metadata in ({"model_name": "m"}, {}):
        message = AIMessage("yes", usage_metadata=counted, response_metadata=metadata)
        model = GenericFakeChatModel(messages=iter([message, message.model_copy()]))
        (plain,) = RunnableTarget(model, "fake").generate(REQUESTS[:1], max_tokens=1)
        (parsed,) = RunnableTarget(model | StrOutputParser(), "fake").generate(REQUESTS[:1], max_tokens=1)
        assert plain.usage == Usage(100, 3, 64)
        assert parsed.usage == (plain.usage if metadata else None)


class Recorder(GenericFakeChatModel):
    max_tokens: int | None = None
    seen: list = []  # noqa: RUF012

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.seen.append(kwargs)
        return super()._generate(messages, stop, run_manager, **kwargs)


def test_the_limit_goes_to_chat_models_that_have_one_and_to_nothing_else():
    model = Recorder(messages=iter([AIMessage("yes")] * 3))
    for runnable in (model, model | StrOutputParser(), model.bind(a=1) | StrOutputParser()):
        RunnableTarget(runnable, "recorder").generate(REQUESTS[:1], max_tokens=7)
    assert [kwargs.get("max_tokens") for kwargs in model.seen] == [7, 7, 7]
    strict = lambda_target(lambda messages: "yes")  # would refuse an argument that it does not know
    assert strict.generate(REQUESTS[:1], max_tokens=7)[0].text == "yes"


def test_the_fingerprint_is_of_the_settings_without_keys():
    target = RunnableTarget(chat(api_key=KEY))
    same = (
        {"api_key": "another"},
        {"api_key": KEY, "default_headers": {"X-Api-Key": KEY}},
        {"max_retries": 7, "timeout": 3},
    )
    assert {RunnableTarget(chat(**settings)).fingerprint for settings in same} == {target.fingerprint}
    other = [chat(model="n"), chat(temperature=1), chat(base_url="http://b"), chat().bind(stop=["\n"])]
    other.append(chat() | StrOutputParser())
    targets = [RunnableTarget(runnable) for runnable in other]
    layouts = [replace(target, layout="single")]
    assert len({other.fingerprint for other in [target, *targets, *layouts]}) == 7
    bodies = [{"access_token": KEY}, {"access_token": "another"}]
    assert len({RunnableTarget(chat(extra_body=body)).fingerprint for body in bodies}) == 1
    assert "MARKER" not in repr(target)


@pytest.mark.parametrize(
    "runnable",
    [
        RunnableLambda(lambda messages: "yes"),
        chat() | RunnableLambda(lambda message: "yes"),
        FakeListChatModel(responses=["yes"]),
    ],
)
def test_what_cannot_be_serialised_needs_a_name_which_is_its_fingerprint(runnable):
    with pytest.raises(SettingError, match=r'pass name="'):
        RunnableTarget(runnable)
    one, two = RunnableTarget(runnable, "one"), RunnableTarget(runnable, "two")
    assert one.fingerprint != two.fingerprint == RunnableTarget(runnable, "two").fingerprint


def test_a_given_name_is_for_people_where_the_settings_are_known():
    plain, named = RunnableTarget(chat()), RunnableTarget(chat(), "my model")
    assert (plain.name, named.name) == ("m", "my model")
    assert RunnableTarget(chat().bind(stop=["x"]) | StrOutputParser()).name == "m"
    assert plain.fingerprint == named.fingerprint


@pytest.mark.parametrize("setting", [{"runnable": print}, {"concurrency": 0}])
def test_settings_that_cannot_be_are_refused(setting):
    with pytest.raises(SettingError):
        RunnableTarget(**{"runnable": chat(), **setting})
