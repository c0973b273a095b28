"""Fixtures of all tests: tiny random models and what a proxy needs; no network, milliseconds."""

from types import SimpleNamespace

import pytest
from tiny_models import LINES, tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    """A tokenizer that no test may change."""
    return tiny_tokenizer()


@pytest.fixture
def own_tokenizer():
    """The same tokenizer, for a test that changes it."""
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def make_model():
    """Return a factory: architecture name, seed, and config overrides -> a tiny random model."""
    return tiny_model


@pytest.fixture(scope="session")
def proxy(make_model, tokenizer):
    """A tiny random Llama as a Proxy (hidden size 16, 128 positions)."""
    from icl_plugins.proxy.model import Proxy

    return Proxy.from_model(make_model(), tokenizer, name="tiny")


@pytest.fixture(scope="session")
def make_pairs():
    """Return a factory of what a proxy reads of a pool: n rendered questions and answers, mixed lengths."""

    def make(n=12):
        words = LINES[0].split() + LINES[1].split()
        questions = [
            f"Query: {' '.join(words[row % 5 : row % 5 + 2 + row % 7])} {row}\nIntent:" for row in range(n)
        ]
        labels = ("card_arrival", "exchange_rate", "lost_or_stolen_phone")
        answers = [f" {labels[row % 3]}" for row in range(n)]
        return SimpleNamespace(questions=tuple(questions), answers=tuple(answers))

    return make
