"""RunnableTarget: anything of LangChain that answers messages, as a target of an evaluation."""

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumpd
from langchain_core.messages import BaseMessage, convert_to_messages
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSequence
from langchain_core.runnables.base import RunnableBindingBase

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.artefacts import canonical_json, fingerprint
from icl_plugins.errors import DataError, SettingError, TargetError
from icl_plugins.evaluation.frameworks import nameless, told, without_secrets
from icl_plugins.evaluation.target import Answer, Messages, OnAnswer, Usage
from icl_plugins.prompt import Layout
from icl_plugins.values import checked_text

_FOR_ALL = (401, 402, 403, 404)


@dataclass(frozen=True)
class RunnableTarget:
    """A chat model, or a chain that takes its messages, such as `chat.bind(stop=...) | StrOutputParser()`.

    name: for people; by default that of the model, else of the runnable. The fingerprint is of the runnable's
    settings as LangChain serialises them, without keys and headers. Where it cannot serialise them all
    (functions, models that are not `Serializable`) a name must be given and is the fingerprint: a store then
    trusts that equal names are equal models. concurrency: how many calls are under way; retries and
    time-outs, like keys, are the runnable's own.

    Raises SettingError for what is no Runnable and for a missing name.
    """

    runnable: Runnable[Any, Any] = field(repr=False, hash=False)
    name: str = ""
    layout: Layout = "turns"
    concurrency: int = 8

    def __post_init__(self) -> None:
        """Check the settings, and name the target."""
        if not isinstance(self.runnable, Runnable):
            raise SettingError(
                f"a {type(self.runnable).__name__} as runnable",
                expected="a Runnable that takes messages",
                fix="pass a chat model, or chat | StrOutputParser()",
            )
        whole_number("concurrency", self.concurrency, 1)
        if not self.name and _settings(self.runnable) is None:
            raise nameless("a runnable that LangChain cannot serialise")
        object.__setattr__(self, "name", self.name or _model_name(self.runnable))

    @property
    def fingerprint(self) -> str:
        """The sha256 over layout and settings, or over layout and name where the settings are not known."""
        settings = _settings(self.runnable)
        known = f"name: {self.name}" if settings is None else settings
        return fingerprint("langchain_icl.RunnableTarget", self.layout, known)

    def generate(
        self, requests: Sequence[Messages], *, max_tokens: int, on_answer: OnAnswer | None = None
    ) -> list[Answer]:
        """Answer each message list; see `Target.generate`.

        max_tokens goes to chat models that have a setting of this name; others keep their own limit. Seconds
        are an answer's share of the whole time. Errors of the runnable are told by their type only, since
        their words may quote data or keys. An interrupt waits for the calls that are under way.

        Raises TargetError for status 401, 402, 403 and 404, and for a server that is not there.
        """
        whole_number("max_tokens", max_tokens, 1)
        limit = {"max_tokens": max_tokens} if _takes_limit(self.runnable) else {}
        counters = [UsageMetadataCallbackHandler() for _ in requests]
        configs: list[RunnableConfig] = [
            {"callbacks": [counter], "max_concurrency": self.concurrency} for counter in counters
        ]
        inputs = [convert_to_messages([dict(message) for message in messages]) for messages in requests]
        answers: dict[int, Answer] = {}
        before = time.perf_counter()
        outputs = self.runnable.batch_as_completed(inputs, configs, return_exceptions=True, **limit)
        with closing(outputs):  # type: ignore[type-var]
            for index, output in outputs:
                now = time.perf_counter()
                text, error = self._read(output)
                usage = _usage(output, counters[index])
                answers[index] = Answer(text=text, error=error, usage=usage, seconds=now - before)
                before = now
                if on_answer:
                    on_answer(index, answers[index])
        return [answers[index] for index in range(len(requests))]

    def _read(self, output: object) -> tuple[str | None, str | None]:
        if not isinstance(output, Exception):
            return read_output(output)
        status = getattr(output, "status_code", None)
        error = told(self.name, output, status, for_all=status in _FOR_ALL)
        if isinstance(error, TargetError):
            raise error
        return None, error


def read_output(output: object) -> tuple[str | None, str | None]:
    """Return (text, None) of a message or a string, else (None, error).

    Of content in blocks the texts count. An empty text is one only where the message says that the model
    had come to its end; a bare string does not say.
    """
    text, finish = output, None
    if isinstance(output, BaseMessage):
        text, finish = str(output.text), _finish(output)
        if output.additional_kwargs.get("refusal") or finish in ("refusal", "content_filter"):
            return None, "refused by the model or its provider"
    if not isinstance(text, str):
        return None, f"output of type {type(output).__name__}, not a message or text"
    if not text and finish not in ("stop", "end_turn"):
        return None, "no text: cut by the limit of tokens" if finish in (
            "length",
            "max_tokens",
        ) else "no text"
    try:
        return checked_text(text, "the answer"), None
    except DataError:
        return None, "text with lone surrogates"


def _finish(message: BaseMessage) -> object:
    told = message.response_metadata
    return told.get("finish_reason") or told.get("stop_reason")


def _usage(output: object, counter: UsageMetadataCallbackHandler) -> Usage | None:
    """Sum what all models of a chain counted; a model without a name is seen in its own message only."""
    counts: list[Mapping[str, Any]] = list(counter.usage_metadata.values())
    if not counts and getattr(output, "usage_metadata", None):
        counts = [output.usage_metadata]  # type: ignore[attr-defined]
    if not counts:
        return None
    cached = sum((count.get("input_token_details") or {}).get("cache_read") or 0 for count in counts)
    made = sum(count["output_tokens"] for count in counts)
    return Usage(sum(count["input_tokens"] for count in counts), made, cached)


def _reader(runnable: Runnable[Any, Any]) -> Runnable[Any, Any]:
    """Return what of a chain reads the messages."""
    while isinstance(runnable, RunnableSequence | RunnableBindingBase):
        runnable = runnable.first if isinstance(runnable, RunnableSequence) else runnable.bound
    return runnable


def _takes_limit(runnable: Runnable[Any, Any]) -> bool:
    """Whether what reads the messages is a chat model with the setting max_tokens."""
    reader = _reader(runnable)
    return isinstance(reader, BaseChatModel) and "max_tokens" in type(reader).model_fields


def _model_name(runnable: Runnable[Any, Any]) -> str:
    reader = _reader(runnable)
    names = (getattr(reader, key, None) for key in ("model_name", "model"))
    return next((name for name in names if isinstance(name, str) and name), runnable.get_name())


def _settings(runnable: Runnable[Any, Any]) -> str | None:
    """Return the settings as JSON without secrets, None where LangChain cannot serialise all of them."""
    settings = without_secrets(dumpd(runnable))
    try:
        return canonical_json(settings) if _complete(settings) else None
    except DataError:
        return None


def _complete(value: Any) -> bool:
    if isinstance(value, dict):
        unsaved = value.get("lc") and value.get("type") == "not_implemented"
        return not unsaved and all(map(_complete, value.values()))
    return not isinstance(value, list) or all(map(_complete, value))
