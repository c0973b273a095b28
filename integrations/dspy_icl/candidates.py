"""What a search tries: selectors, numbers of demonstrations and orders."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from dspy_icl.few_shot import SelectorFewShot
from icl_plugins import GradientMatching, KMeans, Pool, Random
from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.artefacts import canonical_json, fingerprint
from icl_plugins.ordering import Order, Ordered
from icl_plugins.selection import Selection, Selector
from icl_plugins.selectors._settings import settings


@dataclass(frozen=True)
class Candidate:
    """Demonstrations to try: what `selector` chooses, at most `k`, within `max_tokens` and `quotas`.

    As in SelectorFewShot; raises SettingError for bad settings.
    """

    selector: Selector
    k: int | None = 16
    max_tokens: int | None = None
    quotas: Quotas = None

    def __post_init__(self) -> None:
        """Check the settings."""
        SelectorFewShot(self.selector, **self.limits)

    @property
    def limits(self) -> dict[str, Any]:
        """What limits the demonstrations."""
        return {"k": self.k, "max_tokens": self.max_tokens, "quotas": self.quotas}

    @property
    def name(self) -> str:
        """The selector with the settings that are not its defaults, the limits, the order."""
        inner, order = (
            (self.selector.selector, self.selector.order)
            if isinstance(self.selector, Ordered)
            else (self.selector, "greedy")
        )
        limits = [f"{name}={value}" for name, value in self.limits.items() if value is not None]
        return ", ".join([_described(inner), *limits, *([order] if order != "greedy" else [])])


def grid(
    selectors: Iterable[Selector], shots: Iterable[int], orders: Iterable[Order] = ("greedy",)
) -> list[Candidate]:
    """Return a candidate for each selector, each number of demonstrations and each order."""
    ks, by = tuple(shots), tuple(orders)
    return [
        Candidate(selector if order == "greedy" else Ordered(selector, order), k)
        for selector in selectors
        for k in ks
        for order in by
    ]


def default_candidates() -> list[Candidate]:
    """Return gradient matching, k-means and random with 4, 16 and 64 shots, as chosen and interleaved."""
    return grid((GradientMatching(), KMeans(), Random()), (4, 16, 64), ("greedy", "interleaved"))


@dataclass(frozen=True)
class Sharing:
    """A selector whose gradients lie in `folder`, where candidates that differ in other things share them."""

    selector: Selector
    folder: Path = field(repr=False)

    def select(self, pool: Pool, shots: int | None = None, **limits: Any) -> Selection:
        """Select as the selector does."""
        return self._stored(self.selector, pool).select(pool, shots, **limits)

    def _stored(self, selector: Selector, pool: Pool) -> Selector:
        if isinstance(selector, Ordered):
            return replace(selector, selector=self._stored(selector.selector, pool))
        if not isinstance(selector, GradientMatching) or selector.store is not None:
            return selector
        plain = settings(replace(selector, swaps=0, typical=1.0))  # gradients depend on neither
        made_from = fingerprint(pool.fingerprint, canonical_json(plain))
        return replace(selector, store=self.folder / made_from[:16])


def distinct(programs: Sequence[Any]) -> list[int]:
    """Return the positions of the programs that show what none before them does, in the same order."""
    shown = [
        canonical_json({name: report["rows"] for name, report in program.selection_reports.items()})
        for program in programs
    ]
    return [position for position, rows in enumerate(shown) if rows not in shown[:position]]


def _described(selector: Any) -> str:
    """Return the class with the plain settings that are not its defaults."""
    own = fields(selector) if is_dataclass(selector) else ()
    given = {one.name: getattr(selector, one.name) for one in own}
    told = [
        f"{one.name}={given[one.name]!r}"
        for one in own
        if isinstance(given[one.name], str | int | float) and given[one.name] != one.default
    ]
    return type(selector).__name__ + (f"({', '.join(told)})" if told else "")
