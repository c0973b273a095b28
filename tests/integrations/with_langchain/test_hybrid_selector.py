"""What HybridExampleSelector promises: fixed examples that stay, the nearest behind them, at any hour."""

import asyncio
import copy
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.example_selectors import BaseExampleSelector
from langchain_core.prompts import ChatPromptTemplate, FewShotChatMessagePromptTemplate
from langchain_icl import HybridExampleSelector

from icl_plugins import GradientMatching, Pool, Random
from icl_plugins.errors import BudgetError, DataError, SettingError, TemplateError, TooLongError
from icl_plugins.selectors.hybrid import Hybrid

QUERIES = [{"text": f"my {word} has not arrived {n}", "more": n} for n in range(8) for word in "abcd"]
NEW = {"text": "an entirely new matter", "label": "exchange_rate"}
MATTER = {"text": "entirely new matter"}


@pytest.fixture
def make(records, template):
    def make(k=4, m=3, selector=None, **settings):
        chooser = Random() if selector is None else selector
        return HybridExampleSelector.from_examples(records, template, k=k, m=m, selector=chooser, **settings)

    return make


def pickled(selector):
    return pickle.loads(pickle.dumps(selector))  # noqa: S301 - its own


def ids(examples):
    return [example.get("id") for example in examples]


@pytest.mark.parametrize("nearest", ["bm25", "proxy"])
def test_it_gives_what_the_library_chooses(make, pool, proxy, nearest):
    selector = make(nearest=nearest, proxy=proxy)
    prompt = Hybrid(Random(), nearest, m=3, proxy=proxy).fit(pool, 4)
    assert isinstance(selector, BaseExampleSelector)
    for query in QUERIES:
        rows = (*prompt.selection.indices, *prompt.rows_for(query))
        assert selector.select_examples(query) == [pool.examples[row] for row in rows]


def test_the_fixed_examples_come_first_and_no_example_twice(make):
    selector = make()
    fixed = list(selector.selection.examples)
    for query in QUERIES:
        found = selector.select_examples(query)
        assert found[:4] == fixed and len(set(ids(found))) == len(found) == 7
        found[0]["text"] = "changed"


def test_the_default_for_the_fixed_examples_is_gradient_matching(records, template, proxy):
    selector = HybridExampleSelector.from_examples(
        records, template, k=2, m=1, selector=GradientMatching(proxy=proxy, epochs=1, prefix_length=2)
    )
    assert selector.selection.config["selector"] == "GradientMatching"
    default = HybridExampleSelector.from_examples(records, template, k=2, m=1)
    assert default._hybrid.fixed == GradientMatching()


def test_a_token_budget_is_for_both(make, records, template):
    selector = make(k=None, max_tokens=140)
    for query in QUERIES:
        shown = selector.select_examples(query)
        joined = "".join(template.render(example) + template.separator for example in shown)
        assert 3 < len(shown) < len(records) and len(joined.split()) <= 140
    assert selector.selection.details["tokens"] <= 140


def test_an_added_example_is_retrieved_at_once_and_fixed_after_refresh_at_the_earliest(make):
    selector = make(m=1)
    fixed = selector.select_examples(MATTER)[:4]
    selector.add_example(NEW)
    for query in (*QUERIES, MATTER):
        assert selector.select_examples(query)[:4] == fixed
    assert selector.select_examples(MATTER)[-1] == NEW
    assert len(selector.selection.pool) == 12
    assert len(selector.refresh().pool) == 13
    assert NEW in selector.select_examples(MATTER)
    assert selector.refresh() is selector.selection


def test_only_the_gradients_and_vectors_of_a_new_row_are_computed(make, proxy, monkeypatch):
    embedded = []
    embed = type(proxy).embed
    monkeypatch.setattr(
        type(proxy),
        "embed",
        lambda self, texts, **kw: embedded.append(len(texts)) or embed(self, texts, **kw),
    )
    gradients = GradientMatching(proxy=proxy, epochs=1, prefix_length=2)
    selector = make(selector=gradients, nearest="proxy", proxy=proxy)
    selector.select_examples(MATTER)
    selector.add_example(NEW)
    assert selector.select_examples(MATTER)[-1] == NEW
    assert embedded == [12, 8, 1, 1, 1]  # answers too, for the method; then questions
    details = selector.refresh().details
    assert (details["rows_computed"], details["curriculum_tuned_on"]) == (1, 12)


def test_an_added_example_that_cannot_be_retrieved_is_named_once_and_dropped(make, proxy):
    selector = make(nearest="proxy", proxy=proxy)
    before = selector.select_examples(MATTER)
    long = {"text": "too long " * 200, "label": "exchange_rate"}
    selector.add_example(NEW)
    assert selector.select_examples(MATTER)[-1] == NEW
    selector.add_example(long)
    with pytest.raises(TooLongError, match="1 added examples, which are dropped: .*too long"):
        selector.select_examples(MATTER)
    assert selector.select_examples(MATTER) == [*before[:4], *before[5:], NEW]
    selector.add_example(long)
    with pytest.raises(TooLongError, match="2 added examples, which are dropped"):
        selector.refresh()
    assert selector.select_examples(MATTER) == before


