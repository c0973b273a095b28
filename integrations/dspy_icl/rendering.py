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
    adapter = dspy.settings.adapter or dspy.ChatAdapter()
    query = {name: demos[0][name] for name in signature.input_fields if name in demos[0]}
    with dspy.context(callbacks=[]):  # no LM is asked, so there is nothing to trace
        bare = _turns(adapter.format(signature, [], dict(query)))
        prompt = _turns(adapter.format(signature, list(demos), dict(query)))
    pairs = zip(reversed(bare), reversed(prompt), strict=False)
    after = next((n for n, (one, other) in enumerate(pairs) if one != other), len(bare))
    before, end = len(bare) - after, len(prompt) - after
    if end - before < 2 or prompt[:before] != bare[:before]:
        raise SettingError(
            f"{type(adapter).__name__} puts demonstrations into no messages of their own",
            expected="an adapter whose format() gives each demonstration a user and an assistant message",
            fix="use dspy.ChatAdapter(), or give the adapter messages for demonstrations",
        )
    return prompt[before:end]


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


def _turns(prompt: Any) -> list[Turn]:
    """Read a prompt: its messages are dicts in dspy 3.4, objects with a role and parts in 3.5."""
    messages = getattr(prompt, "messages", prompt)
    return [(_get(message, "role"), _text(_get(message, "content", "parts"))) for message in messages]


def _text(content: Any) -> str:
    """Join the texts of a message; what is no text (images, audio) is named by its type."""
    if isinstance(content, str):
        return content
    return "\n".join(_get(part, "text") or f"[{_get(part, 'type')}]" for part in content or ())


def _get(record: Any, *names: str) -> Any:
    """Return what a mapping or an object holds under the first of the names that it has."""
    held = (
        record.get(name) if isinstance(record, Mapping) else getattr(record, name, None) for name in names
    )
    return next((value for value in held if value is not None), None)
