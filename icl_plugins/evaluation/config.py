"""What a comparison compares: targets, data sets and methods, checked when they are made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.checked import check_lists, check_name, check_numbers
from icl_plugins.errors import SettingError
from icl_plugins.evaluation.method_config import EQUAL_COST, MethodConfig
from icl_plugins.evaluation.method_states import with_states
from icl_plugins.evaluation.metrics import as_metric
from icl_plugins.template import Template

RANDOM = "random"

_LEAST_RANDOM = 10  # seeds


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
        own = with_states(self.methods, [data.name for data in self.datasets], self.target.kind)
        methods = {**CONTROLS, **own}
        random = methods[RANDOM]
        if (random.selector, random.quotas, random.thinking) != ("Random", None, None):
            raise SettingError(
                f"methods.{RANDOM} is not plain random",
                expected="the selector Random without quotas, think or tune, against which others are held",
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
