"""Study: candidates as slots in front of held-out queries, what the methods of influence work on."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from icl_plugins.algorithms.slots import (
    SlotTable,
    johnson_lindenstrauss,
    mean_table,
    slot_table,
)
from icl_plugins.algorithms.subsets import balanced_subsets
from icl_plugins.algorithms.typicality import label_by_label
from icl_plugins.errors import NonFiniteError, TooLongError
from icl_plugins.examples import Pool
from icl_plugins.progress import tell_progress
from icl_plugins.selectors._common import Request, by_score
from icl_plugins.selectors._context import context_losses

if TYPE_CHECKING:
    from icl_plugins.proxy.encoding import Encoded
    from icl_plugins.proxy.model import Proxy
    from icl_plugins.proxy.slots import Slots, SlotTexts

Anchors = int | Literal["mean"]
_DRAWS = 20  # how often sets that do not fit the proxy are drawn anew


@dataclass(frozen=True, eq=False)
class Study:
    """What may stand in k slots, and the queries that stand behind them.

    rows: (n,) the pool's rows of the candidates, in an order that depends on their content only; all other
    numbers of candidates are places in it. labels: (n,) the number of each one's label; slots: (k,) the label
    that each slot is for; all 0 where labels are free. texts: the candidates as slots. encoded: the queries.
    lengths: (n,) tokens of the candidates; room: how many of them the proxy reads in front of a query.
    arrangement: (k,) the set whose labels the slots have, where these were chosen by its real loss.
    """

    request: Request
    proxy: "Proxy"
    queries: Pool
    encoded: "list[Encoded]"
    rows: np.ndarray
    labels: np.ndarray
    slots: np.ndarray
    texts: "SlotTexts"
    lengths: np.ndarray
    room: int
    cut: int
    reduced: int | None
    seed: int
    arrangement: np.ndarray | None = None

    @cached_property
    def place(self) -> dict[int, int]:
        """The place of each of the pool's rows that is a candidate."""
        return {row: place for place, row in enumerate(self.rows.tolist())}

    @property
    def allowed(self) -> np.ndarray:
        """(k, n) bool: which candidates may stand in which slot; included rows stand in the first ones."""
        allowed: np.ndarray = self.slots[:, None] == self.labels
        fixed = [self.place[row] for row in self.request.include]
        allowed[:, fixed] = False
        allowed[: len(fixed)] = False
        allowed[np.arange(len(fixed)), fixed] = True
        return allowed

    def draw(self, count: int, seed: int = 0) -> np.ndarray:
        """Return random subsets (count, k) of candidates with the labels of the slots, that fit the proxy.

        Raises TooLongError if none do.
        """
        drawn = balanced_subsets(self.labels, self.slots, count, seed=(self.seed, seed))
        for again in range(_DRAWS):
            long = self.lengths[drawn].sum(axis=1) > self.room
            if not long.any():
                break
            others = balanced_subsets(self.labels, self.slots, int(long.sum()), seed=(self.seed, seed, again))
            drawn[long] = others
        drawn = np.compress(self.lengths[drawn].sum(axis=1) <= self.room, drawn, axis=0)
        if count and not len(drawn):
            raise TooLongError(
                f"random sets of {len(self.slots)} examples, none within {self.room} tokens",
                expected=f"some that the proxy {self.proxy.name!r} reads in front of a query",
                fix="lower shots or max_tokens, or choose a proxy with a longer context",
            )
        return drawn

    def arranged(self, count: int) -> "Study":
        """Return the study with slots for the labels of the best of `count` random sets, by real losses.

        Every other set has the labels' shares; all are in random order, behind the included rows.
        """
        generator = np.random.default_rng((self.seed, 4))
        sets = []
        for number in range(count):
            scores = generator.random(len(self.rows))
            shares = label_by_label(scores, self.labels.tolist())
            chosen = self.take(scores.argsort() if number % 2 else shares)
            fixed = len(self.request.include)
            sets.append(np.array([*chosen[:fixed], *generator.permutation(chosen[fixed:])], dtype=np.int64))
        sets = [one for one in sets if len(one) == len(self.slots)]  # a token budget may hold more or fewer
        if not sets:
            return self
        best = sets[int(self.losses(sets, "arrangements").argmin())]
        return replace(self, slots=self.labels[best], arrangement=best)

    def ranked(self, scores: np.ndarray) -> np.ndarray:
        """Rank places by scores (n,), highest first: for the slots in order, then the others by shares."""
        queues = {
            label: iter(by_score(scores, np.flatnonzero(self.labels == label).tolist()).tolist())
            for label in np.unique(self.labels).tolist()
        }
        open_ = self.slots[len(self.request.include) :].tolist()
        first = [place for label in open_ if (place := next(queues[label], None)) is not None]
        others = label_by_label(scores, self.labels.tolist())
        return np.array([*first, *others[~np.isin(others, first)]], dtype=np.int64)

    def take(self, places: Sequence[int] | np.ndarray) -> list[int]:
        """Walk a ranking of places, best first, and return those that fit every constraint."""
        return [self.place[row] for row in self.request.take(self.rows[np.asarray(places, dtype=np.int64)])]

    def losses(
        self, subsets: Iterable[Sequence[int] | np.ndarray], stage: str = "real subsets"
    ) -> np.ndarray:
        """Return the real mean loss of the queries behind each subset, in prompts as they will be."""
        subsets = list(subsets)
        pool, queries = self.request.pool, self.queries
        found = np.empty(len(subsets))
        for at, subset in enumerate(subsets):
            texts = [pool.texts[row] for row in self.rows[np.asarray(subset, dtype=np.int64)]]
            prompt = (self.proxy, texts, pool.template.separator)
            found[at] = context_losses(*prompt, queries.questions, queries.answers).mean()
            tell_progress(stage, at + 1, len(subsets))
        if not np.isfinite(found).all():
            raise NonFiniteError(
                f"{(~np.isfinite(found)).sum()} of {len(found)} prompts with a loss that is NaN or infinite",
                expected="finite losses",
                fix='look at the examples, or load the proxy with dtype="float32"',
            )
        return found

    def table(self, anchors: "Sequence[Slots]", last: int | None = None) -> tuple[SlotTable, float]:
        """Return the mean table of the anchors (of their `last` slots or all) and their mean loss."""
        from icl_plugins.proxy.slot_gradients import slot_gradients

        embeddings = self._reduced(self.texts.embeddings.float().cpu().numpy())
        tables, losses = [], []
        for done, anchor in enumerate(anchors):
            found, gradient = slot_gradients(self.proxy, anchor, self.encoded)
            losses.append(float(found.mean()))
            start = 0 if last is None else len(gradient) - last
            parts = (gradient.numpy(), anchor.embeddings.float().cpu().numpy())
            gradients, standing = (self._reduced(part[start:]) for part in parts)
            tables.append(slot_table(gradients, self.texts.ids, embeddings, standing, losses[-1]))
            tell_progress("anchors", done + 1, len(anchors))
        return mean_table(tables), float(np.mean(losses))

    def anchors(self, wanted: Anchors) -> "list[Slots]":
        """Return the anchors asked for: so many real subsets, or the candidates' mean in every slot."""
        if wanted == "mean":
            return [self.texts.mean(len(self.slots), np.arange(len(self.rows)))]
        return [self.texts.at(subset) for subset in self.draw(wanted)]

    def query_tables(
        self, anchor: "Slots", queries: "Sequence[Encoded]"
    ) -> Iterator[tuple[int, SlotTable, float]]:
        """Yield (query, its table, its loss at the anchor): of each query by itself, never held together."""
        from icl_plugins.proxy.slot_gradients import query_gradients

        embeddings = self._reduced(self.texts.embeddings.float().cpu().numpy())
        standing = self._reduced(anchor.embeddings.float().cpu().numpy())
        for rows, losses, gradients in query_gradients(self.proxy, anchor, queries):
            for row, loss, gradient in zip(rows, losses.tolist(), gradients.numpy(), strict=True):
                yield (
                    row,
                    slot_table(self._reduced(gradient), self.texts.ids, embeddings, standing, loss),
                    loss,
                )

    def _reduced(self, part: np.ndarray) -> np.ndarray:
        return part if self._projection is None else part @ self._projection

    @cached_property
    def _projection(self) -> np.ndarray | None:
        width = self.texts.embeddings.shape[1]
        if self.reduced is None or self.reduced >= width:
            return None
        return johnson_lindenstrauss(width, self.reduced, seed=self.seed).astype(np.float32)
