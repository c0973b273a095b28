"""Per-example gradients of the answer's loss with respect to the prefix embeddings.

Expanded leaf: every example of a batch gets its own copy of the prefix, so one backward pass through the
frozen model gives all gradients, exact. arXiv 2506.04579, step B.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl_plugins.errors import NonFiniteError, SettingError
from icl_plugins.proxy.batching import run_batches
from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.forward import answer_losses, collate, frozen
from icl_plugins.proxy.lengths import OnTooLong
from icl_plugins.proxy.model import Proxy

if TYPE_CHECKING:
    from icl_plugins.examples import Pool


def per_example_gradients(
    proxy: Proxy, pool: "Pool", prefix: Tensor, *, on_too_long: OnTooLong = "error"
) -> Tensor:
    """Return (N, k, h), float32 (float64 for a float64 proxy) on the CPU.

    Row i is d loss_i / d prefix at ``prefix`` (k, h), where loss_i is in nats, summed over the answer's
    tokens of example i. Not divided by anything: the mean over rows is the gradient of the mean loss. A
    skipped example has a row of NaN. Raises SettingError for a prefix of another width, and what
    Proxy.encode raises.
    """
    start = checked_prefix(proxy, prefix)
    examples = proxy.encode(pool, on_too_long=on_too_long, prefix_length=len(start))
    gradients = torch.full((len(examples), *start.shape), torch.nan, dtype=start.dtype)
    for rows, values in gradient_batches(proxy, examples, start):
        gradients[rows] = values
    return gradients


def gradient_batches(
    proxy: Proxy, examples: Sequence[Encoded | None], prefix: Tensor, rows: Sequence[int] | None = None
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield ``(rows, gradients (len(rows), k, h))`` batch by batch, longest examples first.

    examples: from Proxy.encode; those that are None (skipped) are passed over. rows: only these (default
    all). Non-finite gradients are yielded as they are, for the store to mark. The model is held frozen
    between batches and is as it was once the generator is exhausted or closed.
    """
    start = checked_prefix(proxy, prefix).to(proxy.device)
    wanted = range(len(examples)) if rows is None else rows
    kept = [(int(row), example) for row in wanted if (example := examples[int(row)]) is not None]
    lengths = [len(example.ids) + len(start) for _, example in kept]
    with frozen(proxy.model):
        for batch, (_, gradients) in run_batches(
            lengths,
            proxy.budget,
            lambda batch: example_gradients(proxy, [kept[index][1] for index in batch], start),
        ):
            yield [kept[index][0] for index in batch], gradients.cpu()


def example_gradients(proxy: Proxy, examples: Sequence[Encoded], prefix: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses (B,) in nats and their gradients (B, k, h) of one batch; the model must be frozen.

    prefix: (k, h) on the proxy's device.
    """
    with torch.inference_mode(False), torch.enable_grad():
        batch = collate(examples, proxy.device)
        leaf = prefix.detach().expand(len(examples), -1, -1).requires_grad_()
        losses = answer_losses(proxy.model, batch, leaf, slice_head=proxy.slice_head, tail=proxy.tail)
        (gradients,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradients


def checked_prefix(proxy: Proxy, prefix: Tensor) -> Tensor:
    """Return the prefix in the gradients' dtype; raises SettingError or NonFiniteError if unusable."""
    if prefix.ndim != 2 or len(prefix) == 0 or prefix.shape[1] != proxy.hidden_size:
        raise SettingError(
            f"got a prefix of shape {tuple(prefix.shape)}",
            expected=f"(k, {proxy.hidden_size}), the width of the proxy {proxy.name!r}",
            fix="use a curriculum that was tuned with this proxy",
        )
    if not torch.isfinite(prefix).all():
        raise NonFiniteError(
            "got a prefix with NaN or infinity", expected="finite numbers", fix="tune the prefix again"
        )
    return prefix.detach().to(torch.promote_types(proxy.dtype, torch.float32))
