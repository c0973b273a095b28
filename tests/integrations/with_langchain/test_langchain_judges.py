"""What langchain-core asks of its own selectors and few-shot templates, asked of ours."""

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.prompts import (
    AIMessagePromptTemplate,
    ChatPromptTemplate,
    FewShotChatMessagePromptTemplate,
    FewShotPromptTemplate,
    HumanMessagePromptTemplate,
    PromptTemplate,
    SystemMessagePromptTemplate,
)
from langchain_core.prompts.few_shot_with_templates import FewShotPromptWithTemplates
from langchain_icl import ICLExampleSelector, RandomExampleSelector

from icl_plugins import Pool, Selection, Template
from icl_plugins.errors import BudgetError, DataError

WORDS = [{"question": "foo", "answer": "bar"}, {"question": "baz", "answer": "foo"}]
SUMS = [{"input": "2+2", "output": "4"}, {"input": "2+3", "output": "5"}]
PAIR = PromptTemplate.from_template("{question}: {answer}")


def as_is(examples):
    """All the examples in their order."""
    question, answer = examples[0]  # its keys
    pool = Pool.from_records(examples, Template(question=f"{{{question}}}", answer=f" {{{answer}}}"))
    return ICLExampleSelector(Selection(pool, tuple(range(len(pool))), (0.0,) * len(pool)))


# selectors: test_base


async def test_an_example_added_in_async_code_is_there():
    selector = RandomExampleSelector.from_examples(WORDS, input_keys=["question"], output_key="answer", k=2)
    await selector.aadd_example({"question": "new", "answer": "one"})
    await selector.arefresh()
    assert selector.selection.pool.examples[-1] == {"question": "new", "answer": "one"}


async def test_examples_selected_in_async_code_are_those_of_sync_code():
    selector = as_is(WORDS)
    assert await selector.aselect_examples({"question": "x"}) == selector.select_examples({}) == WORDS


# selectors: test_length_based, with the budget in tokens; ours counts demonstrations, not the query

LONG = [{"question": "who are you?", "answer": "foo"}] * 2
LENGTHS = Template(question="Question: {question}\nAnswer:", answer=" {answer}")


def budgeted(examples, max_tokens):
    return RandomExampleSelector.from_examples(examples, LENGTHS, max_tokens=max_tokens)


def tokens(examples):
    return budgeted(examples, 10_000).selection.details["tokens"]


def test_all_examples_that_fit_are_taken():
    assert budgeted(LONG, tokens(LONG)).select_examples({"question": "Short question?"}) == LONG


def test_an_added_example_that_fits_is_taken_too():
    new = {"question": "what are you?", "answer": "bar"}
    selector = budgeted(LONG, tokens([*LONG, new]))
    selector.add_example(new)
    chosen = selector.select_examples({"question": "Short question?"})
    assert sorted(chosen, key=str) == sorted([*LONG, new], key=str)


def test_one_example_too_many_is_left_out():
    assert budgeted(LONG, tokens(LONG) - 1).select_examples({"question": "x"}) == LONG[:1]


def test_a_budget_that_holds_no_example_is_refused_where_langchain_returns_none():
    with pytest.raises(BudgetError):
        budgeted(LONG, tokens(LONG[:1]) - 1).select_examples({"question": "x"})


def test_no_examples_are_refused_where_langchain_returns_none():
    with pytest.raises(DataError, match="no examples"):
        budgeted([], 30)


# templates: test_few_shot, test_few_shot_with_templates


async def test_few_shot_string_prompts_with_the_selector():
    prompt = FewShotPromptTemplate(
        input_variables=["foo"],
        suffix="This is a {foo} test.",
        example_prompt=PAIR,
        example_selector=as_is(WORDS),
    )
    expected = "foo: bar\n\nbaz: foo\n\nThis is a bar test."
    assert prompt.format(foo="bar") == await prompt.aformat(foo="bar") == expected


def test_input_variables_are_inferred_from_prefix_and_suffix():
    prompt = FewShotPromptTemplate(
        prefix="About {bar}.", suffix="A {foo} test.", example_prompt=PAIR, example_selector=as_is(WORDS)
    )
    assert prompt.input_variables == ["bar", "foo"]


@pytest.mark.parametrize("content", ["animals", lambda: "animals"])
async def test_partial_variables_with_the_selector(content):
    prompt = FewShotPromptTemplate(
        prefix="This is a test about {content}.",
        suffix="Now you try to talk about {new_content}.",
        input_variables=["new_content"],
        partial_variables={"content": content},
        example_prompt=PAIR,
        example_selector=as_is(WORDS),
        example_separator="\n",
    )
    expected = "This is a test about animals.\nfoo: bar\nbaz: foo\nNow you try to talk about party."
    assert prompt.format(new_content="party") == await prompt.aformat(new_content="party") == expected
    assert prompt.partial(content="animals").format(new_content="party") == expected


async def test_few_shot_chat_prompts_with_the_selector():
    few_shot = FewShotChatMessagePromptTemplate(
        input_variables=["input"],
        example_prompt=ChatPromptTemplate.from_messages(
            [
                HumanMessagePromptTemplate.from_template("{input}"),
                AIMessagePromptTemplate.from_template("{output}"),
            ]
        ),
        example_selector=as_is(SUMS),
    )
    prompt = (
        SystemMessagePromptTemplate.from_template("You are a helpful AI Assistant")
        + few_shot
        + HumanMessagePromptTemplate.from_template("{input}")
    )
    expected = [
        SystemMessage("You are a helpful AI Assistant"),
        HumanMessage("2+2"),
        AIMessage("4"),
        HumanMessage("2+3"),
        AIMessage("5"),
        HumanMessage("100 + 1"),
    ]
    assert prompt.input_variables == ["input"]
    assert prompt.format_messages(input="100 + 1") == expected
    assert await prompt.aformat_messages(input="100 + 1") == expected


async def test_few_shot_prompts_with_templates_and_the_selector():
    prompt = FewShotPromptWithTemplates(
        prefix=PromptTemplate.from_template("This is a test about {content}."),
        suffix=PromptTemplate.from_template("Now you try to talk about {new_content}."),
        input_variables=["content", "new_content"],
        example_prompt=PAIR,
        example_selector=as_is(WORDS),
        example_separator="\n",
    )
    expected = "This is a test about animals.\nfoo: bar\nbaz: foo\nNow you try to talk about party."
    fields = {"content": "animals", "new_content": "party"}
    assert prompt.format(**fields) == await prompt.aformat(**fields) == expected
