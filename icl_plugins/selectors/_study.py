"""Study: candidates as slots in front of held-out queries, what the methods of influence work on."""

import hashlib
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
from icl_plugins.errors import BudgetError, DataError, NonFiniteError, TooLongError
from icl_plugins.examples import Pool
from icl_plugins.progress import tell_progress
from icl_plugins.selectors._common import Request, by_score
from icl_plugins.selectors._context import context_losses
from icl_plugins.selectors.typicality import are_classes, cheapest_rows

if TYPE_CHECKING:
    from icl_plugins.proxy.encoding import Encoded
    from icl_plugins.proxy.lengths import OnTooLong
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

    @property
    def allowed(self) -> np.ndarray:
        """(k, n) bool: which candidates may stand in which slot; included rows stand in the first ones."""
        allowed: np.ndarray = self.slots[:, None] == self.labels
        places = {row: place for place, row in enumerate(self.rows.tolist())}
        fixed = [places[row] for row in self.request.include]
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
        where = {row: place for place, row in enumerate(self.rows.tolist())}
        return [where[row] for row in self.request.take(self.rows[np.asarray(places, dtype=np.int64)])]

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


def prepare(
    request: Request,
    proxy: "Proxy",
    *,
    queries: "int | Pool",
    slots: int | None,
    at_once: int | None,
    slot_labels: bool,
    slot_width: int | None,
    on_too_long: "OnTooLong",
    reduced: int | None,
    seed: int,
) -> Study:
    """Hold queries out, and put the other rows of the request's pool into slots.

    slots: how many, None for as many as a lawful selection has; at_once: how many stand in front of a query,
    None for all. Raises BudgetError where too few rows are left, DataError for queries in the pool,
    TooLongError.
    """
    from icl_plugins.proxy.slot_gradients import check_fit
    from icl_plugins.proxy.slots import SlotTexts

    pool = request.pool
    order = np.array(sorted(range(len(pool)), key=lambda row: (_draw(seed, pool, row), row)), dtype=np.int64)
    asked, held_out = _queries(request, queries, order)
    request = _with_counts(request).without(held_out, "held out as queries, or said by one of them")
    encoded = [one for one in proxy.encode(asked, on_too_long="error") if one is not None]
    rows = order[~np.isin(order, request.constraints.exclude)]
    tokens = slot_tokens(proxy, pool, rows)
    lawful = _lawful(request, rows)
    count = at_once or slots or len(lawful)
    room = proxy.max_length - max(len(query.ids) for query in encoded)
    if sum(len(tokens[row]) for row in lawful) > room:
        raise TooLongError(
            f"{len(lawful)} examples of {sum(len(tokens[row]) for row in lawful)} tokens in front of a query",
            expected=f"at most {room} tokens, what the context of the proxy {proxy.name!r} leaves for them",
            fix="lower shots, set max_tokens, or choose a proxy with a longer context",
        )
    width, longer = slot_fit(tokens, room // count, slot_width, on_too_long)
    check_fit(proxy, (count, width), encoded)
    if on_too_long == "skip":
        request = request.without(longer, "longer than a slot")
        rows = rows[~np.isin(rows, longer)]
    labels, wanted = _labels(request, rows, slots, slot_labels)
    return Study(
        request=request,
        proxy=proxy,
        queries=asked,
        encoded=encoded,
        rows=rows,
        labels=labels,
        slots=wanted,
        lengths=np.array([len(tokens[row]) for row in rows.tolist()]),
        room=room,
        texts=SlotTexts.of(proxy, [tokens[row] for row in rows.tolist()], width),
        cut=len(longer) if on_too_long == "truncate" else 0,
        reduced=reduced,
        seed=seed,
    )


def _draw(seed: int, pool: Pool, row: int) -> bytes:
    """Return what puts rows into a random order that does not depend on where they stand."""
    return hashlib.sha256(f"{seed} {pool.row_fingerprints[row]}".encode()).digest()


def slot_tokens(proxy: "Proxy", pool: Pool, rows: np.ndarray) -> dict[int, list[int]]:
    """Return the tokens of some rows as they stand in a prompt."""
    texts = [pool.texts[row] + pool.template.separator for row in rows]
    tokens = proxy.encoder.tokenize(texts, add_special_tokens=False)
    return {row: ids for row, (ids, _) in zip(rows.tolist(), tokens, strict=True)}


def slot_fit(
    tokens: dict[int, list[int]], room: int, width: int | None, on_too_long: "OnTooLong"
) -> tuple[int, list[int]]:
    """Return the width of slots and the rows that are longer; of at most `room` tokens where none is given.

    Raises BudgetError that names these if asked to.
    """
    longest = max(map(len, tokens.values()))
    width = max(1, min(longest, room)) if width is None else width
    longer = [row for row, ids in tokens.items() if len(ids) > width]
    if longer and (on_too_long == "error" or (on_too_long == "skip" and len(longer) == len(tokens))):
        raise BudgetError(
            f"{len(longer)} of {len(tokens)} examples longer than a slot, rows {longer[:5]}, up to "
            f"{longest} tokens",
            expected=f"at most {width} tokens",
            fix='set slot_width, or set on_too_long to "truncate"',
        )
    return width, longer


def _queries(request: Request, queries: "int | Pool", order: np.ndarray) -> tuple[Pool, list[int]]:
    """Return the queries, and the rows that are no candidates for it: all that say what a query says.

    What included rows say, what quotas need, and what fits a token budget at the cheapest, is not held out.
    """
    pool = request.pool
    if isinstance(queries, Pool):
        return queries, _apart(request, queries)
    limits, says = request.constraints, pool.row_fingerprints
    kept = set(request.include) | set(limits.exclude)
    free = [row for row in order.tolist() if row not in kept]
    needed = {says[row] for row in (*request.include, *cheapest_rows(limits, np.array(free, dtype=np.int64)))}
    same: dict[str, list[int]] = {}
    for row in free:
        if says[row] not in needed:
            same.setdefault(says[row], []).append(row)
    counts = np.bincount(limits.groups[[*free, *request.include]], minlength=len(limits.quota_min))
    asked: list[int] = []
    held_out: list[int] = []
    for rows in same.values():
        left = counts - np.bincount(limits.groups[rows], minlength=len(counts))
        enough = np.minimum(left, limits.quota_max).sum() >= (request.shots or 1)
        lawful = enough and (left >= limits.quota_min).all()
        if lawful and len(asked) < queries and len(held_out) + len(rows) <= max(1, len(pool) // 4):
            counts = left
            asked.append(rows[0])
            held_out += rows
    if not asked:
        raise BudgetError(
            f"{request.shots} shots and their quotas leave none of {len(pool)} examples as queries",
            expected="at least one example more than they need",
            fix="lower shots, pass queries of your own, or choose a method without held-out examples",
        )
    return pool.subset(asked), sorted(held_out)


def _with_counts(request: Request) -> Request:
    """Return the request with the counts of labels that its shares come to, which queries do not change."""
    if request.quotas != "proportional":
        return request
    limits, labels = request.constraints, request.pool.labels
    numbers = dict(zip(labels, limits.groups.tolist(), strict=True))
    return replace(
        request, quotas={label: int(limits.quota_min[number]) for label, number in numbers.items()}
    )


def _asked(question: str) -> str:
    """Return a question as it is compared: whatever its case and space."""
    return " ".join(question.split()).casefold()


def _apart(request: Request, queries: Pool) -> list[int]:
    """Refuse queries with another template, and those whose questions the pool has too."""
    pool = request.pool
    templates = [
        (one.template.question, one.template.answer, one.template.separator) for one in (pool, queries)
    ]
    if templates[0] != templates[1]:
        raise DataError(
            f"queries with the template {templates[1]!r:.100}",
            expected=f"that of the pool, {templates[0]!r:.100}",
            fix="make both pools with one template",
        )
    left_out = set(request.constraints.exclude)
    known = {_asked(text) for row, text in enumerate(pool.questions) if row not in left_out}
    shared = [row for row, text in enumerate(queries.questions) if _asked(text) in known]
    if shared:
        raise DataError(
            f"{len(shared)} of {len(queries)} queries are in the pool too, rows {shared[:5]}",
            expected="queries that cannot be chosen as demonstrations",
            fix="leave them out of one of the two, or pass a number of queries to hold out",
        )
    return []


def _lawful(request: Request, rows: np.ndarray) -> list[int]:
    """Return a lawful selection in which labels come in turns, and among equals the first rows."""
    labels = [request.pool.labels[row] for row in rows]
    return list(request.take(rows[label_by_label(-np.arange(len(rows), dtype=float), labels)]))


def _labels(
    request: Request, rows: np.ndarray, slots: int | None, slot_labels: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of candidates (n,) and slots (k,) as numbers; 0 where they are free."""
    subset = replace(request, shots=slots, max_tokens=None, quotas=None, include=())
    lawful = _lawful(request if slots is None else subset, rows)
    bound = request.quotas is not None or (slot_labels and are_classes(request.pool))
    # subsets with fewer slots than there are labels could not hold some examples at all
    if not bound or (slots is not None and len(lawful) < len(request.pool.label_counts)):
        return np.zeros(len(rows), dtype=np.int64), np.zeros(len(lawful), dtype=np.int64)
    numbers: dict[str, int] = {}
    labels = np.array([numbers.setdefault(request.pool.labels[row], len(numbers)) for row in rows])
    return labels, np.array([numbers[request.pool.labels[row]] for row in lawful])
