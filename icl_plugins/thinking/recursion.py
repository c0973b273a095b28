"""The recursion of deep thinking: keys and values move, with momentum, towards what a new reading gives."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from icl_plugins.errors import NonFiniteError

KeysAndValues = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Memory:
    """History and velocity of each layer's keys and values, in float32 at least; `advance` changes them.

    history, velocity: for each layer (keys, values), shapes (1, heads, L, d).
    """

    history: tuple[tuple[Tensor, Tensor], ...]
    velocity: tuple[tuple[Tensor, Tensor], ...]

    @classmethod
    def of(cls, first: KeysAndValues) -> "Memory":
        """Begin with the first reading, at rest (arXiv 2305.13016, section 3.2)."""
        history = tuple((_precise(keys).clone(), _precise(values).clone()) for keys, values in first)
        return cls(history, tuple((torch.zeros_like(k), torch.zeros_like(v)) for k, v in history))

    def advance(self, present: KeysAndValues, step_size: float, momentum: float) -> np.ndarray:
        """Take one step; return (layers, 2) the norms of present - history of keys and values, before it.

            G = present - history;  M = G + momentum * M;  history = history + step_size * M

        G moves towards the new reading: it is what the paper calls the pseudo gradient, and it is added.
        Raises NonFiniteError naming the first layer that is no longer finite.
        """
        norms = np.empty((len(self.history), 2))
        for at, (before, moving, now) in enumerate(zip(self.history, self.velocity, present, strict=True)):
            for part in range(2):
                gradient = now[part].to(before[part].dtype) - before[part]
                norms[at, part] = float(gradient.norm())
                moving[part].mul_(momentum).add_(gradient)
                before[part].add_(moving[part], alpha=step_size)
            if not np.isfinite(norms[at]).all() or not all(torch.isfinite(one).all() for one in before):
                raise NonFiniteError(
                    f"keys or values of layer {at} are no longer finite",
                    expected="a step that stays within the numbers of the model",
                    fix='lower step_size or steps, or load the model with dtype="float32"',
                )
        return norms


def _precise(tensor: Tensor) -> Tensor:
    """Return it in float32, float64 if it is that: a hundredth of a step is lost in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
