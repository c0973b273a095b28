"""Labelled examples, a selector that counts how often it is asked, and states of tiny models."""

import time
from dataclasses import dataclass, field

import pytest
from tiny_models import LINES, tiny_tokenizer

from icl_plugins import DeepThinking, ManyShotPrompt, Pool, Proxy, Random, Template

TEMPLATE = Template(question="Query: {text}\nIntent:", answer=" {label}")
LINES_OF_INTENT = [line.partition("\nIntent:") for line in LINES[:3]]
CHAT = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@dataclass(frozen=True)
class Counting:
    """Random, slowly, keeping the sizes of the pools it saw."""

    seconds: float = 0.0
    sizes: list = field(default_factory=list)

    def select(self, pool, shots=None, **limits):
        self.sizes.append(len(pool))
        time.sleep(self.seconds)
        return Random().select(pool, shots, **limits)


@pytest.fixture
def counting():
    return Counting(seconds=0.05)


@pytest.fixture
def template():
    return TEMPLATE


@pytest.fixture
def records():
    labels = ("card_arrival", "exchange_rate", "lost_or_stolen_phone")
    words = ["my", "card", "has", "not", "arrived", "yet", "what", "is", "the", "exchange", "rate"]
    return [
        {"text": " ".join(words[row % 7 : row % 7 + 3]) + f" {row}", "label": labels[row % 3], "id": row}
        for row in range(12)
    ]


@pytest.fixture
def pool(records, template):
    return Pool.from_records(records, template)


@pytest.fixture(scope="session")
def shots():
    """A prompt of three demonstrations, without an instruction."""
    pairs = tuple((question + "\nIntent:", answer) for question, _, answer in LINES_OF_INTENT)
    examples = tuple({"text": question[7:], "label": answer[1:]} for question, _, answer in LINES_OF_INTENT)
    return ManyShotPrompt(TEMPLATE, pairs, examples)


@pytest.fixture(scope="session")
def make_state(make_model, shots):
    """Return a factory: layout, steps, prompt -> the state of a tiny model that has 1024 positions."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    proxy = Proxy.from_model(make_model(max_position_embeddings=1024).eval(), tokenizer, name="tiny")

    def make(layout="single", steps=3, prompt=shots):
        return DeepThinking(proxy, steps=steps, layout=layout).fit(prompt)

    return make


@pytest.fixture(scope="session")
def state(make_state):
    """A state of layout "single" that no test may change."""
    return make_state()
