"""Makes the package importable, keeps every test's DSPy settings to itself."""

import sys
from pathlib import Path

import dspy
import pytest

# the folder of these tests has the package's name, and an editable install comes after every folder
sys.path.append(str(Path(__file__).parents[3] / "integrations"))


@pytest.fixture(autouse=True)
def no_settings():
    """No LM, adapter or callbacks but those a test asks for."""
    with dspy.context(lm=None, adapter=None, callbacks=[], trace=None):
        yield
