"""Choose the demonstrations of a fixed many-shot prompt with the gradients of a small local model.

Every name is loaded at its first use, so that importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icl_plugins.examples import Pool, Template
    from icl_plugins.prompt import ManyShotPrompt
    from icl_plugins.proxy.model import Proxy
    from icl_plugins.selection import Selection
    from icl_plugins.selectors.best_of_n import BestOfN
    from icl_plugins.selectors.bm25 import BM25
    from icl_plugins.selectors.grad_ce import GradCE
    from icl_plugins.selectors.gradient_matching import GradientMatching
    from icl_plugins.selectors.hybrid import Hybrid
    from icl_plugins.selectors.hybrid_prompt import HybridPrompt
    from icl_plugins.selectors.influence import GradFS, GradRE, SlotAssignment
    from icl_plugins.selectors.kmeans import KMeans
    from icl_plugins.selectors.latent_bayesian import LatentBayesian
    from icl_plugins.selectors.random import Random
    from icl_plugins.selectors.similarity import Similarity
    from icl_plugins.selectors.typicality import Typicality
    from icl_plugins.thinking.context_tuning import ContextTuning
    from icl_plugins.thinking.deep_thinking import DeepThinking
    from icl_plugins.thinking.kv_state import KVState
    from icl_plugins.tuning.many_icl import ManyICL

__version__ = "0.1.0"

__all__ = [
    "BM25",
    "BestOfN",
    "ContextTuning",
    "DeepThinking",
    "GradCE",
    "GradFS",
    "GradRE",
    "GradientMatching",
    "Hybrid",
    "HybridPrompt",
    "KMeans",
    "KVState",
    "LatentBayesian",
    "ManyICL",
    "ManyShotPrompt",
    "Pool",
    "Proxy",
    "Random",
    "Selection",
    "Similarity",
    "SlotAssignment",
    "Template",
    "Typicality",
]

_HOME = {
    "BM25": "icl_plugins.selectors.bm25",
    "BestOfN": "icl_plugins.selectors.best_of_n",
    "ContextTuning": "icl_plugins.thinking.context_tuning",
    "DeepThinking": "icl_plugins.thinking.deep_thinking",
    "GradCE": "icl_plugins.selectors.grad_ce",
    "GradFS": "icl_plugins.selectors.influence",
    "GradRE": "icl_plugins.selectors.influence",
    "GradientMatching": "icl_plugins.selectors.gradient_matching",
    "Hybrid": "icl_plugins.selectors.hybrid",
    "HybridPrompt": "icl_plugins.selectors.hybrid_prompt",
    "KMeans": "icl_plugins.selectors.kmeans",
    "KVState": "icl_plugins.thinking.kv_state",
    "LatentBayesian": "icl_plugins.selectors.latent_bayesian",
    "ManyICL": "icl_plugins.tuning.many_icl",
    "ManyShotPrompt": "icl_plugins.prompt",
    "Pool": "icl_plugins.examples",
    "Proxy": "icl_plugins.proxy.model",
    "Random": "icl_plugins.selectors.random",
    "Selection": "icl_plugins.selection",
    "Similarity": "icl_plugins.selectors.similarity",
    "SlotAssignment": "icl_plugins.selectors.influence",
    "Template": "icl_plugins.examples",
    "Typicality": "icl_plugins.selectors.typicality",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module (PEP 562); raises AttributeError for any other name."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
