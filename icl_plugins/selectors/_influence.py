"""What the methods of influence share: settings, the honesty gate, and what happens when it fails."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.algorithms.honesty import EstimateQuality
from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.errors import EstimateError, EstimateWarning, SettingError
from icl_plugins.examples import Pool
from icl_plugins.selection import Selection
from icl_plugins.selectors._common import Request
from icl_plugins.selectors._prepare import prepare
from icl_plugins.selectors._settings import about, check_choice, check_models, check_seed, load_proxy
from icl_plugins.selectors._study import Anchors, Study
from icl_plugins.selectors._tokens import PromptTokens

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

OnBadEstimate = Literal["fallback", "warn", "error"]


@dataclass(frozen=True)
class Chosen:
    """Places of the chosen candidates in order, a score for each, and what is to be told."""

    places: Sequence[int]
    scores: Sequence[float]
    objective: Sequence[float] = ()
    details: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Influence(ABC):
    """Settings of the methods that estimate losses to first order (GradE, arXiv 2508.19999).

    queries: how many examples are held out of the pool to take the losses of (at most a quarter of it), or a
    pool of them. slot_labels: where labels are classes, each slot is for one label, in turns and by their
    shares, and candidates compare with those of their own label only; quotas bring this about by themselves.
    arrangements: where there are more labels than slots, the slots are for those of the best of so many
    random sets by real losses.
    slot_width: tokens of a slot, None for the longest example, or less where the proxy has no room for that;
    on_too_long: what becomes of longer examples: "error", "skip", or "truncate" (for the estimate alone the
    first tokens go; `cut` counts them). anchors: how many real subsets the table is averaged over, or "mean",
    the mean embedding in every slot. reduced: the width that embeddings are projected to if memory is short.

    check: on how many real subsets the estimates are measured (0 for none). on_bad_estimate: what happens
    if they do not rank them, better than chance and a constant: "fallback" takes the best of as many random
    sets by real losses, "warn" goes on with an EstimateWarning, "error" raises EstimateError.
    tokenizer counts token budgets; None is the proxy's. Raises SettingError for bad settings.
    """

    proxy: "str | Proxy" = "micro"
    queries: "int | Pool" = 128
    slot_labels: bool = True
    arrangements: int = 32
    slot_width: int | None = None
    anchors: Anchors = 16
    reduced: int | None = None
    check: int = 200
    on_bad_estimate: OnBadEstimate = "fallback"
    seed: int = 0
    on_too_long: Literal["error", "skip", "truncate"] = "truncate"
    tokenizer: "str | PromptTokens | None" = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_models(self)
        check_seed(self.seed)
        if not isinstance(self.queries, Pool):
            whole_number("queries", self.queries, 1)
        if not isinstance(self.slot_labels, bool):
            raise SettingError(
                f"slot_labels={self.slot_labels!r:.80}", expected="True or False", fix="pass one"
            )
        for name, least in (("slot_width", 1), ("reduced", 1)):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), least)
        whole_number("arrangements", self.arrangements, 1)
        if self.anchors != "mean":
            whole_number("anchors", self.anchors, 1)
        if 0 < whole_number("check", self.check, 0) < 4:
            raise SettingError(f"check={self.check}", expected="0, or 4 at least", fix="pass 200")
        check_choice("on_bad_estimate", self.on_bad_estimate, ("fallback", "warn", "error"))
        check_choice("on_too_long", self.on_too_long, ("error", "skip", "truncate"))

    def select(
        self,
        pool: Pool,
        shots: int | None = None,
        *,
        max_tokens: int | None = None,
        quotas: Quotas = None,
        include: Iterable[int] = (),
        exclude: Iterable[int] = (),
    ) -> Selection:
        """Select demonstrations; raises BudgetError, SettingError, ProxyError, TooLongError, NonFiniteError.

        DataError for queries that are in the pool, EstimateError if asked for.
        """
        tokenizer = self.tokenizer or self.proxy
        request = Request.check(pool, shots, max_tokens, quotas, include, exclude, tokenizer)
        study = self._study(request)
        if self._arranges and study.labels.max() >= len(study.slots):
            study = study.arranged(self.arrangements)
        surrogate = self._estimate(study)
        quality, sets = self._measure(study, surrogate) if self.check else (None, None)
        fell_back = quality is not None and not quality.trusted and self._acts_on(quality)
        chosen = best_of(study, sets, self.check) if fell_back else self._choose(study, surrogate, sets)
        rows = study.rows[np.asarray(chosen.places, dtype=np.int64)].tolist()
        details = {
            "queries": len(study.queries),
            **({"cut": study.cut} if study.cut else {}),
            **({} if quality is None else {"estimate": {**asdict(quality), "fell_back": fell_back}}),
            "loss": float(study.losses([chosen.places])[0]),
            **({} if sets is None else {"random_loss": float(sets[1].mean())}),
            **chosen.details,
            **about(study.proxy),
        }
        asked = replace(study.request, quotas=request.quotas)
        return asked.selection(self, rows, chosen.scores, objective=chosen.objective, details=details)

    @property
    def _slots(self) -> int | None:
        """How many slots the study has, None for as many as shots."""
        return None

    @property
    def _arranges(self) -> bool:
        """Whether labels are chosen for slots where these are fewer."""
        return self.arrangements > 1 and self._slots is None and self._at_once is None

    @property
    def _at_once(self) -> int | None:
        """How many slots stand in front of a query at once, None for all."""
        return None

    def _study(self, request: Request) -> Study:
        return prepare(
            request,
            load_proxy(self.proxy),
            queries=self.queries,
            slots=self._slots,
            at_once=self._at_once,
            slot_labels=self.slot_labels,
            slot_width=self.slot_width,
            on_too_long=self.on_too_long,
            reduced=self.reduced,
            seed=self.seed,
        )

    def _estimate(self, study: Study) -> Any:
        """Return what the method makes its estimates from, None where it makes it on the way."""
        return None

    @abstractmethod
    def _measure(self, study: Study, surrogate: Any) -> "tuple[EstimateQuality, Sets | None]":
        """Measure the method's own estimates on real subsets; return these too if they are whole sets."""

    @abstractmethod
    def _choose(self, study: Study, surrogate: Any, sets: "Sets | None") -> Chosen:
        """Choose by the estimates."""

    def _acts_on(self, quality: EstimateQuality) -> bool:
        """Warn or raise as asked; return whether to fall back."""
        found = (
            f"estimates with a rank correlation of {quality.rank_correlation:+.2f} ({quality.low:+.2f} to "
            f"{quality.high:+.2f}) on {quality.subsets} real subsets, and a regret of {quality.regret:.3f} "
            f"where a constant has {quality.constant_regret:.3f}"
        )
        if self.on_bad_estimate == "error":
            raise EstimateError(
                found,
                expected="a correlation above 0 beyond its interval, and less regret than a constant's",
                fix='take more anchors or queries, another proxy, or on_bad_estimate="fallback"',
            )
        if self.on_bad_estimate == "warn":
            warnings.warn(EstimateWarning(found), stacklevel=3)
        return self.on_bad_estimate == "fallback"


Sets = tuple[np.ndarray, np.ndarray]
"""Random sets of places (m, k), and their real losses (m,)."""


def best_of(study: Study, sets: Sets | None, count: int) -> Chosen:
    """Return the random set with the least real loss, of those measured or of `count` new ones.

    The arrangement is one of them. Where constraints forbid a set as it was drawn, others stand in for what
    does not fit.
    """
    subsets = study.draw(count, seed=1) if sets is None else sets[0]
    known = {} if sets is None else dict(zip(map(tuple, subsets.tolist()), sets[1].tolist(), strict=True))
    generator = np.random.default_rng(study.seed)
    lawful = [
        study.take(list(dict.fromkeys([*subset, *generator.permutation(len(study.rows)).tolist()])))
        for subset in subsets.tolist()
    ]
    lawful += [] if study.arrangement is None else [study.arrangement.tolist()]
    new = [places for places in lawful if tuple(places) not in known]
    known.update(zip(map(tuple, new), study.losses(new).tolist(), strict=True))
    best = min(lawful, key=lambda places: known[tuple(places)])
    return Chosen(best, [-known[tuple(best)]] * len(best))
