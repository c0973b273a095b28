"""A study of a request: queries held out, the other rows in slots, a label for each slot."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from icl_plugins.algorithms.typicality import label_by_label
from icl_plugins.errors import BudgetError, TooLongError
from icl_plugins.examples import Pool
from icl_plugins.selectors._common import Request
from icl_plugins.selectors._queries import hold_out, in_random_order, with_counts
from icl_plugins.selectors._study import Study
from icl_plugins.selectors.typicality import are_classes

if TYPE_CHECKING:
    from icl_plugins.proxy.lengths import OnTooLong
    from icl_plugins.proxy.model import Proxy


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
    order = in_random_order(pool, seed)
    asked, held_out = hold_out(request, queries, order)
    request = with_counts(request).without(held_out, "held out as queries, or said by one of them")
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
