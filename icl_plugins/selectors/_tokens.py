"""Counting tokens for budgets, with nothing loaded but the tokenizer."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from icl_plugins.errors import ProxyError

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
    from transformers import AutoTokenizer

    from icl_plugins.proxy.encoding import TextEncoder
    from icl_plugins.proxy.loading import MICRO

    try:
        loaded = AutoTokenizer.from_pretrained(
            str(MICRO) if tokenizer == "micro" else tokenizer, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ProxyError(
            f"tokenizer={tokenizer!r} could not be loaded: {str(error).strip().splitlines()[0]}",
            expected='"micro", a folder with tokenizer.json, or a Hugging Face id',
            fix="check the name; without network, name a local folder",
        ) from error
    encoder = TextEncoder(loaded)
    return lambda texts: [len(ids) for ids, _ in encoder.tokenize(texts, add_special_tokens=False)]
