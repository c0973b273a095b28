"""What an example selector promises, whatever its method."""

import asyncio
import copy
import gc
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import langchain_icl
import pytest
from langchain_core.example_selectors import BaseExampleSelector
from langchain_core.prompts import (
    ChatPromptTemplate,
    FewShotChatMessagePromptTemplate,
    FewShotPromptTemplate,
    PromptTemplate,
)
from langchain_core.prompts.few_shot_with_templates import FewShotPromptWithTemplates
from langchain_icl import (
    GradientMatchingExampleSelector,
    ICLExampleSelector,
    KMeansExampleSelector,
    LatentBayesianExampleSelector,
    LazySelection,
    RandomExampleSelector,
    SimilarityExampleSelector,
)

import icl_plugins
from icl_plugins import ManyShotPrompt, Pool, Random
from icl_plugins.selection import Selector
from icl_plugins.selectors import latent_bayesian

METHODS = [name for name in icl_plugins.__all__ if hasattr(getattr(icl_plugins, name), "select")]
QUICK = {
    "GradientMatching": {"epochs": 1, "prefix_length": 2},
    "LatentBayesian": {"epochs": 1, "prefix_length": 2},
    "BestOfN": {"sets": 2, "held_out": 4},
}
QUERY = {"text": "any", "label": "any"}


class Slow:
    """Random, which starts when it may."""

    started, go = threading.Event(), threading.Event()

    def select(self, pool, shots=None, **limits):
        self.started.set()
        self.go.wait(10)
        return Random().select(pool, shots, **limits)


SLOW = Slow()


def pickled(selector):
    return pickle.loads(pickle.dumps(selector))  # noqa: S301 - its own


def gradients(proxy, records, k=4, **arguments):
    return GradientMatchingExampleSelector.from_examples(
        records,
        input_keys=["text"],
        output_key="label",
        k=k,
        proxy=proxy,
        epochs=1,
        prefix_length=2,
        **arguments,
    )


def lazily(counting, records, template, **arguments):
    return ICLExampleSelector.from_examples(records, template, k=4, selector=counting, **arguments)


@pytest.mark.parametrize("name", METHODS)
def test_every_selector_of_the_library_is_an_example_selector_too(name, records, template, proxy):
    kind, method = getattr(langchain_icl, f"{name}ExampleSelector"), getattr(icl_plugins, name)
    parts = {"proxy": proxy} if "proxy" in method.__dataclass_fields__ else {}
    settings = {**parts, **QUICK.get(name, {})}
    k = 2  # room for the tiny proxy
    selector = kind.from_examples(records, template, k=k, **settings)
    chosen = method(**settings).select(Pool.from_records(records, template), k)
    assert issubclass(kind, ICLExampleSelector) and isinstance(selector, BaseExampleSelector)
    assert selector.select_examples(QUERY) == list(chosen.examples)
    assert selector.selection.indices == chosen.indices


def test_selections_and_saved_prompts_are_sources_too(pool, tmp_path):
    selection = Random(seed=1).select(pool, 3)
    selection.to_prompt().save(tmp_path / "prompt.json")
    of_selection = ICLExampleSelector(selection)
    of_prompt = ICLExampleSelector(ManyShotPrompt.load(tmp_path / "prompt.json"))
    assert of_selection.select_examples({}) == of_prompt.select_examples({}) == list(selection.examples)
    assert of_selection.selection is selection


def test_any_object_that_selects_will_do(counting, records, template):
    assert isinstance(counting, Selector)
    assert len(lazily(counting, records, template).select_examples({})) == 4


def test_values_that_are_no_text_survive_and_other_keys_ride_along(records, template):
    rows = [{**row, "day": date(2026, 1, 1), "tags": [{"a": [1]}], "price": 1.5} for row in records]
    (example,) = RandomExampleSelector.from_examples(rows, template, k=1).select_examples(QUERY)
    assert example == rows[example["id"]]


def test_what_is_returned_is_the_callers_own(records, template):
    rows = [{**row, "tags": [{"a": [1]}]} for row in records]
    selector = RandomExampleSelector.from_examples(rows, template, k=2)
    first = selector.select_examples(QUERY)
    first[0]["tags"][0]["a"].append(2)
    first[0]["text"] = "changed"
    rows[0]["text"] = "changed"
    assert all(example["tags"] == [{"a": [1]}] for example in selector.select_examples(QUERY))
    assert all(example["text"] != "changed" for example in selector.select_examples(QUERY))


def test_a_token_budget_is_kept_and_used(records, template):
    selector = RandomExampleSelector.from_examples(records, template, max_tokens=80)
    chosen = selector.selection
    assert 1 < len(chosen) < len(records)
    assert chosen.details["tokens"] <= 80
    assert len(RandomExampleSelector.from_examples(records, template, k=1, max_tokens=80).selection) == 1


