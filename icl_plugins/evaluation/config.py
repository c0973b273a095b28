"""What a comparison compares: targets, data sets and methods, checked when they are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import icl_plugins
from icl_plugins.algorithms.checks import whole_number
from icl_plugins.errors import SettingError
from icl_plugins.evaluation.checked import check_lists, check_name, check_numbers, unknown_name
from icl_plugins.evaluation.metrics import as_metric
from icl_plugins.ordering import Order, Ordered
from icl_plugins.selection import Selector
from icl_plugins.template import Template

RANDOM = "random"
EQUAL_COST = "equal_cost"

# what a comparison sets itself, the same for all methods
_OURS = ("seed", "store", "tokenizer")
_RANK = ("BM25", "LatentBayesian", "Random", "Similarity", "Typicality")
_LEAST_RANDOM = 10  # seeds
_SELECTORS = (
    *("BM25", "BestOfN", "GradCE", "GradFS", "GradRE", "GradientMatching", "KMeans", "LatentBayesian"),
    *("Random", "Similarity", "SlotAssignment", "Typicality"),
)


@dataclass(frozen=True)
class TargetConfig:
    """The model that reads the prompts; settings: further arguments of the class that serves this kind.

    context: tokens that it reads at once, where it is not known or is to be less. tokenizer: counts them,
    where the target's own is not here.
    """

    model: str = "micro"
    kind: Literal["local", "openai"] = "local"
    context: int | None = None
    tokenizer: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the context."""
        if self.context is not None:
            whole_number("context", self.context, 1)


@dataclass(frozen=True)
class DataConfig:
    """One data set: its files, how a row becomes question and answer, and what counts as right.

    test: None holds items out of train. choices: "labels" (the answers of train), the name of a field that
    holds a list, or None, where the target writes freely, at most max_tokens. correct: the field that names
    the right one of a list.
    """

    name: str
    train: str
    template: Template
    test: str | None = None
    label: str | None = None
    instruction: str = ""
    metric: str = "accuracy"
    choices: str | None = "labels"
    correct: str = "answer"
    max_tokens: int = 256
    pool: int | None = None
    items: int | None = None

    def __post_init__(self) -> None:
        """Check name, metric and numbers."""
        check_name("name", self.name)
        if as_metric(self.metric).of_labels and self.choices is None:
            raise SettingError(
                f"metric {self.metric} with choices null", expected="choices to name", fix="set either"
            )
        check_numbers(self, ("max_tokens", "pool", "items"))


@dataclass(frozen=True)
class MethodConfig:
    """A selector by the name of its class, its settings, and how often it is run; see `selector_of`."""

    selector: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    quotas: str | int | Mapping[str, int] | None = None
    order: Order = "greedy"
    seeds: int | None = None

    def __post_init__(self) -> None:
        """Check by making the selector once."""
        kind = getattr(icl_plugins, self.selector) if self.selector in icl_plugins.__all__ else None
        if not hasattr(kind, "select"):
            raise unknown_name(repr(self.selector), self.selector, _SELECTORS, "selectors")
        for name in self.settings:
            if name not in self._fields.difference(_OURS):
                raise unknown_name(f"settings.{name}", name, self._fields.difference(_OURS), "settings")
        if isinstance(self.quotas, str) and self.quotas != "proportional":
            raise SettingError(
                f"quotas={self.quotas!r}",
                expected='"proportional", a whole number or a mapping from label to a number',
                fix="correct quotas",
            )
        check_numbers(self, ("seeds",))
        self.selector_of(**({"sets": 1} if self.equal_cost else {}))

    def selector_of(self, **given: Any) -> Selector:
        """Return the selector with its settings, and of what is given the fields that it has."""
        kind: Any = getattr(icl_plugins, self.selector)
        selector: Selector = kind(**{**self.settings, **{n: given[n] for n in given if n in self._fields}})
        if self.order == "greedy":
            return selector
        return Ordered(selector, self.order, **{n: given[n] for n in ("seed", "proxy") if n in given})

    @property
    def equal_cost(self) -> bool:
        """Whether BestOfN tries as many sets as gradient matching would have time for."""
        return self.selector == "BestOfN" and self.settings.get("sets") == EQUAL_COST

    @property
    def nested(self) -> bool:
        """Whether the first k that are chosen are what is chosen for k shots, where no token budget binds."""
        ranks = self.selector in _RANK
        if self.selector == "GradientMatching":
            matching: Any = replace(self, order="greedy").selector_of()
            ranks = matching.swaps == 0 and matching.typical == 1
        return ranks and self.quotas is None and self.order == "greedy"

    @property
    def needs_proxy(self) -> bool:
        """Whether a proxy is asked."""
        return "proxy" in self._fields or self.order in ("easy_to_hard", "nearest_last", "search")

    def proxy(self, default: str) -> str:
        """Return the name of the proxy, where one is asked."""
        return str(self.settings.get("proxy", default))

    @property
    def seeded(self) -> bool:
        """Whether another seed may choose otherwise."""
        return "seed" in self._fields or self.order in ("shuffle", "search")

    @property
    def _fields(self) -> frozenset[str]:
        return frozenset(one.name for one in fields(getattr(icl_plugins, self.selector)))


