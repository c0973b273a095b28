"""Counting tokens for budgets, with nothing loaded but the tokenizer."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

Counter = Callable[[Sequence[str]], list[int]]


def token_counter(tokenizer: "str | Proxy") -> Counter:
    """Return the function that counts the tokens of texts, without those put around them (BOS).

    tokenizer: "micro", a folder, a Hugging Face id, or a loaded proxy. Raises ProxyError when it cannot be
    loaded.
    """
    if not isinstance(tokenizer, str):
        return tokenizer.count_tokens
    from icl_plugins.proxy.encoding import TextEncoder
    from icl_plugins.proxy.loading import load_tokenizer

    return TextEncoder(load_tokenizer(tokenizer)).count
