"""Slots: demonstrations of one fixed width in front of a query, and the gradient of the queries' losses.

Around an anchor of k slots one forward and one backward per query give what GradE (arXiv 2508.19999)
estimates every other subset from. Pads inside a slot are masked, and every token keeps its position, so
that what stands in a slot never moves the query.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from icl_plugins.errors import BudgetError, TooLongError
from icl_plugins.proxy.batching import run_batches
from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.forward import collate, frozen

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


@dataclass(frozen=True, eq=False)
class Slots:
    """Texts as slots of one width T, padded on the right.

    embeddings: (n, T, h) on the model's device, 0 where a pad stands. shown: (n, T) bool, False for pads.
    """

    embeddings: Tensor
    shown: Tensor

    def at(self, rows: Sequence[int]) -> "Slots":
        """Return the slots of some rows, in that order."""
        chosen = list(rows)
        return Slots(self.embeddings[chosen], self.shown[chosen])


def make_slots(proxy: "Proxy", texts: Sequence[str], width: int) -> Slots:
    """Tokenize texts, without the tokens that begin a sequence, into slots of `width` tokens.

    Raises BudgetError naming the texts that are longer.
    """
    ids = [tokens for tokens, _ in proxy.encoder.tokenize(texts, add_special_tokens=False)]
    longer = {row: len(one) for row, one in enumerate(ids) if len(one) > width}
    if longer:
        raise BudgetError(
            f"{len(longer)} of {len(ids)} texts longer than a slot, rows {list(longer)[:5]}, the longest of "
            f"{max(longer.values())} tokens",
            expected=f"at most {width} tokens",
            fix="make the slots wider, or leave these examples out",
        )
    padded = torch.zeros(len(ids), width, dtype=torch.long)
    shown = torch.zeros(len(ids), width, dtype=torch.bool)
    for row, one in enumerate(ids):
        padded[row, : len(one)] = torch.tensor(one)
        shown[row, : len(one)] = True
    padded, shown = padded.to(proxy.device), shown.to(proxy.device)
    with torch.no_grad():
        embeddings = proxy.model.get_input_embeddings()(padded) * shown[..., None]
    return Slots(embeddings, shown)


def slot_losses(proxy: "Proxy", slots: Slots, queries: Sequence[Encoded]) -> Tensor:
    """Return the losses (Q,) of the queries' answers behind the slots: nats, float64 on the CPU.

    queries: as `Proxy.encode` gives them. Raises TooLongError where slots and query do not fit the proxy.
    """
    losses = torch.empty(len(queries), dtype=torch.float64)
    with frozen(proxy.model), torch.no_grad():
        for rows, values in run_batches(
            _lengths(proxy, slots, queries),
            proxy.budget,
            lambda rows: _losses(proxy, slots.embeddings, slots.shown, [queries[row] for row in rows]),
        ):
            losses[rows] = values.double().cpu()
    return losses


def slot_gradients(proxy: "Proxy", slots: Slots, queries: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Return what `slot_losses` does, and the gradient (k, T, h) of their mean: float32 on the CPU.

    One forward and one backward pass for each query. At pads the gradient is 0.
    """
    losses = torch.empty(len(queries), dtype=torch.float64)
    gradient = torch.zeros(slots.embeddings.shape, dtype=torch.float32)

    def compute(rows: list[int]) -> tuple[Tensor, Tensor]:
        leaf = slots.embeddings.detach().requires_grad_(True)
        with torch.enable_grad():
            values = _losses(proxy, leaf, slots.shown, [queries[row] for row in rows])
            (found,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach().double().cpu(), found.float().cpu()

    with frozen(proxy.model):
        for rows, (values, found) in run_batches(_lengths(proxy, slots, queries), proxy.budget, compute):
            losses[rows] = values
            gradient += found / len(queries)
    return losses, gradient


def _losses(proxy: "Proxy", embeddings: Tensor, shown: Tensor, queries: list[Encoded]) -> Tensor:
    """Return the losses (B,) of a batch of queries behind slots (k, T, h)."""
    lead = proxy.encoder.leading
    batch = collate(queries, proxy.device)
    own = proxy.model.get_input_embeddings()(batch.ids)
    size, between = len(queries), embeddings.flatten(0, 1).to(own.dtype)
    whole = torch.cat([own[:, :lead], between.expand(size, -1, -1), own[:, lead:]], dim=1)
    seen = torch.ones(size, whole.shape[1], dtype=torch.long, device=proxy.device)
    seen[:, lead : lead + len(between)] = shown.flatten()
    positions = torch.arange(whole.shape[1], device=proxy.device).expand(size, -1)
    logits = proxy.model(
        inputs_embeds=whole, attention_mask=seen, position_ids=positions, use_cache=False, return_dict=True
    ).logits
    read = logits[batch.rows, batch.positions + len(between)]
    read = read.to(torch.promote_types(read.dtype, torch.float32))
    per_token = torch.nn.functional.cross_entropy(read, batch.targets, reduction="none")
    return per_token.new_zeros(size).index_add(0, batch.rows, per_token)


def _lengths(proxy: "Proxy", slots: Slots, queries: Sequence[Encoded]) -> list[int]:
    lengths = [slots.shown.numel() + len(query.ids) for query in queries]
    longest = max(lengths, default=0)
    if longest > proxy.max_length:
        raise TooLongError(
            f"{len(slots.shown)} slots of {slots.shown.shape[1]} tokens and a query: {longest} tokens",
            expected=f"at most {proxy.max_length}, the context of the proxy {proxy.name!r}",
            fix="take fewer or narrower slots, or another proxy",
        )
    return lengths
