"""Fixtures of deep thinking's tests."""

import pytest
from thinking_tools import make_prompt, make_proxy


@pytest.fixture(scope="session")
def proxy_of(tokenizer):
    """Return a factory: family and config overrides -> a tiny random model as a Proxy, made once."""
    made = {}

    def make(family="llama", **overrides):
        key = (family, tuple(sorted(overrides.items())))
        if key not in made:
            made[key] = make_proxy(family, tokenizer, **overrides)
        return made[key]

    return make


@pytest.fixture
def prompt():
    """A prompt of four demonstrations."""
    return make_prompt()