def test_quotas_count_the_output_key(records):
    selector = RandomExampleSelector.from_examples(
        records, input_keys=["text"], output_key="label", k=6, quotas={"exchange_rate": 4}
    )
    labels = [example["label"] for example in selector.select_examples(QUERY)]
    assert labels.count("exchange_rate") == 4


def test_the_seed_decides(records, template):
    def chosen(seed):
        return RandomExampleSelector.from_examples(records, template, k=5, seed=seed).select_examples(QUERY)

    assert chosen(1) == chosen(1) != chosen(2)


def test_nothing_is_chosen_before_it_is_needed_and_then_once_for_all_threads(counting, records, template):
    selector = lazily(counting, records, template)
    assert counting.sizes == []
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(selector.select_examples, [{}] * 16))
    assert counting.sizes == [12]
    assert all(result == results[0] for result in results)


def test_a_failed_choice_is_made_again_by_the_next_caller(records, template):
    class Failing:
        def select(self, pool, shots=None, **limits):
            if not failures:
                failures.append(1)
                raise OSError("disk full")
            return Random().select(pool, shots, **limits)

    failures = []
    selector = lazily(Failing(), records, template)
    with pytest.raises(OSError, match="disk full"):
        selector.select_examples({})
    assert len(selector.select_examples({})) == 4


def test_added_examples_count_from_the_next_call_on(counting, records, template):
    selector = lazily(counting, records, template)
    selector.select_examples({})
    for row in range(3):
        selector.add_example({"text": f"new {row}", "label": "exchange_rate"})
    assert counting.sizes == [12]
    selector.select_examples({})
    selector.select_examples({})
    assert counting.sizes == [12, 15]


def test_added_examples_wait_for_refresh_if_told_so(counting, records, template):
    selector = lazily(counting, records, template, renew="refresh")
    before = selector.select_examples({})
    selector.add_example({"text": "new", "label": "exchange_rate"})
    assert selector.select_examples({}) == before
    assert counting.sizes == [12]
    assert len(selector.refresh().pool) == 13
    assert selector.refresh() is selector.selection
    assert counting.sizes == [12, 13]


def test_an_added_example_can_be_chosen(records, template):
    new = {"text": "new", "label": "lost_or_stolen_phone", "id": 99}
    seeds = [RandomExampleSelector.from_examples(records[:2], template, k=2, seed=seed) for seed in range(9)]
    for selector in seeds:
        selector.add_example(new)
    assert any(new in selector.select_examples({}) for selector in seeds)


def test_only_the_gradients_of_the_new_row_are_computed(records, proxy):
    selector = gradients(proxy, records)
    selector.select_examples(QUERY)
    assert selector.selection.details["rows_computed"] == 12
    selector.add_example({"text": "what is the rate", "label": "exchange_rate"})
    selector.select_examples(QUERY)
    details = selector.selection.details
    assert (details["rows_computed"], details["curriculum_tuned_on"]) == (1, 12)
    assert len(selector.selection.pool) == 13


NEW = {"text": "what is the rate", "label": "exchange_rate"}


@pytest.mark.parametrize("kind", [KMeansExampleSelector, SimilarityExampleSelector])
def test_only_the_vector_of_the_new_row_is_computed(kind, records, template, proxy, monkeypatch):
    embedded = []
    embed = type(proxy).embed
    monkeypatch.setattr(
        type(proxy),
        "embed",
        lambda self, texts, **kw: embedded.append(list(texts)) or embed(self, texts, **kw),
    )
    selector = kind.from_examples(records, template, k=4, proxy=proxy)
    selector.select_examples(QUERY)
    selector.add_example(NEW)
    chosen = selector.select_examples(QUERY)
    assert [len(texts) for texts in embedded] == [12, 1]
    anew = kind.from_examples([*records, NEW], template, k=4, proxy=proxy)
    assert anew.select_examples(QUERY) == chosen


def test_only_the_loss_of_the_new_row_is_computed(records, template, proxy, monkeypatch):
    read = []
    losses = latent_bayesian.concept_losses
    monkeypatch.setattr(
        latent_bayesian,
        "concept_losses",
        lambda proxy, sequences, concept: read.append(len(sequences)) or losses(proxy, sequences, concept),
    )
    selector = LatentBayesianExampleSelector.from_examples(records, template, k=4, proxy=proxy, epochs=1)
    selector.select_examples(QUERY)
    selector.add_example(NEW)
    assert selector.refresh().details["concept_tuned_on"] == 12
    assert read == [12, 1]


def test_a_folder_for_gradients_is_used_where_one_is_named(records, proxy, tmp_path):
    gradients(proxy, records, store=tmp_path / "grads").select_examples(QUERY)
    again = gradients(proxy, records, store=tmp_path / "grads")
    assert again.selection.details["rows_computed"] == 0


