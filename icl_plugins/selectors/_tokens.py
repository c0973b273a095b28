"""Counting tokens for budgets, with nothing loaded but the tokenizer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from icl_plugins.errors import ProxyError

if TYPE_CHECKING:
    from icl_plugins.examples import Pool
    from icl_plugins.proxy.model import Proxy

_OF_AN_API = (
    "for a model behind an API pass openai_icl.ChatTokens(KnownModel.of(name)) as tokenizer, "
    "on the command line --target, or --model to count"
)
Counter = Callable[[Sequence[str]], list[int]]


@runtime_checkable
class PromptTokens(Protocol):
    """What a token budget counts of the prompt that demonstrations of a pool would make.

    `name` goes into the config of the selection.
    """

    @property
    def name(self) -> str:
        """What counts, in one line."""

    def fixed(self, pool: "Pool") -> int:
        """Return the tokens of the prompt without any demonstration."""

    def costs(self, pool: "Pool") -> list[int]:
        """Return the tokens that each demonstration adds, (N,)."""

    def total(self, pool: "Pool", indices: Sequence[int]) -> int:
        """Return the tokens of the prompt with these demonstrations in this order."""


Tokenizer: TypeAlias = "str | Proxy | PromptTokens"


@dataclass(frozen=True)
class JoinedTexts:
    """The demonstrations as one text, a separator after each, and nothing else."""

    name: str
    count: Counter

    def fixed(self, pool: "Pool") -> int:
        """Return 0."""
        return 0

    def costs(self, pool: "Pool") -> list[int]:
        """Return the tokens of each demonstration with its separator."""
        return self.count([text + pool.template.separator for text in pool.texts])

    def total(self, pool: "Pool", indices: Sequence[int]) -> int:
        """Return the tokens of all joined, which may be more or less than their sum."""
        return self.count(["".join(pool.texts[i] + pool.template.separator for i in indices)])[0]


def prompt_tokens(tokenizer: Tokenizer) -> PromptTokens:
    """Return what counts for a budget: a tokenizer counts the joined demonstrations. Raises ProxyError."""
    if isinstance(tokenizer, PromptTokens):
        return tokenizer
    return JoinedTexts(str(getattr(tokenizer, "name", tokenizer)), token_counter(tokenizer))


def token_counter(tokenizer: "str | Proxy") -> Counter:
    """Return the function that counts the tokens of texts, without those put around them (BOS).

    tokenizer: "micro", a folder, a Hugging Face id, or a loaded proxy. Raises ProxyError when it cannot be
    loaded.
    """
    if not isinstance(tokenizer, str):
        return tokenizer.count_tokens
    from icl_plugins.proxy.encoding import TextEncoder
    from icl_plugins.proxy.loading import load_tokenizer

    try:
        return TextEncoder(load_tokenizer(tokenizer)).count
    except ProxyError as error:
        raise ProxyError(error.got, expected=error.expected, fix=f"{error.fix}; {_OF_AN_API}") from error
