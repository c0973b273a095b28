"""Gradients with respect to a whole prompt of demonstrations that simply follow each other."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl_plugins.errors import TooLongError
from icl_plugins.proxy.batching import run_batches
from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.forward import collate, frozen
from icl_plugins.proxy.token_tree import put_behind

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


def joined_gradients(
    proxy: "Proxy", demonstrations: Sequence[int], queries: Sequence[Encoded]
) -> Iterator[tuple[int, float, Tensor, Tensor]]:
    """Yield (query, loss, gradient (L, h), embeddings (L, h)) of each query behind some tokens.

    L counts what stands behind the tokens that begin a sequence, and differs by query. Loss in nats; all on
    the CPU. Raises TooLongError where they do not fit the proxy.
    """
    lead = proxy.encoder.leading
    whole = [
        put_behind(
            query.ids[:lead],
            put_behind(
                demonstrations,
                Encoded(query.ids[lead:], query.answer_start - lead, query.answer_stop - lead),
            ),
        )
        for query in queries
    ]
    longest = max(len(one.ids) for one in whole)
    if longest > proxy.max_length:
        raise TooLongError(
            f"{len(demonstrations)} tokens of demonstrations and a query: {longest} tokens",
            expected=f"at most {proxy.max_length}, the context of the proxy {proxy.name!r}",
            fix="take fewer shots, or another proxy",
        )

    def compute(rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        batch = collate([whole[row] for row in rows], proxy.device)
        leaf = proxy.model.get_input_embeddings()(batch.ids).detach().requires_grad_(True)
        with torch.enable_grad():
            hidden = proxy.model(inputs_embeds=leaf, use_cache=False, return_dict=True).logits
            read = hidden[batch.rows, batch.positions]
            read = read.to(torch.promote_types(read.dtype, torch.float32))
            losses = torch.nn.functional.cross_entropy(read, batch.targets, reduction="none")
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        summed = losses.detach().new_zeros(len(rows)).index_add(0, batch.rows, losses.detach())
        return summed.cpu(), gradient.float().cpu(), leaf.detach().float().cpu()

    with frozen(proxy.model):
        for rows, parts in run_batches([len(one.ids) for one in whole], proxy.budget, compute):
            for row, loss, gradient, embeddings in zip(rows, *parts, strict=True):
                length = len(whole[row].ids)
                yield row, float(loss), gradient[lead:length], embeddings[lead:length]
