"""LangChain's own standard tests of chat models, unmodified, on a tiny model behind a state."""

import pytest
from langchain_icl import ChatDeepThinking
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests


class BehindState:
    """What both suites are told of the model."""

    @pytest.fixture(autouse=True)
    def _take_state(self, state):
        self.state = state

    @property
    def chat_model_class(self):
        return ChatDeepThinking

    @property
    def chat_model_params(self):
        return {"state": self.state}

    @property
    def supports_model_override(self):
        return False  # a state belongs to one model

    @property
    def supported_usage_metadata_details(self):
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream=False):
        model = ChatDeepThinking(self.state)
        if not stream:
            return model.invoke("Hello")
        first, *others = model.stream("Hello")
        return sum(others, start=first)


class TestUnit(BehindState, ChatModelUnitTests):
    pass


class TestIntegration(BehindState, ChatModelIntegrationTests):
    pass
