"""A server with faults, and a target that asks it without losing time."""

import pytest
from fault_server import fault_server
from openai_icl import ChatTarget

NAMES = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "DEEPSEEK_API_KEY")


@pytest.fixture(autouse=True)
def no_keys(monkeypatch):
    """No key and no server but those a test names."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def faults():
    """The server; `.answer` decides what it does."""
    with fault_server() as running:
        yield running


@pytest.fixture
def make_target(faults):
    """Return a factory of targets at the server, with waits of milliseconds; settings as of ChatTarget."""

    def make(**settings):
        return ChatTarget(
            "model", **{"base_url": faults.base_url, "backoff": 0.002, "retries": 3, **settings}
        )

    return make


@pytest.fixture
def ask(make_target):
    """Return a function: queries and settings -> answers."""

    def generate(*queries, on_answer=None, **settings):
        requests = [[{"role": "user", "content": query}] for query in queries]
        return make_target(**settings).generate(requests, max_tokens=4, on_answer=on_answer)

    return generate
