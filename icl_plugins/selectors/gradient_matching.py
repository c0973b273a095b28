"""GradientMatching: the demonstrations whose mean gradient is the pool's."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.algorithms.constraints import Constraints
from icl_plugins.algorithms.features import Features
from icl_plugins.algorithms.matching import Match, match
from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.algorithms.scaling import SCALINGS, scale_blocks
from icl_plugins.errors import SettingError
from icl_plugins.examples import Pool
from icl_plugins.progress import tell_progress
from icl_plugins.selection import Selection
from icl_plugins.selectors._common import Request
from icl_plugins.selectors._embeddings import TooLong
from icl_plugins.selectors._settings import (
    about,
    check_choice,
    check_models,
    check_real,
    check_seed,
    load_proxy,
)
from icl_plugins.selectors._tokens import PromptTokens
from icl_plugins.selectors.typicality import less_typical

if TYPE_CHECKING:
    from icl_plugins.proxy.curriculum import Curriculum
    from icl_plugins.proxy.model import Proxy
    from icl_plugins.proxy.pool_gradients import PoolGradients


@dataclass(frozen=True)
class GradientMatching:
    """Tune a prefix on the pool; choose examples whose mean gradient, at every checkpoint, is the pool's.

    CLG (arXiv 2506.04579): latent concept learning, per-example gradients with respect to the prefix, greedy
    choice, then at most `swaps` best single swaps. `paper()` is the published method to the letter.

    Better than published: only the most typical examples of each label are candidates (`typical`).

    `mode`: "exact", gradients of all examples at all E+1 checkpoints in passes of their own; "online", taken
    while the prefix is tuned, at half the cost. `scaling`: "none" (published), "checkpoint" (each
    checkpoint's block to mean norm 1) or "example" (each example's feature to norm 1). `typical`: the share
    of each label's examples that may be chosen, the most typical ones (see `Typicality`), more where the
    shots ask for more; 1 is all of them; the mean to match is that of the whole pool. `prefix_length`,
    `epochs`, `batch_size`, `learning_rate`, `warmup`, `schedule`, `seed`: of prefix tuning. `store`: a folder
    that keeps curriculum and gradients; an interrupted run goes on there, a second one reuses them, and
    examples added to the pool cost only themselves. `on_too_long`: "error", "skip" or "truncate" examples
    that do not fit the proxy. `tokenizer` counts token budgets; None is the proxy's.

    The objective is J, the distance between the mean feature of the demonstrations and that of the pool
    (lower = better). Scores are how much J rises when that demonstration alone is left out. With `swaps=0`
    and `typical=1` selections are nested. Raises SettingError for bad settings.
    """

    proxy: "str | Proxy" = "micro"
    mode: Literal["exact", "online"] = "exact"
    scaling: Literal["none", "checkpoint", "example"] = "none"
    swaps: int = 32
    typical: float = 0.1
    prefix_length: int = 4
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.1
    schedule: Literal["constant", "linear"] = "constant"
    seed: int = 0
    store: str | Path | None = None
    on_too_long: Literal["error", "skip", "truncate"] = "error"
    tokenizer: "str | PromptTokens | None" = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_models(self)
        if not (self.store is None or (isinstance(self.store, str | Path) and str(self.store))):
            raise SettingError(f"store={self.store!r}", expected="a folder, or None", fix="name a folder")
        for name in ("prefix_length", "epochs", "batch_size"):
            whole_number(name, getattr(self, name), 1)
        whole_number("swaps", self.swaps, 0)
        check_real("learning_rate", self.learning_rate, positive=True)
        check_real("warmup", self.warmup, at_most=1.0)
        check_real("typical", self.typical, positive=True, at_most=1.0)
        check_choice("mode", self.mode, ("exact", "online"))
        check_choice("scaling", self.scaling, SCALINGS)
        check_choice("schedule", self.schedule, ("constant", "linear"))
        check_choice("on_too_long", self.on_too_long, ("error", "skip", "truncate"))
        check_seed(self.seed)

    @classmethod
    def paper(cls) -> "GradientMatching":
        """Return the published settings: exact gradients, unscaled, 32 swaps, k 4, 10 epochs, batch 64."""
        return cls(mode="exact", scaling="none", typical=1.0)

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
        """Select demonstrations; raises BudgetError, ProxyError, TooLongError, NonFiniteError, StoreError."""
        tokenizer = self.tokenizer or self.proxy
        request = Request.check(pool, shots, max_tokens, quotas, include, exclude, tokenizer)
        proxy = load_proxy(self.proxy)
        gradients = self._gradients(proxy, pool)
        request = request.without(gradients.skipped, "too long for the proxy")
        usable = np.setdiff1d(np.arange(len(pool)), gradients.skipped)
        started = perf_counter()
        policy: TooLong = "truncate" if self.on_too_long == "truncate" else "error"
        atypical = less_typical(request, usable, self.typical, proxy, policy)
        seconds = dict(gradients.seconds)
        if self.typical < 1:
            seconds["typicality"] = perf_counter() - started
        started = perf_counter()
        features = self._scaled(gradients, usable)
        found = request.choose(
            lambda constraints: match(
                features,
                swaps=self.swaps,
                constraints=_among(constraints, usable, atypical),
                progress=tell_progress,
            ),
            lambda found: usable[found.indices].tolist(),
        )
        seconds["matching"] = perf_counter() - started
        details = {
            **about(proxy),
            **({"candidates": len(usable) - len(atypical)} if atypical else {}),
            **_told(gradients, found, len(usable), seconds),
        }
        indices: Sequence[int] = usable[found.indices].tolist()
        return request.selection(self, indices, found.scores, objective=found.trace, details=details)

    def features(self, pool: Pool) -> Features:
        """Return the features that `select` matches; `rows` names those of the pool where some were skipped.

        With a store, nothing that it holds is computed again. Raises what `select` raises of them.
        """
        gradients = self._gradients(load_proxy(self.proxy), pool)
        return self._scaled(gradients, np.setdiff1d(np.arange(len(pool)), gradients.skipped))

    def curriculum(self, pool: Pool) -> "Curriculum":
        """Return the tuned prefixes that `select` takes gradients at; as `features`, read from a store."""
        return self._gradients(load_proxy(self.proxy), pool).curriculum

    def _scaled(self, gradients: "PoolGradients", usable: np.ndarray) -> Features:
        features = Features.of(gradients.blocks)
        if gradients.skipped:  # reading chosen rows only means copying them
            features = features.take(usable)
        return scale_blocks(features, self.scaling)

    def _gradients(self, proxy: "Proxy", pool: Pool) -> "PoolGradients":
        from icl_plugins.proxy.pool_gradients import pool_gradients
        from icl_plugins.proxy.prefix import PrefixTuning

        tuning = PrefixTuning(
            self.prefix_length,
            self.epochs,
            self.batch_size,
            self.learning_rate,
            self.warmup,
            self.schedule,
            self.seed,
        )
        folder = None if self.store is None else Path(self.store)
        return pool_gradients(
            proxy, pool, tuning, mode=self.mode, on_too_long=self.on_too_long, folder=folder
        )


def _among(constraints: Constraints, usable: np.ndarray, atypical: Sequence[int]) -> Constraints:
    """Return the constraints in terms of positions among the usable rows, the atypical ones excluded.

    Quotas stay those of all usable rows.
    """
    place = {row: position for position, row in enumerate(usable.tolist())}
    return replace(
        constraints,
        costs=None if constraints.costs is None else constraints.costs[usable],
        groups=constraints.groups[usable],
        include=tuple(place[row] for row in constraints.include),
        exclude=tuple(place[row] for row in (*constraints.exclude, *atypical) if row in place),
    )


def _told(
    gradients: "PoolGradients", found: Match, rows: int, seconds: dict[str, float]
) -> dict[str, object]:
    return {
        "objective_name": "distance of mean gradients",
        "random_objective": found.random_objective,
        "random_spread": found.spread,
        "random_rows": rows,
        "swaps": found.swaps,
        "converged": found.converged,
        "curriculum_losses": list(gradients.curriculum.losses),
        "rows_computed": gradients.computed,
        "curriculum_tuned_on": gradients.tuned_on,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
