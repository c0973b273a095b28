"""KnownModel: a model that will read the prompt, with what is known of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icl_plugins.errors import BudgetError, ProxyError, SettingError
from openai_icl import table
from openai_icl.counters import ESTIMATE_MARGIN, ChatCounter, Messages, OpenAIChat, TemplatedChat
from openai_icl.encodings import encoding_name

_NO_LIMIT = 10**9  # tokenizers that know no limit say 10**30


@dataclass(frozen=True)
class KnownModel:
    """A model that will read the prompt: how it counts, what fits, what it costs.

    context: tokens, None where unknown. row: the model's row of litellm's table, empty for a local model.
    """

    name: str
    counter: ChatCounter
    context: int | None
    row: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, model: str, tokenizer: str | None = None) -> "KnownModel":
        """Return the target with this name; nothing is asked for online.

        model: a name of litellm's table ("gpt-4o-mini", "deepseek/deepseek-chat"), "micro", the folder of a
        local model, or a Hugging Face id from the local cache. tokenizer: folder or cached id of a Hugging
        Face tokenizer with a chat template, to count exactly where the table's model has no tokenizer here;
        without it the count of such a model is an estimate, and its margin is stated.

        Raises SettingError for an unknown name (near ones are named) and for a tokenizer without chat
        template, ProxyError for a tokenizer that is not here, OptionalDependencyError.
        """
        if not (isinstance(model, str) and model):
            raise table.unknown(str(model))
        if model == "micro" or Path(model).expanduser().is_dir():
            return cls._local(model, TemplatedChat.load(tokenizer or model))
        found = table.find(model)
        if found:
            name, row = found
            return cls(name, _counter(name, tokenizer), row.get("max_input_tokens") or None, row)
        try:
            return cls._local(model, TemplatedChat.load(tokenizer or model))
        except ProxyError as error:
            raise table.unknown(model) from error

    @classmethod
    def _local(cls, model: str, counter: TemplatedChat) -> "KnownModel":
        limit = int(counter.loaded.model_max_length)
        name = Path(model).expanduser().resolve().name if Path(model).expanduser().is_dir() else model
        return cls(name, counter, limit if limit < _NO_LIMIT else None)

    def count(self, messages: Messages) -> int:
        """Return the tokens of chat messages, the opening of the reply included; `counter` has the margin."""
        return self.counter.count(messages)

    def at_most(self, messages: Messages) -> int:
        """Return the tokens of chat messages, an estimate with its margin on top."""
        return math.ceil(self.count(messages) * (1 + self.counter.margin))

    def cost(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> float | None:
        """Return the USD of a request, None where the table has no prices.

        cached_tokens: the part of the prompt that the provider read from its cache, at the full price where
        the table names no other.
        """
        priced = table.prices(self.row, prompt_tokens)
        if priced is None:
            return None
        paid, made, cached, _ = priced
        saved = cached_tokens * (paid - cached) if cached is not None else 0.0
        return prompt_tokens * paid + completion_tokens * made - saved

    def check_fits(self, messages: Messages, answer: int = 0) -> None:
        """Raise BudgetError unless messages and an answer of so many tokens fit the context, where known."""
        needed = self.at_most(messages) + answer
        if self.context is not None and needed > self.context:
            raise BudgetError(
                f"{needed} tokens for {self.name}",
                expected=f"at most the {self.context} of its context",
                fix="show fewer demonstrations, or choose a target with a longer context",
            )


def check_target(target: object) -> None:
    """Raise SettingError for what is no KnownModel, its name for one."""
    if not isinstance(target, KnownModel):
        raise SettingError(
            f"{target!r:.80} as target", expected="a KnownModel", fix='pass KnownModel.of("gpt-4o-mini")'
        )


def _counter(name: str, tokenizer: str | None) -> ChatCounter:
    if tokenizer:
        return TemplatedChat.load(tokenizer)
    encoding = encoding_name(name)
    return OpenAIChat(encoding) if encoding else OpenAIChat("o200k_base", ESTIMATE_MARGIN)
