"""The slow definitions that the fast paths are held against: exact integers, one candidate at a time."""

from itertools import combinations


def exact_centred(features, target=None):
    """Centred features times N (or 1) as Python integers: sums and squares of them are exact."""
    rows = [[int(value) for value in row] for row in features]
    if target is not None:
        return [[value - int(t) for value, t in zip(row, target, strict=True)] for row in rows]
    sums = [sum(column) for column in zip(*rows, strict=True)]
    return [[value * len(rows) - s for value, s in zip(row, sums, strict=True)] for row in rows]


def squared(rows):
    """Squared norm of a sum of rows."""
    return sum(sum(column) ** 2 for column in zip(*rows, strict=True)) if rows else 0


def lawful(chosen, limits):
    """Whether a finished set obeys shots, budget, quotas and exclude."""
    counts = [0] * len(limits.quota_min)
    for row in chosen:
        counts[limits.groups[row]] += 1
    cost = 0 if limits.costs is None else sum(limits.costs[row] for row in chosen)
    full = limits.shots is None or (
        len(chosen) <= limits.shots if limits.max_cost is not None else len(chosen) == limits.shots
    )
    return (
        full
        and (limits.max_cost is None or cost <= limits.max_cost)
        and all(
            low <= count <= high
            for low, count, high in zip(limits.quota_min, counts, limits.quota_max, strict=True)
        )
        and not set(chosen) & set(limits.exclude)
    )


def can_be_completed(chosen, limits):
    """Whether some lawful set holds the chosen rows: by trying every set."""
    others = [row for row in range(len(limits.groups)) if row not in chosen]
    return any(
        lawful([*chosen, *more], limits)
        for size in range(len(others) + 1)
        for more in combinations(others, size)
    )


def naive_greedy(features, limits, target=None, chosen=None):
    """Add, again and again, the row that brings the mean nearest to the target; ties: the lowest row."""
    centred = exact_centred(features, target)
    chosen = list(limits.include if chosen is None else chosen)
    while True:
        best = None
        for row in range(len(centred)):
            if row not in chosen and can_be_completed([*chosen, row], limits):
                distance = squared([centred[i] for i in [*chosen, row]])
                if best is None or distance < best[0]:
                    best = (distance, row)
        if best is None:
            return chosen
        chosen.append(best[1])


def naive_match(features, limits, swaps, target=None):
    """Greedy, then swaps; and both again while the swaps have left room for more rows."""
    chosen, used = naive_greedy(features, limits, target), 0
    while True:
        chosen, accepted, converged = naive_swaps(features, chosen, limits, swaps - used, target)
        fuller, used = naive_greedy(features, limits, target, chosen), used + accepted
        if fuller == chosen:
            return chosen, used, converged
        chosen = fuller


def naive_swaps(features, chosen, limits, swaps, target=None):
    """Make the best lawful swap until J^2 falls by no more than 1e-6; ties: the lowest row, then position."""
    centred, chosen = exact_centred(features, target), list(chosen)
    for accepted in range(swaps + 1):
        now, best = squared([centred[i] for i in chosen]), None
        for row in range(len(centred)):
            for position in range(len(limits.include), len(chosen)):
                swapped = [*chosen[:position], row, *chosen[position + 1 :]]
                if row not in chosen and lawful(swapped, limits):
                    distance = squared([centred[i] for i in swapped])
                    if best is None or distance < best[0]:
                        best = (distance, swapped)
        if best is None or best[0] * 10**6 >= now * (10**6 - 1):
            return chosen, accepted, True
        if accepted == swaps:
            return chosen, accepted, False
        chosen = best[1]
    raise AssertionError
