"""Labelled examples, and a selector that counts how often it is asked."""

import time
from dataclasses import dataclass, field

import pytest

from icl_plugins import Pool, Random, Template

TEMPLATE = Template(question="Query: {text}\nIntent:", answer=" {label}")


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
