"""The published selection loop, restated from its definition: the mean of every candidate set is formed."""

import numpy as np
import torch

CHUNK = 32  # candidates whose means are formed at once


def published_greedy(features: torch.Tensor, shots: int) -> list[int]:
    """Add the row for which the mean of the chosen rows is nearest to the mean of all; chunk by chunk."""
    mean, total, chosen = features.mean(dim=0), torch.zeros(features.shape[1]), []
    for size in range(1, shots + 1):
        outside, best = np.setdiff1d(np.arange(len(features)), chosen), (float("inf"), -1)
        for rows in torch.from_numpy(outside).split(CHUNK):
            distance, at = ((total + features[rows]) / size - mean).norm(dim=1).min(dim=0)
            if distance.item() < best[0]:
                best = (distance.item(), int(rows[at]))
        chosen.append(best[1])
        total = total + features[best[1]]
    return chosen


def published_swap(features: torch.Tensor, chosen: list[int]) -> tuple[int, int] | None:
    """Return (position, row) of the best swap over all positions and outsiders, None if none helps."""
    mean, inside = features.mean(dim=0), features[chosen]
    total, shots = inside.sum(dim=0), len(chosen)
    start = (total / shots - mean).norm().item()
    best, swap = start, None
    for rows in torch.from_numpy(np.setdiff1d(np.arange(len(features)), chosen)).split(CHUNK):
        means = (total - inside[:, None] + features[rows]) / shots  # (n, CHUNK, d)
        distance, at = (means - mean).norm(dim=2).flatten().min(dim=0)
        if distance.item() < best:
            best, swap = distance.item(), (int(at) // len(rows), int(rows[at % len(rows)]))
    return swap if best**2 < (1 - 1e-6) * start**2 else None
