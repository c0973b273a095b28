"""DSPy's contract of custom engines, held by the engine of a state."""

import asyncio
import time

import dspy
import pytest
from dspy.lm15 import Config, ImagePart, Message, Request, StreamStartEvent, TextDelta
from dspy.utils.exceptions import (
    ContextWindowExceededError,
    LMInvalidRequestError,
    LMUnsupportedFeatureError,
    LMUnsupportedModelError,
)
from dspy_icl import AsyncDeepThinkingEngine, DeepThinkingEngine
from thinking_engines import ask, make_engine, make_lm

from icl_plugins import Proxy
from icl_plugins.errors import SettingError

CONNECTION = ["api_key", "api_base", "base_url", "timeout", "headers", "extra_headers", "api_version"]
TOOL = dspy.lm15.FunctionTool(name="look_up", description="look up", parameters={"type": "object"})
PIXEL = ImagePart(url="https://example.org/cat.png")


@pytest.fixture(scope="module")
def proxy():
    return Proxy.load("micro")


@pytest.fixture(scope="module")
def engine(proxy):
    return make_engine(proxy, steps=2)


# what belongs to a connection


@pytest.mark.parametrize("name", CONNECTION)
async def test_settings_of_a_connection_are_refused_at_every_door(engine, name):
    lm = make_lm(engine)
    with pytest.raises(ValueError, match=f"{name}.*custom engine owns its own"):
        make_lm(engine, **{name: "x"})
    for call in (lm, lm.copy, lm.forward):
        with pytest.raises(ValueError, match=name):
            call(**({"prompt": "hi"} if call is not lm.copy else {}), **{name: "x"})
    with pytest.raises(ValueError, match=name):
        await lm.acall("hi", **{name: "x"})
    assert not lm.history
    assert make_lm(engine, **{name: None})("hi") == lm("hi")


# the pair


async def test_both_sides_of_the_pair_are_of_their_kind(engine):
    other = AsyncDeepThinkingEngine(engine)
    with pytest.raises(TypeError, match="engine.complete is a coroutine function"):
        dspy.LM(engine.model_string, engine=other)
    with pytest.raises(TypeError, match="async_engine.complete is not a coroutine function"):
        dspy.LM(engine.model_string, engine=engine, async_engine=engine)
    alone = dspy.LM(engine.model_string, engine=engine, cache=False, max_tokens=2)
    with pytest.raises(LMUnsupportedFeatureError, match="async_engine"):
        await alone.acall("hi")
    assert await make_lm(engine, max_tokens=2).acall("hi") == alone("hi")


def test_a_copy_keeps_the_pair_or_replaces_it_as_one(engine):
    lm, other = make_lm(engine), DeepThinkingEngine(engine.state)
    warm = lm.copy(temperature=0.5)
    assert (warm.engine, warm._async_engine_spec) == (lm.engine, lm._async_engine_spec)
    assert lm.copy(engine=other)._async_engine_spec is None


def test_closing_leaves_a_borrowed_engine_usable(engine):
    lm = make_lm(engine)
    first = lm("hi")
    lm.close()
    engine.close()
    asyncio.run(AsyncDeepThinkingEngine(engine).aclose())
    assert lm("hi") == first


# requests and responses


def test_a_response_says_what_was_read_and_how_it_ended(engine):
    response = engine.complete(ask(engine, "hi", max_tokens=3))
    usage = response.usage
    assert (response.model, response.finish_reason) == (engine.model_string, "length")
    assert (usage.output_tokens, usage.cache_read_tokens) == (3, 0)
    assert usage.input_tokens == len(
        engine.state.target.texts.tokens([[{"role": "user", "content": "hi"}]])[0]
    )
    assert usage.total_tokens == usage.input_tokens + 3
    told = make_lm(engine, max_tokens=3)(request=ask(engine, "hi", max_tokens=3))
    assert told == response


def test_an_answer_ends_in_front_of_a_stop_text(engine):
    config = {"max_tokens": 12, "temperature": 1.5, "seed": 5}
    whole = engine.complete(ask(engine, "hi", **config)).text
    stop = whole.split()[-2]
    cut = engine.complete(ask(engine, "hi", stop=(stop,), **config))
    assert cut.text == whole[: whole.index(stop)] != ""
    assert cut.finish_reason == "stop"
    streamed = engine.stream(ask(engine, "hi", stop=(stop,), **config))
    assert "".join(event.delta.text for event in streamed if event.type == "delta") == cut.text


