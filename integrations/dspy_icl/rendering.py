"""Demonstrations as the LM will read them: rendered by the adapter in force, nothing imitated."""

from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from icl_plugins import Pool, Template
from icl_plugins.errors import SettingError

Turn = tuple[str, str]

_TEMPLATE = Template(question="{question}\n\n", answer="{answer}")
REASONING = "reasoning"  # what ChainOfThought puts in front of the outputs, and nobody labels


def render_demos(signature: Any, demos: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Return the messages that `demos` become in a prompt: (role, text) in order, without system and query.

    They are what the adapter of ``dspy.settings`` (else ChatAdapter) adds to a prompt, so that an adapter
    which overrides any of its methods is rendered as it is. Raises SettingError for one that gives
    demonstrations no messages of their own.
    """
    if not demos:
        return []
    bare, prompt = render_prompt(signature, [], demos[0]), render_prompt(signature, demos, demos[0])
    pairs = zip(reversed(bare), reversed(prompt), strict=False)
    after = next((n for n, (one, other) in enumerate(pairs) if one != other), len(bare))
    before, end = len(bare) - after, len(prompt) - after
    if end - before < 2 or prompt[:before] != bare[:before]:
        adapter = type(_adapter()).__name__
        raise SettingError(
            f"{adapter} puts demonstrations into no messages of their own",
            expected="an adapter whose format() gives each demonstration a user and an assistant message",
            fix="use dspy.ChatAdapter(), or give the adapter messages for demonstrations",
        )
    return prompt[before:end]


def render_prompt(signature: Any, demos: Sequence[Mapping[str, Any]], query: Mapping[str, Any]) -> list[Turn]:
    """Return all messages of a prompt: (role, text) in order; of `query` the input fields are asked."""
    inputs = {name: query[name] for name in signature.input_fields if name in query}
    with dspy.context(callbacks=[]):  # no LM is asked, so there is nothing to trace
        return turns(_adapter().format(signature, list(demos), inputs))


def pool_of(signature: Any, demos: Sequence[Mapping[str, Any]]) -> Pool:
    """Return the pool of the demonstrations as rendered, one by one: losses fall on the assistant's part.

    The label is the value of the output field; where there are several (reasoning aside), the whole answer.
    """
    return Pool.from_records([_record(signature, demo) for demo in demos], _TEMPLATE, label_field="label")


def _record(signature: Any, demo: Mapping[str, Any]) -> dict[str, str]:
    *asked, (_, answer) = render_demos(signature, [demo])
    outputs = [name for name in signature.output_fields if name != REASONING]
    label = str(demo[outputs[0]]) if len(outputs) == 1 else answer
    return {"question": "\n\n".join(text for _, text in asked), "answer": answer, "label": label}


def turns(prompt: Any) -> list[Turn]:
    """Read a prompt: a list of dicts in dspy 3.4; in 3.5 a request: system text, messages of parts."""
    messages = getattr(prompt, "messages", prompt)
    system = getattr(prompt, "system", None)
    read = [(_get(message, "role"), _text(_get(message, "content", "parts"))) for message in messages]
    return [("system", _text(system)), *read] if system else read


def _adapter() -> Any:
    return dspy.settings.adapter or dspy.ChatAdapter()


def _text(content: Any) -> str:
    """Join the texts of a message; what is no text (images, audio) is named by its type."""
    if isinstance(content, str):
        return content
    texts = ((_get(part, "text"), _get(part, "type")) for part in content or ())
    return "\n".join(f"[{kind}]" if text is None else text for text, kind in texts)


def _get(record: Any, *names: str) -> Any:
    """Return what a mapping or an object holds under the first of the names that it has."""
    held = (
        record.get(name) if isinstance(record, Mapping) else getattr(record, name, None) for name in names
    )
    return next((value for value in held if value is not None), None)
