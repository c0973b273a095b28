"""The messages of a prompt in the OpenAI client, any version of it, against a real server."""

from itertools import pairwise

import pytest
from openai import AsyncOpenAI, OpenAI
from openai_icl import KnownModel

from icl_plugins import Pool, Random, Template

RECORDS = [
    {"text": "where is {my} card </s>", "label": "card"},
    {"text": "what is the rate", "label": "rate"},
    {"text": "I lost my phone", "label": "phone"},
]
TEMPLATE = Template(question="Query: {text}\nIntent:", answer=" {label}")
LAYOUTS = ("turns", "single", "json")


@pytest.fixture(scope="module")
def prompt():
    return Random().select(Pool.from_records(RECORDS * 4, TEMPLATE), 12).to_prompt("Name the intent.")


@pytest.fixture
def client(server):
    with OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.parametrize("layout", LAYOUTS)
def test_chat_completions_take_every_layout_and_read_as_many_tokens_as_counted(
    client, server, prompt, layout
):
    messages = prompt.messages({"text": "what is the rate"}, layout)
    reply = client.chat.completions.create(model=server.model, messages=messages, temperature=0, max_tokens=4)
    assert reply.usage.prompt_tokens == KnownModel.of(server.model).count(messages)
    if layout != "json":  # the local model has never seen JSON
        assert reply.choices[0].message.content.split()[0] == "rate"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_responses_api_takes_every_layout(client, server, prompt, layout):
    messages = prompt.messages({"text": "what is the rate"}, layout)
    reply = client.responses.create(
        model=server.model, input=messages, temperature=0, max_output_tokens=4, stream=False
    )
    assert reply.usage.input_tokens == KnownModel.of(server.model).count(messages)
    assert layout == "json" or reply.output_text.split()[0] == "rate"


def test_a_streamed_reply_says_the_same(client, server, prompt):
    request = {
        "model": server.model,
        "messages": prompt.messages({"text": "I lost my phone"}),
        "temperature": 0,
        "max_tokens": 4,
    }
    parts = client.chat.completions.create(**request, stream=True)
    streamed = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert streamed == client.chat.completions.create(**request).choices[0].message.content


async def test_the_async_client_takes_the_messages(server, prompt):
    async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        reply = await client.chat.completions.create(
            model=server.model, messages=prompt.messages({"text": "what is the rate"}), max_tokens=4
        )
    assert reply.choices[0].message.role == "assistant"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_request_begins_with_the_same_bytes(prompt, layout):
    """What a prefix cache needs: all messages before the query, and all text before it, stay equal."""
    asked = [prompt.messages({"text": text}, layout) for text in ("a", "", "where {is} it?", "a\n\nb")]
    for one, other in pairwise(asked):
        assert one[:-1] == other[:-1] and one[-1]["role"] == "user"
        fixed = prompt.prefix if layout == "single" else "Query: "
        assert one[-1]["content"].startswith(fixed) and other[-1]["content"].startswith(fixed)
