"""What a reply of a server says, whatever is in it."""

import json
from dataclasses import replace

import pytest
from fault_server import completion
from hypothesis import given
from hypothesis import strategies as st
from openai_icl import KnownModel
from openai_icl.replies import read_reply

from icl_plugins.evaluation.target import Usage

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))
FINISH = st.sampled_from(["stop", "length", "content_filter", "tool_calls"]) | JSON
REPLIES = st.builds(
    lambda content, finish, usage, refusal: {**completion(content, finish, refusal=refusal), "usage": usage},
    JSON,
    FINISH,
    JSON | st.dictionaries(st.sampled_from(["prompt_tokens", "completion_tokens"]), JSON),
    JSON,
)


def read(*args, **message):
    return read_reply(json.dumps(completion(*args, **message)))


@given(st.text() | (JSON | REPLIES).map(json.dumps))
def test_any_reply_is_a_text_or_an_error_and_never_a_crash(body):
    answer = read_reply(body)
    assert (answer.text is None) != (answer.error is None)
    if answer.text == "":
        assert json.loads(body)["choices"][0]["finish_reason"] == "stop"
    if answer.text is not None:
        assert answer.text == json.loads(body)["choices"][0]["message"]["content"]
        answer.text.encode()


@pytest.mark.parametrize(
    ("content", "finish", "message", "error"),
    [
        (None, "stop", {}, "no text (finish_reason stop)"),
        (None, "tool_calls", {}, "no text (finish_reason tool_calls)"),
        (None, {"data": 1}, {}, "no text (finish_reason unknown)"),
        ("", "length", {}, "no text: max_tokens were used up before it began"),
        (None, "length", {"reasoning_content": "hm"}, "no text: max_tokens were used up before it began"),
        ("", None, {}, "no text (finish_reason unknown)"),
        ([{"type": "text", "text": "yes"}], "stop", {}, "content of type list, not text"),
        (7, "stop", {}, "content of type int, not text"),
        (None, "stop", {"refusal": "I cannot"}, "refused by the model"),
        ("half a", "content_filter", {}, "stopped by the provider's content filter"),
        ("half a", "insufficient_system_resource", {}, "broken off by the provider, which is overloaded"),
        ("\ud83d", "stop", {}, "text with lone surrogates"),
    ],
)
def test_the_lack_of_a_text_is_named(content, finish, message, error):
    assert read(content, finish, **message).error == error


@pytest.mark.parametrize(
    ("content", "finish"), [("yes", "stop"), ("ye", "length"), (" \n", "stop"), ("yes", None), ("", "stop")]
)
def test_a_text_is_what_the_server_gave(content, finish):
    assert read(content, finish).text == content


def test_an_error_in_a_reply_without_error_status_is_named():
    assert read_reply('{"error": {"message": "data"}}').error == "the reply holds an error"


@pytest.mark.parametrize(
    ("counts", "cached"),
    [
        ({}, 0),
        ({"prompt_tokens_details": {"cached_tokens": 896}}, 896),
        ({"prompt_cache_hit_tokens": 960, "prompt_cache_miss_tokens": 40}, 960),
        ({"prompt_tokens_details": None}, 0),
        ({"prompt_tokens_details": {"cached_tokens": 5000}}, 1000),
        ({"prompt_tokens_details": {"cached_tokens": -1}}, 0),
    ],
)
def test_cached_tokens_of_both_providers_are_read(counts, cached):
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, **counts}
    answer = read_reply(json.dumps({**completion(), "usage": usage}))
    assert answer.usage == Usage(1000, 10, cached)


@pytest.mark.parametrize("usage", [None, [], {}, {"prompt_tokens": 7}, {"prompt_tokens": True}])
def test_usage_that_nobody_counted_is_none(usage):
    counts = (
        {"completion_tokens": 1, **usage}
        if isinstance(usage, dict) and usage.get("prompt_tokens") is True
        else usage
    )
    answer = read_reply(json.dumps({**completion(), "usage": counts}))
    assert answer.usage is None and answer.text == "yes"


def test_a_failed_item_keeps_what_it_took():
    assert read(None, "length").usage == Usage(1000, 10)


@pytest.mark.parametrize("model", ["gpt-4o-mini", "deepseek/deepseek-chat"])
def test_the_cost_counts_cached_tokens_at_their_price(model):
    known = KnownModel.of(model)
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_cache_hit_tokens": 640}
    answer = read_reply(json.dumps({**completion(), "usage": usage}), known)
    row = known.row
    assert answer.usage.cost == pytest.approx(
        360 * row["input_cost_per_token"]
        + 640 * row["cache_read_input_token_cost"]
        + 10 * row["output_cost_per_token"]
    )


def test_a_model_without_prices_costs_none_and_one_without_a_cached_price_the_full_one():
    gpt4 = KnownModel.of("gpt-4")
    assert replace(gpt4, row={}).cost(1000, 10) is None
    assert gpt4.cost(1000, 10, 640) == gpt4.cost(1000, 10) == pytest.approx(0.03 + 0.0006)
