"""Queries: examples that are held out of a pool to take losses of, or others of one's own."""

import hashlib
from dataclasses import replace

import numpy as np

from icl_plugins.duplicates import plain_text
from icl_plugins.errors import BudgetError, DataError
from icl_plugins.examples import Pool
from icl_plugins.selectors._common import Request
from icl_plugins.selectors.typicality import cheapest_rows


def in_random_order(pool: Pool, seed: int) -> np.ndarray:
    """Return the rows in a random order that does not depend on where they stand."""

    def key(row: int) -> tuple[bytes, int]:
        return hashlib.sha256(f"{seed} {pool.row_fingerprints[row]}".encode()).digest(), row

    return np.array(sorted(range(len(pool)), key=key), dtype=np.int64)


def hold_out(request: Request, queries: "int | Pool", order: np.ndarray) -> tuple[Pool, list[int]]:
    """Return the queries, and the rows that are no candidates for it: all that say what a query says.

    What included rows say, what quotas need, and what fits a token budget at the cheapest, is not held out.
    """
    pool = request.pool
    if isinstance(queries, Pool):
        _check_apart(request, queries)
        return queries, []
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


def with_counts(request: Request) -> Request:
    """Return the request with the counts of labels that its shares come to, which queries do not change."""
    if request.quotas != "proportional":
        return request
    limits, labels = request.constraints, request.pool.labels
    numbers = dict(zip(labels, limits.groups.tolist(), strict=True))
    return replace(
        request, quotas={label: int(limits.quota_min[number]) for label, number in numbers.items()}
    )


def _check_apart(request: Request, queries: Pool) -> None:
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
    known = {plain_text(text) for row, text in enumerate(pool.questions) if row not in left_out}
    shared = [row for row, text in enumerate(queries.questions) if plain_text(text) in known]
    if shared:
        raise DataError(
            f"{len(shared)} of {len(queries)} queries are in the pool too, rows {shared[:5]}",
            expected="queries that cannot be chosen as demonstrations",
            fix="leave them out of one of the two, or pass a number of queries to hold out",
        )
