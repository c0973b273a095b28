"""The fixed many-shot prompt as LangChain's prompt templates, in which the data stays text."""

from collections.abc import Mapping

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate, HumanMessagePromptTemplate, PromptTemplate

from icl_plugins.errors import SettingError
from icl_plugins.grammar import Field, parse
from icl_plugins.prompt import ManyShotPrompt

_RESERVED = ("self", "stop")  # taken by LangChain's own methods


def as_chat_prompt(
    prompt: ManyShotPrompt, *, query: str | None = None, cache_control: Mapping[str, str] | None = None
) -> ChatPromptTemplate:
    """Return ``prompt.messages(fields)`` as a chat prompt: literal messages, then the query's question.

    Its variables are the fields of the question, formatted as LangChain does, which for text and numbers is
    what the template does; None or a list goes in as Python prints it, where ``prompt.messages`` refuses the
    one and lists the other. A question that reads into its fields ({answers.text[0]}, {answer:letter}, a list
    of choices) cannot be said in LangChain's format: name one variable for all of it with ``query``, and
    render it before: ``{"question": prompt.template.render_question} | as_chat_prompt(prompt,
    query="question") | llm``.

    ``cache_control``, {"type": "ephemeral"} for Anthropic, marks the last message before the query as the end
    of what is to be cached; OpenAI and DeepSeek find it themselves.
    Raises SettingError for what is no ManyShotPrompt and for a question, name or cache_control of no use.
    """
    _check_prompt(prompt)
    if not isinstance(cache_control, Mapping | None):
        raise SettingError(
            f"cache_control={cache_control!r:.80}", expected="a mapping", fix='pass {"type": "ephemeral"}'
        )
    question = _question(prompt, query)
    fixed = _fixed_messages(prompt)
    if fixed and cache_control is not None:
        text = {"type": "text", "text": fixed[-1].content, "cache_control": dict(cache_control)}
        fixed[-1] = type(fixed[-1])(content=[text])
    last = HumanMessagePromptTemplate.from_template(question, template_format="f-string")
    return ChatPromptTemplate.from_messages([*fixed, last])


def as_string_prompt(prompt: ManyShotPrompt, *, query: str | None = None) -> PromptTemplate:
    """Return ``prompt.text(fields)`` as a string prompt for completion models; see ``as_chat_prompt``."""
    _check_prompt(prompt)
    return PromptTemplate.from_template(
        _escaped(prompt.prefix) + _question(prompt, query), template_format="f-string"
    )


def _check_prompt(prompt: object) -> None:
    if not isinstance(prompt, ManyShotPrompt):
        raise SettingError(
            f"a {type(prompt).__name__} as prompt",
            expected="a ManyShotPrompt",
            fix="pass selection.to_prompt(instruction) or ManyShotPrompt.load(path)",
        )


def _fixed_messages(prompt: ManyShotPrompt) -> list[BaseMessage]:
    messages: list[BaseMessage] = [SystemMessage(prompt.instruction)] if prompt.instruction else []
    for question, answer in prompt.demonstrations:
        messages += [HumanMessage(question), AIMessage(answer.lstrip())]
    return messages


def _question(prompt: ManyShotPrompt, query: str | None) -> str:
    """Return the question as an f-string template; its literal text comes from the template alone."""
    if query is not None:
        return f"{{{_variable(query)}}}"
    part = parse("question", prompt.template.question)
    places = [f"{{{_variable(_plain_name(field, prompt))}}}" for field in part.fields]
    literals = map(_escaped, part.literals)
    return next(literals) + "".join(place + after for place, after in zip(places, literals, strict=True))


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _plain_name(field: Field, prompt: ManyShotPrompt) -> str:
    lists = any(isinstance(example.get(field.name), list) for example in prompt.examples)
    if field.steps or field.as_letter or lists:
        raise SettingError(
            f"{{{field.source}}} in the question" + (", a list" if lists else ""),
            expected="fields of text or numbers, as LangChain's variables",
            fix='pass query="question" and fill it with prompt.template.render_question',
        )
    return field.name


def _variable(name: str) -> str:
    if (
        not (isinstance(name, str) and name)
        or name in _RESERVED
        or name.isdigit()
        or set("{}[].:!") & set(name)
    ):
        raise SettingError(
            f"{name!r} as a variable of a LangChain prompt",
            expected=f"a name that is no number, not {' or '.join(_RESERVED)}, without any of {{}}[].:!",
            fix="rename the field, or pass another name as query",
        )
    return name
