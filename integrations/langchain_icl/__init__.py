"""icl_plugins in LangChain: example selectors, the many-shot prompt as a template, models behind a state."""

from icl_plugins.errors import OptionalDependencyError

try:
    import langchain_core  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "langchain_core":
        raise
    raise OptionalDependencyError(
        "langchain_icl without langchain-core installed",
        expected="langchain-core 1.2.22 or newer, below 2",
        fix="pip install 'icl-plugins[langchain]'",
    ) from error

from langchain_icl.chat import ChatDeepThinking
from langchain_icl.hybrid import HybridExampleSelector
from langchain_icl.lazy import LazySelection
from langchain_icl.llm import DeepThinkingLLM
from langchain_icl.methods import (
    BestOfNExampleSelector,
    BM25ExampleSelector,
    GradCEExampleSelector,
    GradFSExampleSelector,
    GradientMatchingExampleSelector,
    GradREExampleSelector,
    KMeansExampleSelector,
    LatentBayesianExampleSelector,
    RandomExampleSelector,
    SimilarityExampleSelector,
    SlotAssignmentExampleSelector,
    TypicalityExampleSelector,
)
from langchain_icl.prompts import as_chat_prompt, as_string_prompt
from langchain_icl.selector import ICLExampleSelector
from langchain_icl.target import RunnableTarget
from langchain_icl.templates import plain_template

__all__ = [
    "BM25ExampleSelector",
    "BestOfNExampleSelector",
    "ChatDeepThinking",
    "DeepThinkingLLM",
    "GradCEExampleSelector",
    "GradFSExampleSelector",
    "GradREExampleSelector",
    "GradientMatchingExampleSelector",
    "HybridExampleSelector",
    "ICLExampleSelector",
    "KMeansExampleSelector",
    "LatentBayesianExampleSelector",
    "LazySelection",
    "RandomExampleSelector",
    "RunnableTarget",
    "SimilarityExampleSelector",
    "SlotAssignmentExampleSelector",
    "TypicalityExampleSelector",
    "as_chat_prompt",
    "as_string_prompt",
    "plain_template",
]
