"""Cacheable share and cost: against sums done by hand and the prices of the table."""

import math
from dataclasses import replace

import pytest
from openai_icl import KnownModel, count_prompt, table

from icl_plugins import ManyShotPrompt, Pool, Random, Template
from icl_plugins.errors import DataError, SettingError

TEMPLATE = Template(question="Query: {text}\nIntent:", answer=" {label}")
MILLION = 1e6


def make(shots, *, words=1):
    texts = [f"{'word ' * words}{shot}" for shot in range(shots)]
    return ManyShotPrompt(
        template=TEMPLATE,
        demonstrations=tuple((f"Query: {text}\nIntent:", " card") for text in texts),
        examples=tuple({"text": text, "label": "card"} for text in texts),
        instruction="Name it.",
    )


def target_with(model="gpt-4o-mini", **row):
    target = KnownModel.of(model)
    return replace(target, row={**target.row, **row})


def test_the_parts_add_up_to_the_prompt_that_is_sent():
    target, prompt = KnownModel.of("gpt-4o-mini"), make(100)
    counted = count_prompt(prompt, target)
    assert counted.tokens == max(target.count(prompt.messages(example)) for example in prompt.examples)
    assert counted.prefix_tokens == target.count(prompt.messages({"text": "x"})[:-1]) - 3
    assert counted.query_tokens == math.ceil(
        sum(target.count([{"role": "user", "content": q}]) for q, _ in prompt.demonstrations) / 100
    )
    assert (counted.shots, counted.answer_tokens, counted.context) == (100, 1, 128000)


@pytest.mark.parametrize("layout", ["turns", "single", "json"])
def test_every_layout_is_counted_as_it_is_sent(layout):
    target, prompt = KnownModel.of("gpt-4o-mini"), make(30)
    expected = max(target.count(prompt.messages(example, layout)) for example in prompt.examples)
    assert count_prompt(prompt, target, layout=layout).tokens == expected


@pytest.mark.parametrize("layout", ["turns", "single", "json"])
def test_a_query_that_is_named_is_the_one_that_is_counted(layout):
    target, prompt, query = KnownModel.of("gpt-4o-mini"), make(5), {"text": "word " * 50}
    counted, usual = (count_prompt(prompt, target, layout=layout, query=each) for each in (query, None))
    assert counted.tokens == target.count(prompt.messages(query, layout)) > usual.tokens
    if layout == "turns":  # elsewhere tokens may merge where prefix and query meet
        assert counted.prefix_tokens == usual.prefix_tokens
    assert counted.query_tokens == usual.query_tokens


def test_fields_that_are_missing_or_hold_braces_change_nothing():
    prompt = make(5)
    bare = replace(prompt, examples=({},) * 5)
    assert count_prompt(bare, KnownModel.of("gpt-4o-mini")) == count_prompt(
        prompt, KnownModel.of("gpt-4o-mini")
    )
    shots = (("Query: {x} {{y}} {0}\nIntent:", " {z}"),)
    braces = replace(prompt, demonstrations=shots, examples=({},))
    assert count_prompt(braces, KnownModel.of("gpt-4o-mini")).tokens > 10


