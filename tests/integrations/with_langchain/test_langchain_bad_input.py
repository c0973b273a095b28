"""What is refused, before any work, and how."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_icl import (
    GradientMatchingExampleSelector,
    ICLExampleSelector,
    LazySelection,
    RandomExampleSelector,
    plain_template,
)

from icl_plugins import Random, Template
from icl_plugins.errors import BudgetError, DataError, SettingError, TemplateError, TooLongError

KEYS = {"input_keys": ["text"], "output_key": "label"}


def test_no_examples_are_refused():
    for examples in ([], iter(())):
        with pytest.raises(DataError, match="no examples"):
            RandomExampleSelector.from_examples(examples, **KEYS, k=1)


def test_an_example_without_one_of_the_keys_is_refused_by_its_row(records):
    del records[3]["text"]
    with pytest.raises(TemplateError, match=r"example 3: no field 'text'"):
        RandomExampleSelector.from_examples(records, **KEYS, k=1)


def test_a_call_without_an_input_key_is_refused_by_its_name(records):
    selector = RandomExampleSelector.from_examples(records, **KEYS, k=1)
    with pytest.raises(DataError, match="no input variable 'text'"):
        selector.select_examples({"txt": "q"})
    assert len(selector.select_examples({"text": ["no", "text"], "more": object()})) == 1


async def test_a_call_without_an_input_key_is_refused_in_async_code_too(records):
    selector = RandomExampleSelector.from_examples(records, **KEYS, k=1)
    for _ in range(2):
        with pytest.raises(DataError, match="no input variable 'text'"):
            await selector.aselect_examples({})
        await selector.aselect_examples({"text": "q"})


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        ({}, SettingError),
        ({"k": 0}, SettingError),
        ({"k": 13}, BudgetError),
        ({"k": 2.5}, SettingError),
        ({"max_tokens": 0}, SettingError),
        ({"k": 4, "quotas": {"no such label": 1}}, SettingError),
    ],
)
def test_limits_that_cannot_be_met_are_refused_before_anything_is_chosen(records, template, limits, error):
    with pytest.raises(error):
        GradientMatchingExampleSelector.from_examples(records, template, proxy="no such proxy", **limits)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({}, "neither k nor"),
        ({"k": 0}, "k=0"),
        ({"k": "3"}, "k='3'"),
        ({"k": True}, "k=True"),
        ({"k": 13}, "k=13"),
    ],
)
def test_k_is_refused_under_its_own_name(records, template, limits, says):
    with pytest.raises(SettingError, match=says) as refused:
        RandomExampleSelector.from_examples(records, template, **limits)
    assert "shots" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ({}, "input_keys"),
        ({"input_keys": ["text"]}, "output"),
        ({"output_key": "label"}, "input_keys"),
        ({"input_keys": "text", "output_key": "label"}, "list"),
        ({"input_keys": ["text", "label"], "output_key": "label"}, "none of them the output key"),
        ({"input_keys": ["a.b"], "output_key": "label"}, "Template"),
        ({**KEYS, "sed": 1}, "settings of Random: seed"),
        ({**KEYS, "selector": Random()}, "ICLExampleSelector"),
        ({**KEYS, "renew": "never"}, "refresh"),
        ({**KEYS, "output_key": 5}, "output_key=5"),
        ({"template": ["text"]}, "a list as template.*input_keys"),
        ({"template": "{text} {label}"}, "a str as template"),
        ({"template": Template("{text}", "{label}"), "output_key": ["label"]}, "output_key"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(records, arguments, hint):
    with pytest.raises(SettingError, match=hint):
        RandomExampleSelector.from_examples(records, k=2, **arguments)


def test_the_generic_selector_needs_a_selector_with_its_settings(records):
    for wrong in ({}, {"selector": Random(), "seed": 1}):
        with pytest.raises(SettingError, match="selector"):
            ICLExampleSelector.from_examples(records, **KEYS, k=2, **wrong)


@pytest.mark.parametrize("wrong", ["random", Random, None])
def test_what_selects_nothing_is_no_selector(records, pool, wrong):
    with pytest.raises(SettingError, match="selector"):
        ICLExampleSelector.from_examples(records, **KEYS, k=2, selector=wrong)
    with pytest.raises(SettingError, match="as selector"):
        LazySelection(wrong, pool, 2)


def test_records_are_no_pool(records):
    with pytest.raises(SettingError, match=r"Pool\.from_records"):
        LazySelection(Random(), records, 2)


def test_a_source_that_is_none_is_refused_at_once(records):
    for wrong in (records, Random(), None):
        with pytest.raises(SettingError, match=r"RandomExampleSelector\.from_examples"):
            RandomExampleSelector(wrong)


def test_a_fixed_choice_takes_no_examples_and_a_saved_prompt_has_no_selection(records, pool):
    selection = Random().select(pool, 2)
    for source in (selection, selection.to_prompt()):
        with pytest.raises(SettingError, match="from_examples"):
            ICLExampleSelector(source).add_example(records[0])
    with pytest.raises(SettingError, match="saved prompt"):
        _ = ICLExampleSelector(selection.to_prompt()).selection


@pytest.mark.parametrize("wrong", [{}, {"text": "q"}, {"text": "q", "label": ""}, ["text"], None])
def test_an_example_that_cannot_be_rendered_is_refused_and_changes_nothing(records, wrong):
    selector = RandomExampleSelector.from_examples(records, **KEYS, k=2)
    chosen = selector.select_examples({"text": "q"})
    with pytest.raises(DataError):
        selector.add_example(wrong)
    assert selector.select_examples({"text": "q"}) == chosen
    assert len(selector.refresh().pool) == 12


LONG = {"text": "my card " * 3000, "label": "card_arrival"}


@pytest.mark.parametrize("renew", ["next_call", "refresh"])
def test_one_bad_addition_is_told_once_and_the_last_good_choice_goes_on(records, proxy, renew):
    settings = {"proxy": proxy, "epochs": 1, "prefix_length": 2, "renew": renew}
    selector = GradientMatchingExampleSelector.from_examples(records, **KEYS, k=4, **settings)
    chosen = selector.select_examples({"text": "q"})
    selector.add_example(LONG)
    with pytest.raises(TooLongError, match=r"1 added examples, which are dropped: \{'text': 'my card"):
        selector.refresh() if renew == "refresh" else selector.select_examples({"text": "q"})
    assert selector.select_examples({"text": "q"}) == chosen
    selector.add_example({"text": "what is the rate", "label": "exchange_rate"})
    assert len(selector.refresh().pool) == 13
    assert selector.selection.details["rows_computed"] == 1


def test_a_bad_addition_before_the_first_choice_is_told_once(records, proxy):
    settings = {"proxy": proxy, "epochs": 1, "prefix_length": 2}
    selector = GradientMatchingExampleSelector.from_examples(records, **KEYS, k=4, **settings)
    selector.add_example(LONG)
    with pytest.raises(TooLongError, match="dropped"):
        selector.select_examples({"text": "q"})
    assert len(selector.select_examples({"text": "q"})) == 4


def test_of_many_threads_one_is_told_of_a_bad_addition(records, template):
    class Choosy:
        def select(self, pool, shots=None, **limits):
            time.sleep(0.05)
            if any(example["text"] == "bad" for example in pool):
                raise DataError("bad", expected="good", fix="leave it out")
            return Random().select(pool, shots, **limits)

    selector = ICLExampleSelector.from_examples(records, template, k=4, selector=Choosy())
    chosen = selector.select_examples({})
    selector.add_example({"text": "bad", "label": "exchange_rate"})

    def work(_):
        try:
            return selector.select_examples({})
        except DataError:
            return None

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(work, range(16)))
    assert results.count(None) == 1 and results.count(chosen) == 15


def test_a_choice_that_fails_for_another_reason_loses_no_addition(records, template):
    class Failing:
        def select(self, pool, shots=None, **limits):
            if len(pool) > 12 and not failures:
                failures.append(1)
                raise OSError("disk full")
            return Random().select(pool, shots, **limits)

    failures = []
    selector = ICLExampleSelector.from_examples(records, template, k=4, selector=Failing())
    selector.select_examples({})
    selector.add_example({"text": "new", "label": "exchange_rate"})
    with pytest.raises(OSError, match="disk full"):
        selector.select_examples({})
    selector.select_examples({})
    assert len(selector.selection.pool) == 13


def test_a_label_that_the_limits_have_no_room_for_is_not_added(records):
    selector = RandomExampleSelector.from_examples(records, **KEYS, k=3, quotas=1)
    chosen = selector.select_examples({"text": "q"})
    with pytest.raises(BudgetError, match="ask for 4, and shots=3"):
        selector.add_example({"text": "new", "label": "a fourth"})
    assert selector.select_examples({"text": "q"}) == chosen
    selector.add_example({"text": "new", "label": "exchange_rate"})
    assert len(selector.refresh().pool) == 13


def test_examples_added_by_many_threads_while_others_read_are_all_there(counting, records, template):
    selector = ICLExampleSelector.from_examples(records, template, k=4, selector=counting)

    def work(row):
        selector.add_example({"text": f"new {row}", "label": "exchange_rate"})
        return len(selector.select_examples({}))

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(work, range(40))) == {4}
    texts = [example["text"] for example in selector.selection.pool.examples]
    assert sorted(texts[12:]) == sorted(f"new {row}" for row in range(40))
    assert len(counting.sizes) < 42


def test_every_reader_sees_what_it_has_added(pool, counting):
    lazy = LazySelection(counting, pool, 1)

    def work(row):
        lazy.add({"text": f"new {row}", "label": "exchange_rate"})
        return f"new {row}" in [example["text"] for example in lazy.selection.pool.examples]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(24)))


async def test_a_running_loop_is_no_obstacle_to_sync_code(records):
    selector = RandomExampleSelector.from_examples(records, **KEYS, k=2)
    assert selector.select_examples({"text": "q"}) == await selector.aselect_examples({"text": "q"})


def test_keys_become_lines_of_a_plain_template():
    template = plain_template(["title", "text"], "label")
    example = {"title": "T {x}", "text": "B", "label": "L"}
    assert template.render(example) == "title: T {x}\ntext: B\nlabel: L"


def test_without_langchain_core_the_error_has_the_pip_line():
    hide = "import sys; sys.modules['langchain_core'] = None; import langchain_icl"
    done = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True)
    assert "OptionalDependencyError" in done.stderr
    assert "pip install 'icl-plugins[langchain]'" in done.stderr


def test_importing_the_integration_loads_no_torch_and_the_library_no_langchain():
    check = (
        "import sys, icl_plugins; assert 'langchain_core' not in sys.modules;"
        "import langchain_icl; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
