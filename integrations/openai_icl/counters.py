"""How many tokens a target reads in chat messages: OpenAI's format, a chat template, or an estimate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from icl_plugins.errors import SettingError
from openai_icl.encodings import load_encoding

Messages = Sequence[Mapping[str, str]]

_PER_MESSAGE = 3  # <|start|>role<|message|> ... <|end|>, the role itself apart
_REPLY = 3  # <|start|>assistant<|message|>, which the model's answer continues
ESTIMATE_MARGIN = 0.25


class ChatCounter(Protocol):
    """Counts the tokens of chat messages, the opening of the reply included.

    tokenizer: its name, for people. margin: 0 where the count is exact, else the share of it by which the
    target may count more or less.
    """

    @property
    def tokenizer(self) -> str:
        """The name of the tokenizer."""

    @property
    def margin(self) -> float:
        """The share of the count by which it may be off."""

    def count(self, messages: Messages) -> int:
        """Return the number of tokens."""


@dataclass(frozen=True)
class OpenAIChat:
    """OpenAI's chat format: 3 tokens for each message, its role, its content, and 3 that open the reply.

    That is the count which OpenAI publishes for gpt-3.5-turbo, gpt-4 and gpt-4o ("How to count tokens with
    tiktoken", OpenAI Cookbook). Text that looks like a special token is counted as the text it is.

    With a margin it is an estimate for a target whose tokenizer is not here. 0.25 covers cl100k_base,
    p50k_base and the published Claude tokenizer on 22 English data sets, code among them (-3 % to +25 % of
    o200k_base); other languages and scripts can be further off.
    """

    tokenizer: str
    margin: float = 0.0

    def count(self, messages: Messages) -> int:
        """Return the number of tokens."""
        texts = (text for message in messages for text in (message["role"], message["content"]))
        return _PER_MESSAGE * len(messages) + sum(_length(self.tokenizer, text) for text in texts) + _REPLY


@lru_cache(maxsize=4096)  # the same demonstrations are counted again and again while a budget is filled
def _length(encoding: str, text: str) -> int:
    return len(load_encoding(encoding).encode_ordinary(text))


@dataclass(frozen=True)
class TemplatedChat:
    """A Hugging Face tokenizer with its chat template, as a server of that model renders messages."""

    tokenizer: str
    loaded: Any = field(repr=False, compare=False)
    margin: float = 0.0

    @classmethod
    def load(cls, name: str) -> "TemplatedChat":
        """Load "micro", a folder, or an id from the local cache.

        Raises ProxyError when there is no such tokenizer here, SettingError when it has no chat template.
        """
        from icl_plugins.proxy.loading import load_tokenizer

        loaded = load_tokenizer(name, offline=True)
        if not loaded.chat_template:
            raise SettingError(
                f"the tokenizer {name!r} has no chat template",
                expected="a tokenizer of a chat model",
                fix="name the tokenizer of the chat model itself, or count the text without --model",
            )
        return cls(name, loaded)

    def count(self, messages: Messages) -> int:
        """Return the number of tokens; raises SettingError for messages that the template refuses."""
        from jinja2 import TemplateError

        try:
            encoded = self.loaded.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                tokenizer_kwargs={"verbose": False},  # a prompt beyond its limit is ours to report
            )
        except TemplateError as error:
            roles = ", ".join(dict.fromkeys(message["role"] for message in messages))
            raise SettingError(
                f"the chat template of {self.tokenizer} refuses messages of {roles}: {error}",
                expected="messages that the target can read",
                fix='pass layout="single"',
            ) from error
        return len(encoded["input_ids"])
