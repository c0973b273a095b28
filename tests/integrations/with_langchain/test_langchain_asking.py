"""What a state is asked: the prompt in front of the messages, once."""

from dataclasses import replace

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, ChatMessage, HumanMessage, SystemMessage
from langchain_core.messages import ToolMessage as Tool
from langchain_icl import as_chat_prompt, as_string_prompt
from langchain_icl.asking import as_dicts, behind

from icl_plugins.errors import DataError

FIELDS = {"text": "a new card"}
QUESTION = "Query: a new card\nIntent:"
CALL = {"name": "search", "args": {}, "id": "1"}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture(params=["", "Name the intent."])
def prompt(shots, request):
    return replace(shots, instruction=request.param)


@pytest.mark.parametrize("layout", ["single", "turns", "json"])
def test_a_question_stands_behind_the_prompt_as_the_prompt_itself_puts_it_there(prompt, layout):
    assert behind(prompt, layout, [user(QUESTION)]) == prompt.messages(FIELDS, layout)


@pytest.mark.parametrize("layout", ["single", "turns", "json"])
def test_a_prompt_that_is_there_already_is_not_put_in_front_again(prompt, layout):
    asked = prompt.messages(FIELDS, layout)
    assert behind(prompt, layout, asked) == asked
    for made in (as_chat_prompt(prompt), as_chat_prompt(prompt, cache_control={"type": "ephemeral"})):
        assert behind(prompt, layout, as_dicts(made.invoke(FIELDS).to_messages())) == asked
    text = as_string_prompt(prompt).invoke(FIELDS)
    assert behind(prompt, layout, as_dicts(text.to_messages())) == asked


def test_a_prompt_that_is_only_begun_is_put_in_front_of_all(prompt):
    begun = prompt.messages(FIELDS)[:-3]
    asked = [*begun, user(QUESTION)]
    assert behind(prompt, "single", asked)[0]["content"].startswith(prompt.prefix + (begun[0]["content"]))


def test_further_turns_are_one_text_as_the_template_writes_demonstrations(prompt):
    asked = [user("Query: x\nIntent:"), assistant("card_arrival"), user(QUESTION)]
    ((_, text),) = (message.values() for message in behind(prompt, "single", asked))
    assert text == f"{prompt.prefix}Query: x\nIntent: card_arrival\n\n{QUESTION}"
    assert behind(prompt, "turns", asked) == [*prompt.messages(FIELDS)[:-1], *asked]


def test_a_system_message_is_text_in_a_text_and_refused_where_the_state_has_read_its_place(prompt):
    (message,) = behind(prompt, "single", [SYSTEM, user(QUESTION)])
    assert message["content"] == f"{prompt.prefix}Be brief.\n\n{QUESTION}"
    for layout in ("turns", "json"):
        for asked in ([SYSTEM, user(QUESTION)], [user(QUESTION), SYSTEM, user("x")], [assistant("x")]):
            with pytest.raises(DataError, match="make the state from a prompt with this instruction"):
                behind(prompt, layout, asked)


@pytest.mark.parametrize("layout", ["single", "turns", "json"])
def test_a_prompt_without_a_question_is_refused(prompt, layout):
    for asked in ([], prompt.messages(FIELDS)[:-1], [user(prompt.prefix)]):
        with pytest.raises(DataError, match="nothing behind the prompt"):
            behind(prompt, layout, asked)


def test_messages_of_text_keep_their_roles_and_their_text():
    blocks = ["{a", {"type": "text", "text": "}b", "cache_control": {"type": "ephemeral"}}]
    messages = [
        *(SystemMessage("s"), HumanMessage(blocks, name="me"), AIMessage("a")),
        *(AIMessageChunk(content="c"), ChatMessage("d", role="critic")),
    ]
    roles = ["system", "user", "assistant", "assistant", "critic"]
    expected = [
        {"role": role, "content": text} for role, text in zip(roles, ["s", "{a}b", *"acd"], strict=True)
    ]
    assert as_dicts(messages) == expected


@pytest.mark.parametrize(
    "message",
    [
        HumanMessage([{"type": "text", "text": "see"}, {"type": "image", "url": "http://x"}]),
        HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]),
        HumanMessage([{"type": "text"}]),
        AIMessage([{"type": "reasoning", "reasoning": "hm"}]),
        AIMessage("", tool_calls=[CALL]),
        Tool("42", tool_call_id="1"),
    ],
)
def test_images_tools_and_what_else_is_no_text_are_refused(message):
    with pytest.raises(DataError, match="messages of text"):
        as_dicts([HumanMessage("a"), message])