# Always compared, unless the config has a method of the same name.
CONTROLS = {
    RANDOM: MethodConfig("Random", seeds=_LEAST_RANDOM),
    "stratified_random": MethodConfig("Random", quotas="proportional"),
    "kmeans": MethodConfig("KMeans"),
    "best_of_n": MethodConfig("BestOfN", settings={"sets": EQUAL_COST}),
}


@dataclass(frozen=True)
class Config:
    """What is compared: every method, at every number of shots, with every seed, on every data set.

    shots: numbers, and "max" for as many as fit the target's context. seeds: of each method that has one and
    does not say otherwise. pool, items: rows drawn of train and test by `seed`, the same for all methods.
    on_overlap: pool rows that ask the same as an evaluation row are dropped and counted, or refused.
    """

    datasets: tuple[DataConfig, ...]
    shots: tuple[int | Literal["max"], ...]
    methods: Mapping[str, MethodConfig] = field(default_factory=dict)
    target: TargetConfig = field(default_factory=TargetConfig)
    proxy: str = "micro"
    seeds: int = 3
    pool: int = 1000
    items: int = 250
    seed: int = 0
    on_overlap: Literal["drop", "error"] = "drop"

    def __post_init__(self) -> None:
        """Check names and numbers, and add the controls."""
        check_numbers(self, ("seeds", "pool", "items"))
        whole_number("seed", self.seed, 0)
        for shots in self.shots:
            if shots != "max":
                whole_number("shots", shots, 1)
        check_lists({"datasets": [data.name for data in self.datasets], "shots": [*self.shots]})
        for name in self.methods:
            check_name("methods", name)
        methods = {**CONTROLS, **self.methods}
        if (methods[RANDOM].selector, methods[RANDOM].quotas) != ("Random", None):
            raise SettingError(
                f"methods.{RANDOM} is not plain random",
                expected="the selector Random without quotas, against which all others are held",
                fix="give your method another name",
            )
        object.__setattr__(self, "methods", methods)
        if len(self.seeds_of(RANDOM)) < _LEAST_RANDOM:
            raise SettingError(
                f"methods.{RANDOM} with {len(self.seeds_of(RANDOM))} seeds",
                expected=f"{_LEAST_RANDOM} at least, since every gain is a difference to their mean",
                fix="raise its seeds, or leave it out: it is always compared",
            )

    @property
    def matching(self) -> MethodConfig:
        """The first method of gradient matching, or its defaults: whose cost equal cost is."""
        found = (method for method in self.methods.values() if method.selector == "GradientMatching")
        return next(found, MethodConfig("GradientMatching"))

    def seeds_of(self, method: str) -> range:
        """Return the seeds that a method is run with; a method that has no use for one runs once."""
        config = self.methods[method]
        return range((config.seeds or self.seeds) if config.seeded else 1)
