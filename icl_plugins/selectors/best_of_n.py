"""BestOfN: random sets of demonstrations, the proxy tries them all and keeps the best."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.errors import BudgetError, NonFiniteError
from icl_plugins.examples import Pool
from icl_plugins.progress import tell_progress
from icl_plugins.selection import Selection
from icl_plugins.selectors._common import Request
from icl_plugins.selectors._context import context_losses
from icl_plugins.selectors._settings import about, check_models, check_seed, load_proxy
from icl_plugins.selectors._tokens import PromptTokens

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


@dataclass(frozen=True)
class BestOfN:
    """Draw `sets` random sets; take the one with which the proxy predicts held-out examples best.

    The loss of a set is that of the answers of up to `held_out` random pool examples that are not in it,
    the set standing in front as context: nats per example, summed over the answer's tokens. CLG's
    best-of-5 (arXiv 2506.04579) takes the task's metric on the first 1000 examples instead.
    The first set is what Random with the same seed selects. Scores are minus the loss of the chosen set,
    one value for all; `details["set_losses"]` holds the losses of all sets.
    `tokenizer` counts token budgets; None is the proxy's. Raises SettingError for bad settings.
    """

    sets: int = 5
    held_out: int = 256
    proxy: "str | Proxy" = "micro"
    seed: int = 0
    tokenizer: "str | PromptTokens | None" = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_models(self)
        whole_number("sets", self.sets, 1)
        whole_number("held_out", self.held_out, 1)
        check_seed(self.seed)

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
        """Select demonstrations; raises BudgetError, SettingError, ProxyError, or TooLongError.

        BudgetError also when a set would leave no example of the pool to try it on; TooLongError when
        demonstrations and question together do not fit the proxy.
        """
        tokenizer = self.tokenizer or self.proxy
        request = Request.check(pool, shots, max_tokens, quotas, include, exclude, tokenizer)
        generator = np.random.default_rng(self.seed)
        drawn = [request.take(generator.permutation(len(pool))) for _ in range(self.sets)]
        order = generator.permutation(len(pool)).tolist()
        held_out = [held_out_rows(pool, indices, order, self.held_out) for indices in drawn]
        proxy = load_proxy(self.proxy)
        losses: list[float] = []
        for indices, rows in zip(drawn, held_out, strict=True):
            losses.append(mean_loss(proxy, pool, indices, rows))
            tell_progress("random sets", len(losses), self.sets)
        best = int(np.argmin(losses))
        details = {"set_losses": losses, "held_out": len(held_out[best]), **about(proxy)}
        return request.selection(self, drawn[best], [-losses[best]] * len(drawn[best]), details=details)


def held_out_rows(pool: Pool, indices: Sequence[int], order: Iterable[int], size: int) -> list[int]:
    """Return the first `size` rows in `order` that say nothing the demonstrations say word for word."""
    shown = {pool.row_fingerprints[i] for i in indices}
    rows = [row for row in order if pool.row_fingerprints[row] not in shown][:size]
    if not rows:
        raise BudgetError(
            f"{len(indices)} demonstrations leave none of {len(pool)} examples to try them on",
            expected="at least one example more than shots",
            fix="lower shots, or choose a method that needs no held-out examples",
        )
    return rows


def mean_loss(proxy: "Proxy", pool: Pool, indices: Sequence[int], rows: Sequence[int]) -> float:
    """Mean loss (nats) of the answers of `rows` with the demonstrations at `indices` in front."""
    losses = context_losses(
        proxy,
        [pool.texts[i] for i in indices],
        pool.template.separator,
        [pool.questions[row] for row in rows],
        [pool.answers[row] for row in rows],
    )
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise NonFiniteError(
            f"{bad.size} losses that are NaN or infinite, rows {[rows[at] for at in bad[:5]]}",
            expected="a finite loss for every example",
            fix='look at these examples, or load the proxy with dtype="float32"',
        )
    return float(losses.mean())
