"""Chains against a real OpenAI-compatible server on loopback."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import LLM
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, FewShotChatMessagePromptTemplate
from langchain_icl import RandomExampleSelector, as_chat_prompt, as_string_prompt
from langchain_openai import ChatOpenAI
from openai import OpenAI

from icl_plugins import Pool, Random, Template

EXAMPLES = Path(__file__).parents[3] / "examples"
QUESTIONS = {"my card is late": "card", "what is the rate": "rate"}
RECORDS = [{"text": text, "label": label} for _ in range(6) for text, label in QUESTIONS.items()]


@pytest.fixture(scope="module")
def prompt():
    pool = Pool.from_records(RECORDS, Template(question="Query: {text}\nIntent:", answer=" {label}"))
    return Random().select(pool, 12).to_prompt("Name the intent.")


@pytest.fixture(scope="module")
def chat(server):
    return ChatOpenAI(
        base_url=server.base_url, model=server.model, api_key="none", temperature=0, max_tokens=6
    )


@pytest.fixture(scope="module")
def client(server):
    with OpenAI(base_url=server.base_url, api_key="none") as client:
        yield client


@pytest.fixture(scope="module")
def expected(prompt, server, client):
    """What the server answers to the library's own messages, without LangChain."""
    settings = {"model": server.model, "temperature": 0, "max_tokens": 6}
    replies = [
        client.chat.completions.create(messages=prompt.messages({"text": text}), **settings)
        for text in QUESTIONS
    ]
    answers = [reply.choices[0].message.content for reply in replies]
    assert {answer.strip() for answer in answers} <= set(QUESTIONS.values())
    return answers


async def test_a_chain_answers_in_every_way_what_the_bare_client_does(prompt, chat, expected):
    chain = as_chat_prompt(prompt) | chat | StrOutputParser()
    inputs = [{"text": text} for text in QUESTIONS]
    assert chain.batch(inputs) == expected
    assert await chain.ainvoke(inputs[0]) == expected[0]
    assert "".join(chain.stream(inputs[1])) == expected[1]


def test_the_server_reads_as_many_tokens_as_without_langchain(prompt, chat):
    reply = (as_chat_prompt(prompt) | chat).invoke({"text": "{q}"})
    direct = chat.invoke(prompt.messages({"text": "{q}"}))
    assert reply.usage_metadata == direct.usage_metadata
    assert reply.content == direct.content


def test_a_few_shot_chain_of_the_example_selector_answers_as_the_fixed_prompt_does(chat, expected):
    turns = ChatPromptTemplate.from_messages([("human", "Query: {text}\nIntent:"), ("ai", "{label}")])
    selector = RandomExampleSelector.from_examples(RECORDS, input_keys=["text"], output_key="label", k=12)
    few_shot = FewShotChatMessagePromptTemplate(example_selector=selector, example_prompt=turns)
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Name the intent."), few_shot, ("human", "Query: {text}\nIntent:")]
    )
    assert (prompt | chat | StrOutputParser()).batch([{"text": text} for text in QUESTIONS]) == expected


class Completions(LLM):
    """The completions of a server that takes one prompt, where langchain-openai sends a list."""

    client: Any
    model: str

    @property
    def _llm_type(self):
        return "completions"

    def _call(self, prompt, stop=None, run_manager=None, **kwargs):
        reply = self.client.completions.create(model=self.model, prompt=prompt, temperature=0, max_tokens=6)
        return reply.choices[0].text


def test_a_completion_chain_of_the_string_prompt_answers_what_the_librarys_text_gets(prompt, server, client):
    completions = Completions(client=client, model=server.model)
    answers = (as_string_prompt(prompt) | completions).batch([{"text": text} for text in QUESTIONS])
    assert answers == [completions.invoke(prompt.text({"text": text})) for text in QUESTIONS]
    assert all(answer.strip() for answer in answers)


@pytest.mark.parametrize("name", ["langchain_intents", "langchain_retrieval"])
def test_the_examples_end_with_a_number(name, server):
    quick = (
        f"from functools import partial; import {name} as it;"
        "it.GradientMatching = partial(it.GradientMatching, epochs=1);"
        "questions = it.questions; it.questions = lambda: questions()[:400];"
        "it.SHOTS, it.TEST, it.SEEDS = 4, 4, range(2); it.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", quick, "--model", server.model, "--base-url", server.base_url],
        cwd=EXAMPLES,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1].startswith("gain: ")
