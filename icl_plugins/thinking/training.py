"""Adam on the keys and values of a prompt, the losses being those of its demonstrations, each left out."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl_plugins.errors import NonFiniteError
from icl_plugins.progress import tell_progress
from icl_plugins.proxy.prefix_state import PrefixState, read
from icl_plugins.thinking.left_out import LeftOut, left_out_losses, rows_of
from icl_plugins.thinking.reading import Thought, in_precision

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


def train(
    proxy: "Proxy",
    ids: tuple[int, ...],
    queries: Sequence[LeftOut],
    steps: int,
    learning_rate: float,
    dropout: float,
    seed: int,
) -> Iterator[Thought]:
    """Yield the state before any and after each of steps - 1 steps; its tensors change with the next.

    The loss is the mean over the demonstrations of the nats of their answers. Raises NonFiniteError.
    """
    with torch.inference_mode(False):
        first = read(proxy, ids, PrefixState()).layers
        layers = tuple((_leaf(keys), _leaf(values)) for keys, values in first)
    leaves = [part for layer in layers for part in layer]
    optimiser = torch.optim.Adam(leaves, lr=learning_rate)
    generator = torch.Generator().manual_seed(seed)
    loss = None
    for step in range(1, steps + 1):
        if step > 1:
            hidden = torch.rand(len(ids), generator=generator) < dropout
            loss = _step(proxy, layers, ids, queries, hidden, optimiser)
            tell_progress("tuning", step, steps)
        now = tuple((keys.detach(), values.detach()) for keys, values in layers)
        yield Thought(step, in_precision(proxy, ids, now), now, loss=loss)


def _step(
    proxy: "Proxy",
    layers: tuple[tuple[Tensor, Tensor], ...],
    ids: tuple[int, ...],
    queries: Sequence[LeftOut],
    hidden: Tensor,
    optimiser: torch.optim.Optimizer,
) -> float:
    """Take one step; return the loss before it."""
    optimiser.zero_grad()
    whole = 0.0
    with torch.inference_mode(False), torch.enable_grad():
        for row in rows_of(queries):
            loss = left_out_losses(proxy, layers, ids, row, hidden).sum() / len(queries)
            loss.backward()  # type: ignore[no-untyped-call]
            whole += float(loss.detach())
    if not torch.isfinite(torch.tensor(whole)):
        raise NonFiniteError(
            "a loss that is no longer finite",
            expected="keys and values that stay within the numbers of the model",
            fix='lower learning_rate, or load the model with dtype="float32"',
        )
    optimiser.step()
    return whole


def _leaf(tensor: Tensor) -> Tensor:
    precise = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return precise.detach().clone().requires_grad_(True)