def test_an_empty_answer_is_an_answer_streamed_or_not(engine):
    request = ask(engine, "hi", stop=(engine.complete(ask(engine, "hi")).text[:2],))
    accumulated = dspy.lm15.materialize_response(engine.stream(request), request)
    assert accumulated.text == engine.complete(request).text == ""
    assert accumulated.finish_reason == "stop"


def test_a_request_without_a_limit_ends_all_the_same(engine):
    config = Config(stop=(engine.complete(ask(engine, "hi")).text[1:3],))
    request = Request(model=engine.model_string, messages=(Message.user("hi"),), config=config)
    assert engine.complete(request).finish_reason == "stop"


def test_temperature_zero_is_the_likeliest_token(engine):
    plain = engine.complete(ask(engine, "hi")).text
    assert {engine.complete(ask(engine, "hi", temperature=0.0)).text for _ in range(3)} == {plain}


def test_a_seed_decides_what_is_sampled(engine):
    def sampled(seed):
        return engine.complete(ask(engine, "hi", temperature=1.5, seed=seed, max_tokens=8)).text

    assert sampled(-1) == sampled(-1)
    assert len({sampled(seed) for seed in range(6)}) > 1


def test_sampling_narrowed_to_one_token_is_the_likeliest(engine):
    plain = engine.complete(ask(engine, "hi")).text
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 2.0, "top_k": 1}, {"top_p": 0.0}):
        assert engine.complete(ask(engine, "hi", **narrow)).text == plain


def test_without_a_seed_candidates_differ_and_come_again_in_a_new_engine(proxy):
    """What was sampled depends on how often the same was asked, not on what else was asked meanwhile."""

    def candidates(engine):
        return make_lm(engine, temperature=1.5)("hi", n=4)

    first, second = make_engine(proxy), make_engine(proxy)
    second.complete(ask(second, "something else", temperature=1.0))
    found = candidates(first)
    assert len(set(found)) > 1
    assert candidates(second) == found
    assert candidates(second) != found


def test_the_developers_messages_are_system_messages_and_empty_ones_are_empty(engine):
    asked = [Message.user("one"), Message.developer("two"), Message.user(["", "three"]), Message.user("")]
    told = (("user", "one"), ("system", "two"), ("user", "\nthree"), ("user", ""))
    messages = [{"role": role, "content": text} for role, text in told]
    expected = len(engine.state.target.texts.tokens([messages])[0])
    assert engine.complete(ask(engine, *asked)).usage.input_tokens == expected


def test_what_is_kept_of_sampled_requests_does_not_grow_for_ever(proxy, monkeypatch):
    monkeypatch.setattr("dspy_icl.engine._COUNTED", 3)
    engine = make_engine(proxy)

    def sampled(*texts):
        return [engine.complete(ask(engine, text, temperature=1.5)).text for text in texts]

    first = sampled("hi", "1", "2", "hi")  # "hi" is the last one asked again, "1" the first to be forgotten
    assert sampled("3", "4", "hi")[-1] not in (first[0], first[-1])
    assert len(engine._asked) == 3
    assert sampled("1") == first[1:2]


@pytest.mark.parametrize(
    ("feature", "asked"),
    [
        ("config.logprobs", {"logprobs": 0}),
        ("config.response_format", {"response_format": {"type": "json_object"}}),
        ("config.frequency_penalty", {"frequency_penalty": 0.5}),
        ("config.reasoning", {"reasoning": dspy.lm15.Reasoning(effort="low")}),
        ("config.extensions", {"extensions": {"logit_bias": {"1": 2}}}),
        ("config.cache", {"cache": dspy.lm15.CacheConfig()}),
    ],
)
def test_settings_that_a_state_cannot_keep_are_refused_by_name(engine, feature, asked):
    with pytest.raises(LMUnsupportedFeatureError) as refused:
        make_lm(engine)(request=ask(engine, "hi", **asked))
    assert refused.value.feature == feature
    assert refused.value.__cause__.feature == feature


@pytest.mark.parametrize(
    ("feature", "parts"),
    [
        ("tools", {"messages": (Message.user("hi"),), "tools": (TOOL,)}),
        ("messages[1].parts[1]", {"messages": (Message.user("hi"), Message.user(["see", PIXEL]))}),
        ("system.parts[0]", {"messages": (Message.user("hi"),), "system": (PIXEL,)}),
    ],
)
def test_tools_and_pictures_are_refused_by_name(engine, feature, parts):
    with pytest.raises(LMUnsupportedFeatureError) as refused:
        make_lm(engine)(request=Request(model=engine.model_string, **parts))
    assert refused.value.feature == feature


