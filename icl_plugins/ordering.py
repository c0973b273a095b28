"""Ordered: the demonstrations that a selector chooses, in an order of their own."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.algorithms.features import Features
from icl_plugins.algorithms.ordering import ascending, distances_to_mean, interleaved, permutations
from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.errors import SettingError
from icl_plugins.examples import Pool
from icl_plugins.progress import tell_progress
from icl_plugins.selection import Selection, Selector
from icl_plugins.selectors._embeddings import TooLong, embed
from icl_plugins.selectors._settings import about, check_choice, check_models, check_seed, load_proxy
from icl_plugins.selectors._tokens import prompt_tokens
from icl_plugins.selectors.best_of_n import held_out_rows, mean_loss
from icl_plugins.selectors.gradient_matching import GradientMatching

if TYPE_CHECKING:
    from icl_plugins.proxy.model import OnTooLong, Proxy

Order = Literal["greedy", "reversed", "easy_to_hard", "interleaved", "nearest_last", "shuffle", "search"]
Found = tuple[np.ndarray, dict[str, object]]  # positions (n,), and what the details tell of them


@dataclass(frozen=True)
class Ordered:
    """Put what `selector` chooses into an order; itself a selector, so an order is measured like a method.

    "greedy": as chosen, the selection as it is. "reversed": what was chosen first comes last.
    "easy_to_hard": by the proxy's loss of each answer, lowest first; for GradientMatching the mean over the
    checkpoints of its curriculum, for others without a prefix. "interleaved": labels spread as evenly as can
    be, each label's demonstrations as chosen. "nearest_last": by the distance from the pool's mean, farthest
    first; of features for GradientMatching, scaled as it scales them, else of embeddings, the selector's
    where it has some. "shuffle": a permutation by `seed`. "search": the order as chosen and `tries` - 1
    permutations by `seed`, of which the proxy predicts up to `held_out` random pool examples best (loss of
    the answer behind the demonstrations, mean, in nats); the first permutation is that of "shuffle". Ties go
    to the lower row.

    Not nested: `head(k)` is the first k in the new order, not the order of the first k chosen, which is
    `reorder(selection.head(k))`. What else becomes of a selection: see `Selection.reordered`; config tells
    the order, details the `demonstration_losses`, `demonstration_distances` or `order_losses` that made it.
    `proxy` stands in for selectors that have none. Raises SettingError for bad settings.
    """

    selector: Selector
    order: Order = "greedy"
    seed: int = 0
    tries: int = 16
    held_out: int = 128
    proxy: "str | Proxy" = "micro"

    def __post_init__(self) -> None:
        """Check the settings."""
        if isinstance(self.selector, type) or not isinstance(self.selector, Selector):
            raise SettingError(
                f"selector={self.selector!r:.80}", expected="a selector, e.g. Random()", fix="pass one"
            )
        if isinstance(self.selector, Ordered):
            raise SettingError(
                f"a selector in the order {self.selector.order!r}",
                expected="one without an order of its own",
                fix="pass that selector's own selector",
            )
        check_choice("order", self.order, get_args(Order))
        check_seed(self.seed)
        whole_number("tries", self.tries, 1)
        whole_number("held_out", self.held_out, 1)
        check_models(self)

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
        """Select demonstrations in this order; raises what the selector and `reorder` raise.

        Tokens may merge or split where texts meet, so a token budget is held in the new order too.
        """
        rows = {"include": tuple(include), "exclude": tuple(exclude)}
        budget = max_tokens
        with self._keeping_gradients() as kept:
            while True:
                chosen = kept.selector.select(pool, shots, max_tokens=budget, quotas=quotas, **rows)
                selection = kept.reorder(chosen)
                if max_tokens is None or budget is None or self.order == "greedy":
                    return selection
                counter = prompt_tokens(getattr(self.selector, "tokenizer", None) or self._proxy)
                tokens = counter.total(pool, selection.indices)
                if tokens <= max_tokens:
                    return replace(selection, details={**selection.details, "tokens": tokens})
                budget -= tokens - max_tokens

    def reorder(self, selection: Selection) -> Selection:
        """Return a selection of this selector in this order.

        GradientMatching without a `store` tunes its prefix, and for "nearest_last" takes the gradients, once
        more. Raises SettingError for a selection that is in another order already, BudgetError if "search"
        has no example left to try orders on, and ProxyError, TooLongError, NonFiniteError.
        """
        if "order" in selection.config:
            raise SettingError(
                f"a selection in the order {selection.config['order']!r}",
                expected="one in the order as chosen",
                fix="reorder the selection that the selector has returned",
            )
        if self.order == "greedy":
            return selection
        found: Found = getattr(self, f"_{self.order}")(selection)
        positions, details = found
        decided = {"shuffle": ("seed",), "search": ("seed", "tries", "held_out")}.get(self.order, ())
        order = {"name": self.order, **{name: getattr(self, name) for name in decided}}
        return selection.reordered(positions.tolist(), order, details)

    @property
    def _proxy(self) -> "str | Proxy":
        proxy: str | Proxy = getattr(self.selector, "proxy", self.proxy)
        return proxy

    @property
    def _on_too_long(self) -> "OnTooLong":
        policy: OnTooLong = getattr(self.selector, "on_too_long", "error")
        return policy

    def _reversed(self, selection: Selection) -> Found:
        return np.arange(len(selection))[::-1], {}

    def _easy_to_hard(self, selection: Selection) -> Found:
        proxy = load_proxy(self._proxy)
        chosen = selection.pool.subset(selection.indices)
        prefixes: Iterable[Any] = [None]
        if isinstance(self.selector, GradientMatching):
            prefixes = self.selector.curriculum(selection.pool).checkpoints
        at_each = [
            proxy.answer_losses(chosen, prefix, on_too_long=self._on_too_long).double().numpy()
            for prefix in prefixes
        ]
        losses = np.stack(at_each).mean(axis=0)
        positions = ascending(losses, selection.indices)
        return positions, {"demonstration_losses": losses[positions].tolist(), **about(proxy)}

    def _nearest_last(self, selection: Selection) -> Found:
        if isinstance(self.selector, GradientMatching):
            features, details = self.selector.features(selection.pool), about(load_proxy(self._proxy))
            usable = np.arange(len(selection.pool)) if features.rows is None else features.rows
            rows = np.searchsorted(usable, selection.indices).tolist()
        else:
            embeddings = getattr(self.selector, "embeddings", "proxy")
            policy: TooLong = "error" if self._on_too_long == "error" else "truncate"
            vectors, details = embed(selection.pool.texts, embeddings, self._proxy, policy)
            features, rows = Features.of(vectors), list(selection.indices)
        distances = distances_to_mean(features, rows)
        positions = ascending(-distances, selection.indices)
        return positions, {"demonstration_distances": distances[positions].tolist(), **details}

    def _interleaved(self, selection: Selection) -> Found:
        return interleaved(selection.labels), {}

    def _shuffle(self, selection: Selection) -> Found:
        return permutations(len(selection), 2, self.seed)[1], {}

    def _search(self, selection: Selection) -> Found:
        pool = selection.pool
        orders = permutations(len(selection), self.tries, self.seed)
        drawn = np.random.default_rng([self.seed, 1]).permutation(len(pool)).tolist()
        rows = held_out_rows(pool, selection.indices, drawn, self.held_out)
        proxy = load_proxy(self._proxy)
        losses = []
        for order in orders:
            losses.append(mean_loss(proxy, pool, np.asarray(selection.indices)[order].tolist(), rows))
            tell_progress("orders", len(losses), len(orders))
        details = {"order_losses": losses, "order_held_out": len(rows), **about(proxy)}
        return orders[int(np.argmin(losses))], details

    @contextmanager
    def _keeping_gradients(self) -> Iterator["Ordered"]:
        """Lend GradientMatching without a store a temporary one, so that nothing is computed twice."""
        selector = self.selector
        needed = self.order in ("easy_to_hard", "nearest_last")
        if not needed or not isinstance(selector, GradientMatching) or selector.store is not None:
            yield self
            return
        with TemporaryDirectory(prefix="icl-plugins-", ignore_cleanup_errors=True) as folder:
            yield replace(self, selector=replace(selector, store=folder))
