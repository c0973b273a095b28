"""An example selector for every selector of icl_plugins, one statement each."""

from icl_plugins import (
    BM25,
    BestOfN,
    GradCE,
    GradFS,
    GradientMatching,
    GradRE,
    KMeans,
    LatentBayesian,
    Random,
    Similarity,
    SlotAssignment,
    Typicality,
)
from langchain_icl.selector import ICLExampleSelector


class BM25ExampleSelector(ICLExampleSelector, method=BM25):
    """Chooses with ``icl_plugins.BM25``."""


class BestOfNExampleSelector(ICLExampleSelector, method=BestOfN):
    """Chooses with ``icl_plugins.BestOfN``."""


class GradCEExampleSelector(ICLExampleSelector, method=GradCE):
    """Chooses with ``icl_plugins.GradCE``; for each query by itself: HybridExampleSelector."""


class GradFSExampleSelector(ICLExampleSelector, method=GradFS):
    """Chooses with ``icl_plugins.GradFS``."""


class GradREExampleSelector(ICLExampleSelector, method=GradRE):
    """Chooses with ``icl_plugins.GradRE``."""


class GradientMatchingExampleSelector(ICLExampleSelector, method=GradientMatching):
    """Chooses with ``icl_plugins.GradientMatching``; of added examples only the new rows are computed."""


class KMeansExampleSelector(ICLExampleSelector, method=KMeans):
    """Chooses with ``icl_plugins.KMeans``."""


class LatentBayesianExampleSelector(ICLExampleSelector, method=LatentBayesian):
    """Chooses with ``icl_plugins.LatentBayesian``."""


class RandomExampleSelector(ICLExampleSelector, method=Random):
    """Chooses with ``icl_plugins.Random``, the control that every method has to beat."""


class SimilarityExampleSelector(ICLExampleSelector, method=Similarity):
    """Chooses with ``icl_plugins.Similarity``."""


class SlotAssignmentExampleSelector(ICLExampleSelector, method=SlotAssignment):
    """Chooses with ``icl_plugins.SlotAssignment``."""


class TypicalityExampleSelector(ICLExampleSelector, method=Typicality):
    """Chooses with ``icl_plugins.Typicality``."""