def test_adapters_are_told_what_the_engine_can(engine):
    lm = make_lm(engine)
    assert lm.supported_params == {"max_tokens", "temperature", "top_p", "top_k", "stop", "seed"}
    assert not lm.supports_function_calling
    assert not lm.supports_response_schema


# errors


def test_requests_that_do_not_fit_are_an_error_of_the_context(engine):
    lm = make_lm(engine)
    for request in (ask(engine, "card " * 9000), ask(engine, "hi", max_tokens=9000)):
        with pytest.raises(ContextWindowExceededError, match="at most 8192 tokens"):
            lm(request=request)


def test_what_no_template_can_write_is_an_invalid_request(engine):
    with pytest.raises(LMInvalidRequestError, match="FDD0"):
        make_lm(engine)("\ufdd0")


def test_another_model_string_is_refused_before_it_meets_the_cache(engine):
    with pytest.raises(LMUnsupportedModelError, match=engine.model_string):
        dspy.LM("deepthink/micro", engine=engine)("hi")
    assert make_lm(engine)("hi")


@pytest.mark.parametrize("streamed", [False, True])
def test_errors_are_raised_once_without_a_second_try(engine, monkeypatch, streamed):
    calls = []

    def failing(*arguments, **named):
        calls.append(named)
        raise SettingError("no", expected="yes", fix="this")

    monkeypatch.setattr(engine._server, "stream" if streamed else "answer", failing)
    with pytest.raises((LMInvalidRequestError, dspy.lm15.InvalidRequestError), match="no .expected: yes"):
        list(engine.stream(ask(engine, "hi"))) if streamed else make_lm(engine)("hi")
    assert len(calls) == 1


# streams


@pytest.mark.parametrize("config", [{"max_tokens": 12}, {"max_tokens": 1}, {"temperature": 1.0, "seed": 3}])
def test_the_events_of_a_stream_are_the_response_in_pieces(engine, config):
    start, *deltas, end = engine.stream(ask(engine, "hi", **config))
    response = engine.complete(ask(engine, "hi", **config))
    assert start == StreamStartEvent(model=engine.model_string)
    assert all(isinstance(event.delta, TextDelta) for event in deltas)
    assert "".join(event.delta.text for event in deltas) == response.text
    assert (end.finish_reason, end.usage) == (response.finish_reason, response.usage)


async def test_the_async_stream_has_the_same_events(engine):
    events = [event async for event in AsyncDeepThinkingEngine(engine).stream(ask(engine, "hi"))]
    assert events == list(engine.stream(ask(engine, "hi")))


@pytest.fixture
def forwards(engine):
    """A list with an entry for each run of the model."""
    runs = []
    hook = engine.state.proxy.model.register_forward_hook(lambda *_: runs.append(None))
    yield runs
    hook.remove()


def test_a_closed_stream_stops_writing(engine, forwards):
    events = engine.stream(ask(engine, "hi", max_tokens=600))
    next(events), next(events)
    events.close()
    assert 0 < len(forwards) < 300
    assert engine.complete(ask(engine, "hi")).text  # the model is free again


async def test_a_stream_that_is_cancelled_stops_writing(engine, forwards):
    started = asyncio.Event()

    async def read():
        async for _ in AsyncDeepThinkingEngine(engine).stream(ask(engine, "hi", max_tokens=600)):
            started.set()

    task = asyncio.create_task(read())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 0 < len(forwards) < 300
    assert (await AsyncDeepThinkingEngine(engine).complete(ask(engine, "hi"))).text


async def test_a_cancelled_call_leaves_no_answer_and_harms_no_other(engine, monkeypatch):
    lm = make_lm(engine, cache=True)
    answer = engine._server.answer

    def slow(*arguments, **named):
        time.sleep(0.2)
        return answer(*arguments, **named)

    monkeypatch.setattr(engine._server, "answer", slow)
    cancelled, other = (asyncio.create_task(lm.acall(text)) for text in ("to be cancelled", "to be kept"))
    await asyncio.sleep(0.05)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert await other
    assert [entry["prompt"] for entry in lm.history] == ["to be kept"]
