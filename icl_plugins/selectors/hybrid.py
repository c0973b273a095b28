"""Hybrid: a fixed block of demonstrations, and behind it the nearest ones to each query."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icl_plugins.algorithms.checks import distinct_rows, whole_number
from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.errors import BudgetError, SettingError
from icl_plugins.examples import Pool
from icl_plugins.prompt import ManyShotPrompt
from icl_plugins.selection import Selection, Selector
from icl_plugins.selectors._embeddings import TooLong
from icl_plugins.selectors._hybrid_parts import (
    Budget,
    block,
    candidates,
    counting_with,
    models_of,
    reserved_for,
    shown_rows,
)
from icl_plugins.selectors._rankers import Ranker, RankerMaker, build_ranker, using
from icl_plugins.selectors._settings import check_choice, check_models
from icl_plugins.selectors._tokens import PromptTokens, prompt_tokens
from icl_plugins.selectors.gradient_matching import GradientMatching
from icl_plugins.selectors.hybrid_prompt import HybridPrompt

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

__all__ = ["Hybrid", "HybridPrompt", "Ranker", "RankerMaker"]


@dataclass(frozen=True)
class Hybrid:
    """Demonstrations for the task, which `fixed` chooses once, and the `m` nearest to each query.

    CLG's "task-level + instance-level" (arXiv 2506.04579), with three differences: the fixed block is the
    same to the byte for every query, also under a token budget, so that the provider's prefix cache pays for
    it; no demonstration is shown twice; the nearest comes last, right before the query.

    `nearest`: "bm25", "proxy" (cosine of the proxy's mean hidden states), the name or folder of a
    sentence-transformers model, or an object with ``ranker(pool, rows)`` (see RankerMaker). They compare
    questions as rendered. `proxy` and `on_too_long` are for those that embed. `tokenizer` counts token
    budgets; None is that of `fixed`. `distinct`: what counts as the same demonstration: "exact", the same
    question and answer, or "normalised", the same question when case and all but letters and digits are
    ignored, whatever the answers; that is too coarse where signs carry meaning (3 + 5, 3 - 5).

    A query that is itself in the pool is shown with its answer, unless `leave_out_same` (case and space
    apart): in use that is what one wants, in an evaluation on the pool's own rows it is a leak.
    Raises SettingError for bad settings.
    """

    fixed: Selector = field(default_factory=GradientMatching)
    nearest: "str | RankerMaker" = "bm25"
    m: int = 4
    proxy: "str | Proxy" = "micro"
    on_too_long: TooLong = "error"
    tokenizer: "str | PromptTokens | None" = None
    distinct: Literal["exact", "normalised"] = "exact"
    leave_out_same: bool = False

    def __post_init__(self) -> None:
        """Check the settings."""
        if isinstance(self.fixed, type) or not isinstance(self.fixed, Selector):
            raise SettingError(
                f"fixed={self.fixed!r:.80}", expected="a selector, e.g. GradientMatching()", fix="pass one"
            )
        if isinstance(self.nearest, Path):
            object.__setattr__(self, "nearest", str(self.nearest))
        made = isinstance(self.nearest, RankerMaker) and not isinstance(self.nearest, type)
        if not made and not (isinstance(self.nearest, str) and self.nearest):
            raise SettingError(
                f"nearest={self.nearest!r:.80}",
                expected='"bm25", "proxy", a sentence-transformers model, or an object with ranker()',
                fix="pass one of them",
            )
        object.__setattr__(self, "m", whole_number("m", self.m, 1))
        check_models(self)
        check_choice("on_too_long", self.on_too_long, ("error", "truncate"))
        check_choice("distinct", self.distinct, ("exact", "normalised"))
        if not isinstance(self.leave_out_same, bool):
            raise SettingError(
                f"leave_out_same={self.leave_out_same!r:.80}", expected="True or False", fix="pass one"
            )

    def fit(
        self,
        pool: Pool,
        shots: int | None = None,
        *,
        max_tokens: int | None = None,
        quotas: Quotas = None,
        include: Iterable[int] = (),
        exclude: Iterable[int] = (),
        instruction: str = "",
    ) -> HybridPrompt:
        """Choose the fixed block and return its prompt; raises what `select_fixed` and `around` raise."""
        left_out = tuple(exclude)
        limits: dict[str, Any] = {"max_tokens": max_tokens, "quotas": quotas, "include": include}
        selection = self.select_fixed(pool, shots, exclude=left_out, **limits)
        return self.around(selection, max_tokens=max_tokens, exclude=left_out, instruction=instruction)

    def select_fixed(
        self,
        pool: Pool,
        shots: int | None = None,
        *,
        max_tokens: int | None = None,
        quotas: Quotas = None,
        include: Iterable[int] = (),
        exclude: Iterable[int] = (),
    ) -> Selection:
        """Select the fixed block: `shots` demonstrations, or as many as leave room for m of mean size.

        Without `shots` m examples at least stay for the queries. Raises BudgetError where nothing fits, and
        what the selector raises.
        """
        left_out = distinct_rows("exclude", exclude, len(pool))
        most = len(pool) - len(left_out) - self.m
        if most < (1 if shots is None else whole_number("shots", shots, 1)):
            raise BudgetError(
                f"shots={shots} and m={self.m} from {most + self.m} examples",
                expected="m examples at least besides the fixed block",
                fix="lower shots or m",
            )
        limits: dict[str, Any] = {"quotas": quotas, "include": tuple(include), "exclude": left_out}
        selector, reserved = self.fixed, 0
        if max_tokens is not None:
            shots = most if shots is None else shots
            selector = counting_with(selector, self.tokenizer)
            reserved = reserved_for(self.m, pool, prompt_tokens(self.budget_tokenizer), max_tokens)
            limits["max_tokens"] = max_tokens - reserved
        try:
            with using(*models_of(selector)):
                return selector.select(pool, shots, **limits)
        except BudgetError as error:
            if not reserved:
                raise
            got = f"{error.got}, where {reserved} of {max_tokens} tokens are kept for the m={self.m} nearest"
            raise BudgetError(got, expected=error.expected, fix=f"{error.fix}; or lower m") from error

    def around(
        self,
        source: Selection | ManyShotPrompt,
        pool: Pool | None = None,
        *,
        max_tokens: int | None = None,
        exclude: Iterable[int] = (),
        instruction: str = "",
    ) -> HybridPrompt:
        """Return the prompt of a fixed block that is there already: a selection, or a prompt and a pool.

        pool: where the nearest come from, the selection's own by default. exclude: rows of it that are never
        shown. instruction: that of a selection; a prompt has its own. Raises SettingError for a source and
        pool that do not go together, BudgetError where the fixed block alone is over `max_tokens`, and where
        no example is left for the queries; and what loading and reading a model raises.
        """
        fixed, pool = block(source, pool, instruction)
        left_out = distinct_rows("exclude", exclude, len(pool))
        rows = candidates(fixed, pool, left_out, self.distinct)
        budget = None
        if max_tokens is not None:
            counter = prompt_tokens(self.budget_tokenizer)
            budget = Budget.of(
                whole_number("max_tokens", max_tokens, 1), counter, pool, shown_rows(fixed, pool)
            )
        ranker, about = build_ranker(self.nearest, pool, rows, self.proxy, self.on_too_long)
        return HybridPrompt(
            fixed=fixed,
            pool=pool,
            rows=rows,
            ranker=ranker,
            m=self.m,
            budget=budget,
            leave_out_same=self.leave_out_same,
            config={
                "selector": "Hybrid",
                **about,
                **{name: getattr(self, name) for name in ("m", "on_too_long", "distinct", "leave_out_same")},
                "max_tokens": budget and budget.max_tokens,
                "tokenizer": budget and budget.counter.name,
            },
            selection=source if isinstance(source, Selection) else None,
        )

    @property
    def budget_tokenizer(self) -> "str | Proxy | PromptTokens":
        """What counts a token budget: the tokenizer given, else that of the fixed block's method."""
        inner = getattr(self.fixed, "selector", self.fixed)
        own = getattr(inner, "tokenizer", None) or getattr(inner, "proxy", None)
        tokenizer: str | Proxy | PromptTokens = self.tokenizer or own or self.proxy
        return tokenizer
