"""What a local target refuses before anything runs."""

from collections.abc import Mapping, Sequence
from typing import get_args

from icl_plugins.errors import DataError, SettingError, TooLongError
from icl_plugins.evaluation.target import Messages
from icl_plugins.prompt import Layout
from icl_plugins.values import checked_text


def check_requests(requests: Sequence[Messages]) -> None:
    """Raise DataError naming the first request that is no list of messages of text."""
    for index, messages in enumerate(requests):
        _check_messages(index, messages)


def check_choices(choices: Sequence[Sequence[str]], count: int) -> None:
    """Raise SettingError unless there are choices for each request, DataError for what is no text."""
    if len(choices) != count:
        raise SettingError(
            f"choices for {len(choices)} of {count} requests",
            expected="a list of choices for each request",
            fix="pass one list for each request",
        )
    for index, own in enumerate(choices):
        if isinstance(own, str) or not own or not all(isinstance(choice, str) for choice in own):
            raise DataError(
                f"request {index}: choices {own!r:.80}",
                expected="a list of at least one text",
                fix="pass the texts of the answers",
            )
        for choice in own:
            checked_text(choice, f"a choice of request {index}")


def check_lengths(lengths: Sequence[int], limit: int) -> None:
    """Raise TooLongError naming the first five requests that are longer than the context."""
    longer = {index: length for index, length in enumerate(lengths) if length > limit}
    if longer:
        first = ", ".join(f"{index} ({length} tokens)" for index, length in list(longer.items())[:5])
        raise TooLongError(
            f"{len(longer)} requests with their answers are too long for the target: requests {first}",
            expected=f"at most {limit} tokens, the target's context",
            fix="take fewer shots, lower max_tokens, or choose a target with a longer context",
        )


def check_settings(layout: str, stop: Sequence[str], length_norm: bool) -> None:
    """Raise SettingError for settings that cannot be."""
    if layout not in get_args(Layout):
        expected = ", ".join(map(repr, get_args(Layout)))
        raise SettingError(f"layout={layout!r}", expected=expected, fix="pass one of them")
    listed = isinstance(stop, Sequence) and not isinstance(stop, str)
    if not listed or not all(isinstance(text, str) and text for text in stop):
        raise SettingError(
            f"stop={stop!r:.80}", expected="a list of texts that are not empty", fix=r'e.g. ["\n\n"]'
        )
    if not isinstance(length_norm, bool):
        raise SettingError(f"length_norm={length_norm!r:.80}", expected="true or false", fix="pass one")


def _check_messages(index: int, messages: Messages) -> None:
    """Raise DataError unless the request is messages of a role and a content, both text."""
    if isinstance(messages, str | Mapping) or not messages:
        raise DataError(
            f"request {index} is {messages!r:.80}",
            expected="a list of at least one message",
            fix="pass what ManyShotPrompt.messages returns",
        )
    for message in messages:
        for key in ("role", "content"):
            value = message.get(key) if isinstance(message, Mapping) else None
            if not isinstance(value, str):
                raise DataError(
                    f"request {index}: {type(value).__name__} as {key} of a message",
                    expected="text",
                    fix="pass messages of a role and a content, both text",
                )
            checked_text(value, f"request {index}")
