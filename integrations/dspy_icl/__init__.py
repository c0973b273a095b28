"""icl_plugins in DSPy: teleprompters that choose demonstrations, and an engine that thinks them over."""

from icl_plugins.errors import OptionalDependencyError

try:
    import dspy as _dspy  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "dspy":
        raise
    raise OptionalDependencyError(
        "dspy is not installed",
        expected="dspy>=3.4,<3.6 for dspy_icl",
        fix="pip install 'icl-plugins[dspy]'",
    ) from error

from dspy_icl.async_engine import AsyncDeepThinkingEngine
from dspy_icl.bootstrapping import BootstrapError
from dspy_icl.candidates import Candidate, grid
from dspy_icl.engine import DeepThinkingEngine
from dspy_icl.few_shot import SelectorFewShot
from dspy_icl.hybrid import HybridFewShot
from dspy_icl.lm_target import LMTarget
from dspy_icl.methods import (
    BestOfNFewShot,
    BM25FewShot,
    GradCEFewShot,
    GradFSFewShot,
    GradientMatchingFewShot,
    GradREFewShot,
    KMeansFewShot,
    LatentBayesianFewShot,
    RandomFewShot,
    SimilarityFewShot,
    SlotAssignmentFewShot,
    TypicalityFewShot,
    few_shot,
)
from dspy_icl.program_target import ProgramTarget
from dspy_icl.rendering import render_demos
from dspy_icl.search import ManyShotSearch, SearchError
from dspy_icl.thinking_program import program_prompt, think_program

__all__ = [
    "AsyncDeepThinkingEngine",
    "BM25FewShot",
    "BestOfNFewShot",
    "BootstrapError",
    "Candidate",
    "DeepThinkingEngine",
    "GradCEFewShot",
    "GradFSFewShot",
    "GradREFewShot",
    "GradientMatchingFewShot",
    "HybridFewShot",
    "KMeansFewShot",
    "LMTarget",
    "LatentBayesianFewShot",
    "ManyShotSearch",
    "ProgramTarget",
    "RandomFewShot",
    "SearchError",
    "SelectorFewShot",
    "SimilarityFewShot",
    "SlotAssignmentFewShot",
    "TypicalityFewShot",
    "few_shot",
    "grid",
    "program_prompt",
    "render_demos",
    "think_program",
]
