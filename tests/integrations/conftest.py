"""What the tests of all integrations share: a real OpenAI-compatible server on loopback."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "examples"))  # examples import each other by name

from local_server import local_server  # noqa: E402


@pytest.fixture(scope="session")
def server():
    """`transformers serve` with micro: .base_url, ending in /v1, and .model; no network."""
    with local_server() as running:
        yield running