def test_the_temporary_folder_goes_with_the_selector(records, proxy, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    selector = gradients(proxy, records)
    selector.select_examples(QUERY)
    assert len(list(tmp_path.iterdir())) == 1
    del selector
    gc.collect()
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, pickled])
def test_selectors_copy_and_pickle(duplicate, records, template):
    selector = RandomExampleSelector.from_examples(records, template, k=4, seed=3)
    unused = duplicate(selector)
    chosen = selector.select_examples(QUERY)
    assert unused.select_examples(QUERY) == duplicate(selector).select_examples(QUERY) == chosen


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled])
def test_a_copy_does_not_wait_for_a_running_choice(duplicate, records, template):
    lazy = lazily(SLOW, records, template)
    with ThreadPoolExecutor(1) as threads:
        SLOW.go.clear()
        SLOW.started.clear()
        running = threads.submit(lazy.select_examples, {})
        try:
            SLOW.started.wait(10)
            twin = duplicate(lazy)
            assert not running.done()
        finally:
            SLOW.go.set()
        assert twin.select_examples({}) == running.result()


def test_a_copy_goes_its_own_way(records, proxy):
    selector = gradients(proxy, records)
    chosen = selector.select_examples(QUERY)
    twin = copy.deepcopy(selector)
    twin.add_example({"text": "what is the rate", "label": "exchange_rate"})
    twin.select_examples(QUERY)
    assert len(twin.selection.pool) == 13
    assert selector.select_examples(QUERY) == chosen
    assert len(selector.selection.pool) == 12


def test_bars_are_off_unless_asked_for(records, proxy, capfd):
    gradients(proxy, records).select_examples(QUERY)
    assert capfd.readouterr() == ("", "")
    gradients(proxy, records, progress=True).select_examples(QUERY)
    out, err = capfd.readouterr()
    assert out == "" and "gradients" in err


async def test_from_a_running_loop_the_choice_is_made_in_another_thread(counting, records, template):
    threads = set()

    class Watched(type(counting)):
        def select(self, pool, shots=None, **limits):
            threads.add(threading.current_thread())
            return super().select(pool, shots, **limits)

    watched = Watched(seconds=0.05)
    selector = await ICLExampleSelector.afrom_examples(records, template, k=4, selector=watched)
    results = await asyncio.gather(*(selector.aselect_examples({}) for _ in range(4)))
    assert watched.sizes == [12] and threading.current_thread() not in threads
    await selector.aadd_example({"text": "new", "label": "exchange_rate"})
    assert len((await selector.arefresh()).pool) == 13
    assert results == [results[0]] * 4
    assert len(selector.select_examples({})) == 4  # the sync call works in a running loop as well


async def test_the_loop_goes_on_while_the_choice_is_made(records, template, counting):
    selector = lazily(type(counting)(seconds=0.3), records, template)
    choice = asyncio.create_task(selector.aselect_examples({}))
    ticks = 0
    while not choice.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert ticks > 5


def few_shot_prompts(selector):
    pair = PromptTemplate.from_template("{text} -> {label}")
    turns = ChatPromptTemplate.from_messages([("human", "{text}"), ("ai", "{label}")])
    chat = FewShotChatMessagePromptTemplate(example_selector=selector, example_prompt=turns)
    ending = PromptTemplate.from_template("{text} ->")
    return {
        "string": FewShotPromptTemplate(example_selector=selector, example_prompt=pair, suffix="{text} ->"),
        "chat": ChatPromptTemplate.from_messages([chat, ("human", "{text}")]),
        "templates": FewShotPromptWithTemplates(
            example_selector=selector, example_prompt=pair, suffix=ending, input_variables=["text"]
        ),
    }


@pytest.mark.parametrize("kind", ["string", "chat", "templates"])
async def test_few_shot_templates_take_it_in_every_way_they_run(kind, records):
    selector = RandomExampleSelector.from_examples(records, input_keys=["text"], output_key="label", k=3)
    prompt = few_shot_prompts(selector)[kind]
    value = prompt.invoke({"text": "q"})
    shots = selector.select_examples({"text": "q"})
    assert all(part in value.to_string() for shot in shots for part in (shot["text"], shot["label"]))
    assert [len(value.to_messages())] == [7 if kind == "chat" else 1]
    assert await prompt.ainvoke({"text": "q"}) == value
    assert prompt.batch([{"text": "q"}] * 3) == [value] * 3
    assert await prompt.abatch([{"text": "q"}] * 3) == [value] * 3
    assert list(prompt.stream({"text": "q"})) == [value]
    assert [part async for part in prompt.astream({"text": "q"})] == [value]


def test_a_lazy_selection_takes_every_limit_of_the_library(pool):
    lazy = LazySelection(Random(), pool, 4, include=[7], exclude=[0, 1])
    chosen = ICLExampleSelector(lazy).selection
    assert chosen.indices[0] == 7 and not {0, 1} & set(chosen.indices)
    assert len(chosen) == 4
