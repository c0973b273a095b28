"""LMs and programs of DSPy as targets of an evaluation."""

import threading
import time
import warnings

import dspy
import pytest
from dspy.utils import DummyLM
from dspy_icl import LMTarget, ProgramTarget
from openai import OpenAI

from icl_plugins.errors import SettingError, TargetError
from icl_plugins.evaluation.target import Target, Usage

KEY = "sk-MARKER-0123456789"
REQUESTS = [
    [
        {"role": "system", "content": "Name the intent."},
        {"role": "user", "content": "a demonstration"},
        {"role": "assistant", "content": "its answer"},
        {"role": "user", "content": text},
    ]
    for text in ("my card", "{braces}", "a rate")
]


@pytest.fixture(autouse=True)
def messages_are_still_taken():
    """DSPy 3.4 warns of the messages= that 3.5 is to lose."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Passing OpenAI-style message", DeprecationWarning)
        yield


class Engine:
    """Answers with what a function makes of the last message, or raises it."""

    def __init__(self, function):
        self.function = function
        self.requests = []

    def complete(self, request):
        self.requests.append(request)
        text = self.function(request.messages[-1].text)
        if isinstance(text, Exception):
            raise text
        return dspy.lm15.Response(
            id=None,
            model=request.model,
            message=dspy.lm15.Message.assistant(text),
            finish_reason="stop",
            usage=dspy.lm15.Usage(input_tokens=100, output_tokens=2, cache_read_tokens=64),
        )


def engine_lm(function, **settings):
    return dspy.LM("test/m", engine=Engine(function), cache=False, num_retries=0, **settings)


def target(function, **settings):
    return LMTarget(engine_lm(function), **{"name": "engine", **settings})


def test_an_lm_answers_as_the_bare_client_does(server):
    lm = dspy.LM(
        f"openai/{server.model}", api_base=server.base_url, api_key="none", temperature=0.0, cache=False
    )
    answers = LMTarget(lm, concurrency=2).generate(REQUESTS, max_tokens=5)
    with OpenAI(base_url=server.base_url, api_key="none") as client:
        for messages, answer in zip(REQUESTS, answers, strict=True):
            reply = client.chat.completions.create(
                model=server.model, messages=messages, temperature=0, max_tokens=5
            )
            said = reply.choices[0].message.content
            assert answer.text == said if said else answer.error
            assert answer.usage == Usage(reply.usage.prompt_tokens, reply.usage.completion_tokens)


def test_they_are_targets():
    assert isinstance(target(str.upper), Target)
    assert isinstance(program_target(), Target)


def test_an_lm_reads_all_messages_as_they_are_and_the_limit():
    lm = engine_lm(lambda text: text.upper())
    (answer,) = LMTarget(lm, "engine").generate(REQUESTS[:1], max_tokens=7)
    (request,) = lm.engine.requests
    assert answer.text == "MY CARD" and answer.usage == Usage(100, 2, 64) and answer.seconds > 0
    assert request.system == "Name the intent." or request.system[0].text == "Name the intent."
    assert [message.text for message in request.messages] == ["a demonstration", "its answer", "my card"]
    assert request.config.max_tokens == 7


def test_answers_keep_the_order_and_are_told_as_they_come_in_the_calling_thread():
    first = threading.Event()

    def answer(text):
        if text == "my card":
            first.wait(9)
        return text

    told = []

    def tell(index, answer):
        told.append((index, answer, threading.get_ident()))
        first.set()

    answers = target(answer).generate(REQUESTS, max_tokens=1, on_answer=tell)
    assert [answer.text for answer in answers] == ["my card", "{braces}", "a rate"]
    assert told[0][0] != 0 and all(answers[index] is answer for index, answer, _ in told)
    assert {ident for *_, ident in told} == {threading.get_ident()}
    assert target(answer).generate([], max_tokens=1) == []


def test_no_more_calls_are_under_way_than_allowed():
    under_way, most, lock = 0, 0, threading.Lock()

    def count(text):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        time.sleep(0.02)
        with lock:
            under_way -= 1
        return "yes"

    target(count, concurrency=2).generate(REQUESTS * 4, max_tokens=1)
    assert most == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (dspy.lm15.RateLimitError(KEY, status=429), "LMRateLimitError, status 429"),
        (dspy.lm15.ContextLengthError(KEY, status=400), "ContextWindowExceededError, status 400"),
        (ValueError(KEY), "LMUnexpectedError"),
    ],
)
def test_what_fails_for_one_is_its_error_without_its_words_and_the_rest_goes_on(error, said):
    failed, *others = target(lambda text: error if "card" in text else "yes").generate(REQUESTS, max_tokens=1)
    assert failed.error == said and [answer.text for answer in others] == ["yes", "yes"]


@pytest.mark.parametrize(
    "error",
    [
        dspy.lm15.AuthError(KEY, status=401),
        dspy.lm15.BillingError(KEY),
        dspy.lm15.UnsupportedModelError(KEY),
        dspy.lm15.NotConfiguredError(KEY),
    ],
)
def test_what_fails_for_all_stops_at_once(error):
    with pytest.raises(TargetError, match="engine: LM") as stopped:
        target(lambda text: error).generate(REQUESTS, max_tokens=1)
    assert KEY not in str(stopped.value) and stopped.value.__context__ is None


@pytest.mark.parametrize("engine", ["auto", "litellm"])
def test_a_server_that_is_not_there_stops_at_once(engine, monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # litellm would ask the network for prices
    settings = {"num_retries": 0, "cache": False, "engine": engine}
    lm = dspy.LM("openai/m", api_base="http://127.0.0.1:9/v1", api_key=KEY, **settings)
    with pytest.raises(TargetError, match="start the server") as stopped:
        LMTarget(lm).generate(REQUESTS, max_tokens=1)
    assert KEY not in str(stopped.value)


def test_an_error_of_the_caller_comes_through_and_no_thread_stays():
    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        target(str.upper).generate(REQUESTS, max_tokens=1, on_answer=fail)
    assert not [thread for thread in threading.enumerate() if "dspy_icl" in thread.name]


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ("", "no text"),
        (None, "no text"),
        (["yes"], "output of type list, not text"),
        ({"text": ""}, "no text"),
    ],
)
def test_the_lack_of_a_text_is_named(output, error):
    class Odd(dspy.BaseLM):
        def __call__(self, prompt=None, **kwargs):
            return [output]

    (answer,) = LMTarget(Odd("odd"), "odd").generate(REQUESTS[:1], max_tokens=1)
    assert answer.error == error


def test_the_fingerprint_is_of_the_state_without_keys():
    def of(model="openai/m", **settings):
        return LMTarget(dspy.LM(model, **{"api_key": KEY, **settings}))

    same = [{"api_key": "another"}, {"num_retries": 9}, {"cache": False}, {"headers": {"X-Key": KEY}}]
    same.append({"azure_ad_token": KEY})
    assert {of(**settings).fingerprint for settings in same} == {of().fingerprint}
    other = [{"model": "openai/n"}, {"temperature": 1.0}, {"api_base": "http://b"}, {"stop": ["\n"]}]
    assert len({of(**settings).fingerprint for settings in [{}, *other]}) == 5
    assert "MARKER" not in repr(of()) and of().name == "openai/m"


def test_the_fingerprint_knows_the_server_that_the_environment_names(monkeypatch):
    plain, named = LMTarget(dspy.LM("openai/m")), LMTarget(dspy.LM("openai/m", api_base="http://b"))
    before = [plain.fingerprint, named.fingerprint]
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    assert plain.fingerprint != before[0] and named.fingerprint == before[1]


@pytest.mark.parametrize("make", [lambda: engine_lm(str.upper), lambda: DummyLM([{"a": "b"}])])
def test_an_lm_that_cannot_be_saved_needs_a_name_which_is_its_fingerprint(make):
    with pytest.raises(SettingError, match=r'pass name="'):
        LMTarget(make())
    assert LMTarget(make(), "one").fingerprint == LMTarget(make(), "one").fingerprint
    assert LMTarget(make(), "one").fingerprint != LMTarget(make(), "two").fingerprint


# --- programs -------------------------------------------------------------------------------------------


class Shout(dspy.Module):
    """A program with code of its own."""

    def __init__(self, make=str.upper):
        super().__init__()
        self.make = make

    def forward(self, text):
        return dspy.Prediction(label=self.make(text))


def program_target(program=None, **settings):
    settings = {"name": "shout", "input_field": "text", "output_field": "label", **settings}
    return ProgramTarget(program or Shout(), **settings)


def test_a_program_gets_the_query_and_nothing_else_of_the_prompt():
    seen = []
    answers = program_target(Shout(lambda text: seen.append(text) or "yes")).generate(REQUESTS, max_tokens=1)
    assert sorted(seen) == sorted(["my card", "{braces}", "a rate"])
    assert [answer.text for answer in answers] == ["yes"] * 3
    assert all(answer.usage is None for answer in answers)


def test_a_program_runs_with_the_settings_of_the_caller_and_is_counted():
    predict = dspy.Predict("text -> label")
    lm = engine_lm(lambda text: "[[ ## label ## ]]\nrate\n\n[[ ## completed ## ]]")
    made = program_target(predict)
    with pytest.raises(TargetError, match="without an LM"):
        made.generate(REQUESTS, max_tokens=1)
    with dspy.context(lm=lm):
        answers = made.generate(REQUESTS, max_tokens=1)
    assert [(answer.text, answer.usage) for answer in answers] == [("rate", Usage(100, 2, 64))] * 3
    assert len(lm.engine.requests) == 3
    assert not any("a demonstration" in str(request) for request in lm.engine.requests)


def test_answers_that_no_adapter_can_read_are_errors_of_their_items():
    adapter = dspy.ChatAdapter(use_json_adapter_fallback=False)
    lm = engine_lm(lambda text: "no format" if "card" in text else "[[ ## label ## ]]\nyes")
    with dspy.context(lm=lm, adapter=adapter):
        failed, *others = program_target(dspy.Predict("text -> label")).generate(REQUESTS, max_tokens=1)
    assert failed.error == "AdapterParseError" and [answer.text for answer in others] == ["yes", "yes"]


@pytest.mark.parametrize(("value", "text"), [(7, "7"), (0.5, "0.5"), (True, "True")])
def test_numbers_become_text(value, text):
    (answer,) = program_target(Shout(lambda _: value)).generate(REQUESTS[:1], max_tokens=1)
    assert answer.text == text


@pytest.mark.parametrize("value", [None, "", ["yes"], float])
def test_other_values_are_errors(value):
    (answer,) = program_target(Shout(lambda _: value)).generate(REQUESTS[:1], max_tokens=1)
    assert answer.error


def test_a_prediction_without_the_field_stops_at_once():
    with pytest.raises(TargetError, match="one of label"):
        program_target(output_field="intent").generate(REQUESTS, max_tokens=1)


def test_the_fingerprint_of_a_program_is_its_name_and_fields():
    same = {program_target().fingerprint, program_target(Shout(str.lower), concurrency=1).fingerprint}
    assert len(same) == 1
    other = [{"name": "b"}, {"input_field": "b"}, {"output_field": "b"}]
    assert len({*same, *(program_target(**settings).fingerprint for settings in other)}) == 4


@pytest.mark.parametrize(
    ("program", "setting", "fix"),
    [
        (Shout(), {"name": ""}, "pass name="),
        (print, {}, "dspy.Predict"),
        (Shout(), {"concurrency": 0}, "pass one"),
        (dspy.Predict("text -> label"), {"input_field": "query"}, "pass input_field='text'"),
        (dspy.ChainOfThought("text -> label"), {"output_field": "intent"}, "pass output_field="),
    ],
)
def test_settings_that_cannot_be_are_refused(program, setting, fix):
    with pytest.raises(SettingError) as refused:
        program_target(program, **setting)
    assert fix in refused.value.fix


@pytest.mark.parametrize("setting", [{"lm": "openai/m"}, {"lm": engine_lm(str.upper), "concurrency": 0}])
def test_what_is_no_lm_is_refused(setting):
    with pytest.raises(SettingError):
        LMTarget(**{"name": "m", **setting})
