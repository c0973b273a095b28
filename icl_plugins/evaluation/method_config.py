"""A method of a comparison: a selector with its settings, one whose choice is thought, or a saved state."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import icl_plugins
from icl_plugins.checked import check_numbers, unknown_name
from icl_plugins.errors import SettingError
from icl_plugins.ordering import Order, Ordered
from icl_plugins.selection import Selector

if TYPE_CHECKING:
    from icl_plugins.thinking.context_tuning import ContextTuning
    from icl_plugins.thinking.deep_thinking import DeepThinking

EQUAL_COST = "equal_cost"

# what a comparison sets itself, the same for all methods
_OURS = ("seed", "store", "tokenizer")
_OURS_OF_THINKING = ("model", "layout", "seed")
_THINKING: dict[Literal["think", "tune"], str] = {"think": "DeepThinking", "tune": "ContextTuning"}
_DEFAULTS: dict[str, Any] = {
    "selector": "",
    "settings": {},
    "quotas": None,
    "order": "greedy",
} | dict.fromkeys(("seeds", *_THINKING))
_RANK = ("BM25", "LatentBayesian", "Random", "Similarity", "Typicality")
_SELECTORS = (
    *("BM25", "BestOfN", "GradCE", "GradFS", "GradRE", "GradientMatching", "KMeans", "LatentBayesian"),
    *("Random", "Similarity", "SlotAssignment", "Typicality"),
)


@dataclass(frozen=True)
class MethodConfig:
    """A selector by the name of its class, its settings, and how often it is run; see `selector_of`.

    think, tune: settings of DeepThinking or of ContextTuning, by which what was chosen becomes a state of
    the target. state: instead of all others, a folder of KVState.save, or name of data set -> folder.
    """

    selector: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    quotas: str | int | Mapping[str, int] | None = None
    order: Order = "greedy"
    seeds: int | None = None
    think: Mapping[str, Any] | None = None
    tune: Mapping[str, Any] | None = None
    state: str | Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        """Check by making the selector once."""
        if self.state is not None or not self.selector:
            self._check_alone()
            return
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
        if self.think is not None and self.tune is not None:
            raise SettingError("think and tune", expected="one way to a state", fix="make two methods of it")
        if self.thinking:
            self.thinking_of()

    def _check_alone(self) -> None:
        """Raise SettingError unless a state is all that there is."""
        others = [name for name, default in _DEFAULTS.items() if getattr(self, name) != default]
        if self.state is not None and others:
            raise SettingError(
                f"state and {', '.join(others)}",
                expected="state alone: it holds its own prompt, and how that was read",
                fix=f"leave out {', '.join(others)}, or state",
            )
        if not self.state:
            raise SettingError(
                "neither selector nor state",
                expected=f"the key selector, one of {', '.join(_SELECTORS)}; or the key state, a folder",
                fix="add one of the two",
            )

    def selector_of(self, **given: Any) -> Selector:
        """Return the selector with its settings, and of what is given the fields that it has."""
        kind: Any = getattr(icl_plugins, self.selector)
        selector: Selector = kind(**{**self.settings, **{n: given[n] for n in given if n in self._fields}})
        if self.order == "greedy":
            return selector
        return Ordered(selector, self.order, **{n: given[n] for n in ("seed", "proxy") if n in given})

    @property
    def thinking(self) -> Literal["think", "tune"] | None:
        """The key whose settings make a state of what was chosen, if any."""
        return next((key for key in _THINKING if getattr(self, key) is not None), None)

    def thinking_of(self, **given: Any) -> "DeepThinking | ContextTuning":
        """Return what `think` or `tune` sets, lists as candidates; given: model, layout, seed.

        For methods that have one of them. Raises SettingError.
        """
        key = self.thinking or "think"
        kind: Any = getattr(icl_plugins, _THINKING[key])
        settings, known = getattr(self, key) or {}, {one.name for one in fields(kind)}
        for name in settings:
            if name not in known.difference(_OURS_OF_THINKING):
                raise unknown_name(f"{key}.{name}", name, known.difference(_OURS_OF_THINKING), "settings")
        values = {name: tuple(one) if isinstance(one, list) else one for name, one in settings.items()}
        thinking: DeepThinking | ContextTuning = kind(**{**values, **given})
        return thinking

    @property
    def states(self) -> Mapping[str, str]:
        """The folder of the state for each data set, as `with_states` has made it."""
        return {} if self.state is None or isinstance(self.state, str) else self.state

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
        kind = getattr(icl_plugins, self.selector) if self.selector else None
        return frozenset(one.name for one in fields(kind)) if kind else frozenset()
