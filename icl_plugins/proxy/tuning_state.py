"""How far a prefix tuning has come, on disk after every epoch."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from icl_plugins.proxy.curriculum import read_tensors, require_origin, write_tensors
from icl_plugins.proxy.encoding import Encoded

Facts = Mapping[str, Mapping[str, Any]]

STATE_FILE = "prefix-tuning.safetensors"


@dataclass(frozen=True)
class TuningState:
    """Checkpoints (e+1, k, h) and mean losses so far, with AdamW's moments (k, h) after the last epoch."""

    checkpoints: Tensor
    mean: Tensor
    square: Tensor
    losses: tuple[float, ...] = ()

    @classmethod
    def start(cls, prefix: Tensor) -> "TuningState":
        """Return the state before the first step."""
        return cls(prefix[None], torch.zeros_like(prefix), torch.zeros_like(prefix))

    def save(self, path: Path, facts: Facts) -> None:
        """Replace the file, in one step, with this state and what it was made from."""
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"checkpoints": self.checkpoints, "mean": self.mean, "square": self.square}
        write_tensors(path, tensors, {**facts, "losses": list(self.losses)})

    @classmethod
    def load(cls, path: Path, facts: Facts) -> "TuningState":
        """Read a saved state; raises StaleStoreError naming what it was made from that differs from facts."""
        tensors, saved = read_tensors(path, ("checkpoints", "mean", "square"))
        require_origin(path, saved, facts)
        return cls(**tensors, losses=tuple(saved["losses"]))


def examples_hash(examples: Sequence[Encoded], rows: Sequence[int]) -> str:
    """Return the sha256 of what tuning sees of the examples: tokens, answers, rows, order."""
    digest = hashlib.sha256()
    for row, example in zip(rows, examples, strict=True):
        digest.update(np.array([row, example.answer_start, example.answer_stop, len(example.ids)]).tobytes())
        digest.update(np.array(example.ids).tobytes())
    return digest.hexdigest()
