"""Fixtures of the tests of tuning."""

import gc

import pytest
from tuning_tools import make_proxy, make_task


@pytest.fixture(scope="session", autouse=True)
def small_heap():
    """Keep what the imports left out of the garbage collections, of which accelerate does one a run."""
    import icl_plugins.tuning.run  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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


@pytest.fixture(scope="session")
def task():
    """A task of four classes."""
    return make_task()
