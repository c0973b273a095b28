"""One optimizer for each selector of the library: its settings and those of SelectorFewShot in one call."""

import sys
from dataclasses import fields
from inspect import Parameter, Signature, signature
from typing import Any, ClassVar

from dspy_icl.few_shot import SelectorFewShot
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
from icl_plugins.errors import SettingError

_OPTIONS = [p for p in signature(SelectorFewShot).parameters.values() if p.kind is Parameter.KEYWORD_ONLY]


class MethodFewShot(SelectorFewShot):
    """A SelectorFewShot that makes its own selector, a `method`, from the settings that are the method's."""

    method: ClassVar[Any]
    __signature__: ClassVar[Signature]

    def __init__(self, **settings: Any) -> None:
        if unknown := sorted(set(settings) - set(self.__signature__.parameters)):
            raise SettingError(
                f"{type(self).__name__} has no setting {', '.join(map(repr, unknown))}",
                expected=f"some of {', '.join(self.__signature__.parameters)}",
                fix="correct the name",
            )
        of_method = {field.name for field in fields(self.method)}
        selector = self.method(**{name: value for name, value in settings.items() if name in of_method})
        options = {option.name for option in _OPTIONS}
        super().__init__(selector, **{name: value for name, value in settings.items() if name in options})


def few_shot(method: Any) -> type[MethodFewShot]:
    """Return the optimizer of a selector's class.

    It takes the settings of that class and of SelectorFewShot, all by name; a seed is for both. Instances
    pickle where the module that calls this keeps the class under its own name, ``<Method>FewShot``.
    """
    own = [option.replace(kind=Parameter.KEYWORD_ONLY) for option in signature(method).parameters.values()]
    known = {option.name: option for option in (*_OPTIONS, *own)}
    members = {
        "method": method,
        "__signature__": Signature(list(known.values())),
        "__doc__": f"SelectorFewShot with {method.__name__}: settings of both, by name.\n\n{method.__doc__}",
        "__module__": sys._getframe(1).f_globals.get("__name__", __name__),  # where pickle looks for it
    }
    return type(f"{method.__name__}FewShot", (MethodFewShot,), members)


BestOfNFewShot = few_shot(BestOfN)
BM25FewShot = few_shot(BM25)
GradCEFewShot = few_shot(GradCE)
GradFSFewShot = few_shot(GradFS)
GradREFewShot = few_shot(GradRE)
GradientMatchingFewShot = few_shot(GradientMatching)
KMeansFewShot = few_shot(KMeans)
LatentBayesianFewShot = few_shot(LatentBayesian)
RandomFewShot = few_shot(Random)
SimilarityFewShot = few_shot(Similarity)
SlotAssignmentFewShot = few_shot(SlotAssignment)
TypicalityFewShot = few_shot(Typicality)