@pytest.mark.parametrize(
    ("model", "prefix", "cacheable"),
    [
        ("gpt-4o-mini", 1023, 0),
        ("gpt-4o-mini", 1024, 1024),
        ("gpt-4o-mini", 1279, 1152),
        ("azure/gpt-4o-mini", 1279, 1152),
        ("deepseek/deepseek-chat", 63, 0),
        ("deepseek/deepseek-chat", 200, 192),
        ("claude-sonnet-4-5", 1023, 0),
        ("claude-sonnet-4-5", 1279, 1279),
        ("gemini/gemini-2.5-flash", 1279, 1279),
    ],
)
def test_a_provider_caches_from_its_least_length_in_its_steps(model, prefix, cacheable):
    least, step = table.cache_rule(KnownModel.of(model).row)
    assert (0 if prefix < least else prefix // step * step) == cacheable


@pytest.mark.parametrize(("model", "step"), [("gpt-4o-mini", 128), ("deepseek/deepseek-chat", 64)])
def test_costs_are_those_done_by_hand(model, step):
    counted = count_prompt(make(200), KnownModel.of(model), queries=10_000)
    prices = {"gpt-4o-mini": (0.15, 0.075, 0.60), "deepseek/deepseek-chat": (0.28, 0.028, 0.42)}
    paid, cached, made = (price / MILLION for price in prices[model])
    assert counted.cacheable_tokens == counted.prefix_tokens // step * step > 1024
    each = counted.prefix_tokens + counted.query_tokens
    answers = 10_000 * counted.answer_tokens * made
    assert counted.cost_without_caching == pytest.approx(10_000 * each * paid + answers)
    read = counted.cacheable_tokens
    with_cache = 10_000 * (each - read) * paid + read * paid + 9_999 * read * cached + answers
    assert counted.cost_with_caching == pytest.approx(with_cache)
    assert counted.cacheable_share == pytest.approx(read / each)


def test_one_query_gains_nothing_and_pays_what_writing_costs():
    plain = count_prompt(make(200), KnownModel.of("gpt-4o-mini"))
    assert plain.cost_with_caching == plain.cost_without_caching
    written = target_with(cache_creation_input_token_cost=1.25 * 0.15 / MILLION)
    dearer = count_prompt(make(200), written)
    extra = 0.25 * 0.15 / MILLION * dearer.cacheable_tokens
    assert dearer.cost_with_caching == pytest.approx(dearer.cost_without_caching + extra)


def test_a_long_prompt_costs_what_its_tier_costs():
    row = {
        "input_cost_per_token": 1.0,
        "output_cost_per_token": 2.0,
        "cache_read_input_token_cost": 0.1,
        "input_cost_per_token_above_200k_tokens": 3.0,
        "output_cost_per_token_above_200k_tokens": 4.0,
        "input_cost_per_token_above_32k_tokens": 1.5,
        "input_cost_per_token_above_200k_tokens_batches": 9.0,
    }
    assert table.prices(row, 32_000) == (1.0, 2.0, 0.1, 1.0)
    assert table.prices(row, 32_001) == (1.5, 2.0, 0.1, 1.5)
    assert table.prices(row, 200_001) == (3.0, 4.0, 0.1, 3.0)
    assert table.prices({}, 1) is None


@pytest.mark.parametrize(
    ("target", "shots", "says"),
    [
        (KnownModel.of("gpt-4"), 900, "does not fit: up to 1"),
        (KnownModel.of("gpt-4"), 9, "no price for cached input"),
        (KnownModel.of("gpt-4o-mini"), 9, "too short to be cached"),
        (KnownModel.of("deepseek/deepseek-chat"), 9, "an estimate by o200k_base, up to 25% more or less"),
        (KnownModel.of("deepseek/deepseek-chat"), 9, "withdrawn on 2026-07-24"),
        (KnownModel.of("micro"), 9, "no prices"),
    ],
    ids=str,
)
def test_what_one_should_know_before_sending_it_is_said(target, shots, says):
    assert any(says in text for text in count_prompt(make(shots), target).warnings)


def test_nothing_is_said_where_nothing_is_wrong():
    assert count_prompt(make(200), KnownModel.of("gpt-4o-mini")).warnings == ()


def test_an_overflow_is_noticed_to_the_token():
    prompt = make(20)
    counted = count_prompt(prompt, KnownModel.of("gpt-4o-mini"))
    needed = counted.tokens + counted.answer_tokens
    for context, fits in ((needed, True), (needed - 1, False)):
        told = count_prompt(prompt, replace(KnownModel.of("gpt-4o-mini"), context=context)).warnings
        assert fits is not any("does not fit" in text for text in told)


@pytest.mark.parametrize("queries", [0, -1, 1.5, True, None])
def test_a_number_of_queries_that_is_none_is_refused(queries):
    with pytest.raises(SettingError, match="queries"):
        count_prompt(make(5), KnownModel.of("gpt-4o-mini"), queries=queries)


def test_a_prompt_of_nothing_is_refused():
    with pytest.raises(DataError, match="without demonstrations"):
        count_prompt(make(0), KnownModel.of("gpt-4o-mini"))
    with pytest.raises(SettingError, match="'yaml'"):
        count_prompt(make(5), KnownModel.of("gpt-4o-mini"), layout="yaml")


def test_what_is_no_prompt_or_no_target_is_refused_with_what_to_pass():
    with pytest.raises(SettingError, match=r"KnownModel\.of\("):
        count_prompt(make(5), "gpt-4o-mini")
    for wrong in (
        "prompt.json",
        Random().select(Pool.from_records([{"text": "t", "label": "l"}], TEMPLATE), 1),
    ):
        with pytest.raises(SettingError, match=r"selection\.to_prompt"):
            count_prompt(wrong, KnownModel.of("gpt-4o-mini"))
