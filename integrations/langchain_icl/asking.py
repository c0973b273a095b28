"""What is asked of a state: messages in which the state's own prompt stands in front, once."""

from collections.abc import Mapping, Sequence

from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage

from icl_plugins.errors import DataError
from icl_plugins.evaluation.answers import continued
from icl_plugins.prompt import Layout, ManyShotPrompt
from icl_plugins.template import Template
from langchain_icl.prompts import _fixed_messages

Dicts = list[dict[str, str]]

_ROLES: dict[type[BaseMessage], str] = {HumanMessage: "user", AIMessage: "assistant", SystemMessage: "system"}


def as_dicts(messages: Sequence[BaseMessage]) -> Dicts:
    """Return messages as {"role", "content"}; raises DataError for images, tools and what else is no text."""
    return [{"role": _role(message), "content": _text(message)} for message in messages]


def behind(prompt: ManyShotPrompt, layout: Layout, messages: Dicts) -> Dicts:
    """Return what a state of this prompt is asked: its own messages, then the given ones.

    Where the given ones begin with the prompt, as `as_chat_prompt` and `as_string_prompt` write it too, it is
    not put in front again. In layout "single" all is one text, written as the template writes demonstrations:
    answers behind their questions, the separator in front of everything else.

    Raises DataError if nothing is asked and, in chat layouts, for a system message that is not the prompt's.
    """
    asked = _without(prompt, layout, messages)
    if not asked:
        raise DataError("nothing behind the prompt", expected="a question", fix="add a human message")
    if layout == "single":
        return [{"role": "user", "content": prompt.prefix + _as_text(asked, prompt.template)}]
    roles = [message["role"] for message in asked]
    if roles[0] != "user" or "system" in roles:
        raise DataError(
            f"messages of the roles {', '.join(roles[:8])} behind a state",
            expected="a human message first and no system message: the state has read what stands there",
            fix="make the state from a prompt with this instruction, or say it in the human message",
        )
    return [*_before_query(prompt, layout), *asked]


def _before_query(prompt: ManyShotPrompt, layout: Layout) -> Dicts:
    if layout == "json":
        return prompt.messages(prompt.examples[0], layout)[:-1]
    return as_dicts(_fixed_messages(prompt))


def _without(prompt: ManyShotPrompt, layout: Layout, messages: Dicts) -> Dicts:
    """Return the messages behind the prompt, which may stand there in its layout, in turns or as text."""
    layouts: tuple[Layout, ...] = ("turns", "json") if layout == "json" else ("turns",)
    for own in (_before_query(prompt, one) for one in layouts):
        if messages[: len(own)] == own:
            return messages[len(own) :]
    if not messages or not messages[0]["content"].startswith(prompt.prefix):
        return messages
    first = {**messages[0], "content": messages[0]["content"].removeprefix(prompt.prefix)}
    return [first, *messages[1:]] if first["content"] else messages[1:]


def _as_text(messages: Dicts, template: Template) -> str:
    parts: list[str] = []
    for message in messages:
        if parts and message["role"] == "assistant":
            parts += continued([message["content"]], template, "single")
        else:
            parts += [template.separator, message["content"]] if parts else [message["content"]]
    return "".join(parts)


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    role = next((role for kind, role in _ROLES.items() if isinstance(message, kind)), None)
    if role is None or getattr(message, "tool_calls", None):
        raise _no_text(f"a message of type {message.type!r}, or with tool calls")
    return role


def _text(message: BaseMessage) -> str:
    blocks = [message.content] if isinstance(message.content, str) else message.content
    return "".join(map(_block_text, blocks))


def _block_text(block: str | Mapping[str, object]) -> str:
    text = block if isinstance(block, str) else block.get("text")
    if not isinstance(block, str) and (block.get("type") != "text" or not isinstance(text, str)):
        raise _no_text(f"content of type {block.get('type')!r:.80}")
    return str(text)


def _no_text(got: str) -> DataError:
    return DataError(
        got,
        expected="system, human and AI messages of text",
        fix="leave it out, or ask a model that takes more than text",
    )
