"""A small pool with three labels, a tokenizer in a folder, and a tiny proxy with room for demonstrations."""

import pytest

from icl_plugins.examples import Pool, Template

WORDS = ["my", "card", "has", "not", "arrived", "yet", "what", "is", "the", "exchange", "rate", "I", "lost"]
LABELS = ("card_arrival", "exchange_rate", "lost_or_stolen_phone")
TEMPLATE = Template(question="Query: {text}\nIntent:", answer=" {label}", separator="\n\n")


def record(row):
    """Texts of 2 to 8 words, all different; labels in shares of about 1/2, 1/3 and 1/6."""
    text = " ".join(WORDS[(row * 5 + at) % len(WORDS)] for at in range(2 + row % 7))
    return {"text": f"{text} {row}", "label": LABELS[(0, 1, 0, 2, 0, 1)[row % 6]]}


@pytest.fixture(scope="session")
def records():
    return [record(row) for row in range(24)]


@pytest.fixture(scope="session")
def pool(records):
    return Pool.from_records(records, TEMPLATE)


@pytest.fixture(scope="session")
def tokenizer_folder(tokenizer, tmp_path_factory):
    """A folder that holds a tokenizer and nothing else: no config, no weights."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def reader(make_model, tokenizer):
    """A tiny proxy with room for many demonstrations."""
    from icl_plugins.proxy.model import Proxy

    return Proxy.from_model(make_model(max_position_embeddings=2048), tokenizer, name="reader")
