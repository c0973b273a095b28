"""Rows of a run: each a pure function of the seed and its number, so that a run can go on anywhere."""

from collections.abc import Sequence as Items

import numpy as np
import torch
from torch import Tensor

from icl_plugins.tuning.drawing import Drawer
from icl_plugins.tuning.sequences import Sequence, Weighting


class Batches(torch.utils.data.Dataset[dict[str, Tensor]]):
    """The batches of a run from a step on; batch i of all devices belongs to step start + i // per_step."""

    def __init__(
        self, drawers: Items[Drawer], weighting: Weighting, seed: int, *, per_step: int, start: int = 0
    ) -> None:
        self.drawers, self.weighting, self.seed = tuple(drawers), weighting, seed
        self.per_step, self.start = per_step, start
        self.until = np.cumsum([drawer.stage.steps for drawer in drawers])

    def __len__(self) -> int:
        """Return the number of batches that are left."""
        return (int(self.until[-1]) - self.start) * self.per_step

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return a batch, the same whenever it is asked for."""
        number = self.start * self.per_step + index
        drawer = self.drawers[int(np.searchsorted(self.until, number // self.per_step, side="right"))]
        rng = np.random.default_rng([self.seed, number])
        return collate([drawer.row(rng) for _ in range(drawer.stage.rows)], self.weighting)


def collate(rows: Items[Items[Sequence]], weighting: Weighting) -> dict[str, Tensor]:
    """Turn rows of sequences into tensors, padded on the right with id 0.

    input_ids: (B, L). position_ids: (B, L), from 0 in each sequence, only where a row holds several: models
    of transformers 5 then keep them apart. rows, positions, targets, weights, plain: (M,), one entry for each
    prediction of an answer or of plain text: its row, the position in front of it, its token, its weight,
    whether it is plain text.
    """
    length = max(sum(len(one.ids) for one in row) for row in rows)
    ids = np.zeros((len(rows), length), dtype=np.int64)
    weights = np.zeros((len(rows), length), dtype=np.float32)
    places = np.tile(np.arange(length), (len(rows), 1))
    plain = np.zeros((len(rows), length), dtype=bool)
    for at, row in enumerate(rows):
        start = 0
        for one in row:
            stop = start + len(one.ids)
            ids[at, start:stop] = one.ids
            weights[at, start:stop] = weighting.of(one)
            places[at, start:stop] -= start
            plain[at, start + 1 : stop] = not one.answers
            start = stop
        places[at, start:] -= start  # padding is a sequence of its own
    found, columns = np.nonzero(weights.astype(bool) | plain)
    batch = {
        "input_ids": ids,
        "rows": found,
        "positions": columns - 1,
        "targets": ids[found, columns],
        "weights": weights[found, columns],
        "plain": plain[found, columns],
    }
    if any(len(row) > 1 for row in rows):
        batch["position_ids"] = places
    return {name: torch.from_numpy(values) for name, values in batch.items()}
