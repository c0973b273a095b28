"""Random demonstrations: the control that every method has to beat."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.examples import Pool
from icl_plugins.selection import Selection
from icl_plugins.selectors._common import Request
from icl_plugins.selectors._settings import check_models, check_seed
from icl_plugins.selectors._tokens import PromptTokens


@dataclass(frozen=True)
class Random:
    """Take the pool in the order of a seeded permutation.

    Nested: without quotas the first k of a selection are what the same seed selects for `shots=k`.
    Scores are all 0: no demonstration is preferred. Raises SettingError for a bad seed.
    """

    seed: int = 0
    tokenizer: "str | PromptTokens" = "micro"

    def __post_init__(self) -> None:
        """Check the settings."""
        check_models(self)
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
        """Select demonstrations; raises BudgetError or SettingError for what cannot be met."""
        request = Request.check(pool, shots, max_tokens, quotas, include, exclude, self.tokenizer)
        indices = request.take(np.random.default_rng(self.seed).permutation(len(pool)))
        return request.selection(self, indices, np.zeros(len(indices)))