def test_the_choice_is_made_once_for_all_threads_and_each_gets_its_own_nearest(make, counting, records):
    selector = make(selector=counting)
    expected = [make().select_examples(query) for query in QUERIES]
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(selector.select_examples, QUERIES)) == expected
    assert counting.sizes == [len(records)]


@pytest.mark.parametrize("nearest", ["bm25", "proxy"])
async def test_32_queries_at_once_each_get_their_own_off_the_event_loop(make, proxy, nearest):
    selector = make(nearest=nearest, proxy=proxy)
    expected = [selector.select_examples(query) for query in QUERIES]
    assert len(QUERIES) == 32
    assert await asyncio.gather(*map(selector.aselect_examples, QUERIES)) == expected


async def test_the_loop_goes_on_while_examples_are_ranked(make):
    class Slow:
        threads = set()

        def ranker(self, pool, rows):
            def rank(question):
                self.threads.add(threading.current_thread())
                release.wait(5)
                return rows

            return rank

    release = threading.Event()
    slow = Slow()
    asked = asyncio.create_task(make(nearest=slow).aselect_examples(MATTER))
    while not slow.threads:
        await asyncio.sleep(0.01)
    release.set()
    assert len(await asked) == 7 and threading.current_thread() not in slow.threads


def test_queries_go_on_with_the_old_block_while_a_new_one_is_chosen(make, counting):
    started, go = threading.Event(), threading.Event()

    class Gate(type(counting)):
        def select(self, pool, shots=None, **limits):
            if self.sizes:
                started.set()
                go.wait(10)
            return super().select(pool, shots, **limits)

    selector = make(selector=Gate())
    before = selector.select_examples(QUERIES[0])
    selector.add_example(NEW)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(selector.refresh)
        try:
            assert started.wait(10)
            assert selector.select_examples(QUERIES[0])[:4] == before[:4]
            assert selector.select_examples(MATTER)[-1] == NEW and not running.done()
        finally:
            go.set()
        assert len(running.result().pool) == 13


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, pickled])
def test_it_copies_and_pickles_with_what_was_added(make, duplicate):
    selector = make()
    unused = duplicate(selector)
    selector.select_examples(MATTER)
    selector.add_example(NEW)
    assert len(unused.select_examples(MATTER)) == 7
    twin = duplicate(selector)
    assert twin.select_examples(MATTER) == selector.select_examples(MATTER)


async def test_a_chat_prompt_begins_with_the_same_messages_for_every_query(make):
    turns = ChatPromptTemplate.from_messages([("human", "{text}"), ("ai", "{label}")])
    shots = FewShotChatMessagePromptTemplate(example_selector=make(), example_prompt=turns)
    prompt = ChatPromptTemplate.from_messages([("system", "Name it."), shots, ("human", "{text}")])
    values = [value.to_messages() for value in await prompt.abatch(QUERIES)]
    assert [value.to_messages() for value in prompt.batch(QUERIES)] == values
    assert all(messages[:9] == values[0][:9] and len(messages) == 16 for messages in values)
    assert len({str(messages[9:-1]) for messages in values}) > 1


def test_leave_out_same_and_the_other_settings_reach_the_hybrid(make, records):
    selector = make(leave_out_same=True)
    for record in records:
        assert record not in selector.select_examples(record)[4:]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"k": 0}, SettingError),
        ({"k": None}, SettingError),
        ({"m": 0}, SettingError),
        ({"m": True}, SettingError),
        ({"k": 9, "m": 4}, BudgetError),
        ({"nearest": ""}, SettingError),
        ({"nearest": 5}, SettingError),
        ({"seed": 1}, SettingError),
        ({"selector": Random}, SettingError),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_before_any_work(make, counting, arguments, error):
    with pytest.raises(error):
        make(**{"selector": counting, **arguments})
    assert counting.sizes == []


def test_no_examples_a_wrong_template_and_a_missing_input_are_refused(make, records):
    with pytest.raises(DataError, match="no examples"):
        HybridExampleSelector.from_examples([], input_keys=["text"], output_key="label", k=1)
    with pytest.raises(SettingError, match="template"):
        HybridExampleSelector.from_examples(records, "{text}", k=1)
    with pytest.raises(TemplateError, match="text"):
        make().select_examples({"txt": "?"})
    with pytest.raises(BudgetError, match="nearest"):
        make(k=None, max_tokens=30).select_examples(MATTER)
    keyed = HybridExampleSelector.from_examples(
        records, input_keys=["text"], output_key="label", k=2, selector=Random()
    )
    assert len(keyed.select_examples({"text": 7})) == 6


def test_a_pool_of_texts_is_what_the_library_makes_of_the_same_records(make, records, template):
    assert make().prompt.pool == Pool.from_records(records, template)
