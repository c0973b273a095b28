"""Keeps every test's DSPy settings to itself."""

import dspy
import pytest


@pytest.fixture(autouse=True)
def no_settings():
    """No LM, adapter or callbacks but those a test asks for."""
    with dspy.context(lm=None, adapter=None, callbacks=[], trace=None):
        yield
