"""Gradients of the losses of queries with respect to what stands in the slots in front of them.

Around an anchor of k slots one forward and one backward pass give what GradE (arXiv 2508.19999) estimates
every other subset from. The slots run once for all queries: the gradients with respect to their keys and
values are summed over the queries before they go back through the slots.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from icl_plugins.errors import TooLongError
from icl_plugins.proxy.batching import run_batches
from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.forward import collate, frozen
from icl_plugins.proxy.packed_row import attention_masks
from icl_plugins.proxy.prefix_state import PrefixState, picked
from icl_plugins.proxy.slots import Slots
from icl_plugins.proxy.token_tree import answer_tree

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


def slot_gradients(proxy: "Proxy", slots: Slots, queries: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Return the losses (Q,) of the queries behind the slots, and the gradient (k, T, h) of their mean.

    The losses are those of the answers, in nats, float64; both on the CPU; the gradient is 0 at pads.
    queries: as `Proxy.encode` gives them. One forward and one backward pass over the slots and over each
    query; for models that cannot share the slots, and if one query has no question, over the slots with each
    query. Raises TooLongError where they do not fit the proxy.
    """
    check_fit(proxy, slots.shown.shape, queries)
    with frozen(proxy.model), torch.enable_grad():
        # Without a question the answer begins right behind the slots, which a pack has no token of.
        asked = all(query.answer_start > proxy.encoder.leading for query in queries)
        if asked and proxy.shared_prefix.packs:
            return _shared(proxy, slots, queries)
        losses = torch.empty(len(queries), dtype=torch.float64)
        gradient = torch.zeros(slots.embeddings.shape)
        for rows, values, found in query_gradients(proxy, slots, queries):
            losses[rows] = values
            gradient += found.sum(0) / len(queries)
    return losses, gradient


def query_gradients(
    proxy: "Proxy", slots: Slots, queries: Sequence[Encoded]
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Yield (rows, losses (B,), gradients (B, k, T, h)) until all queries are done: of each by itself.

    slots: the same for all, or of each query (Q, k, T, h). Units and errors as for `slot_gradients`.
    """

    def compute(rows: list[int]) -> tuple[Tensor, Tensor]:
        leaf, shown = _slots_of(slots, rows)
        leaf.requires_grad_(True)
        with torch.enable_grad():
            values = _batch_losses(proxy, leaf, shown, [queries[row] for row in rows])
            (found,) = torch.autograd.grad(values.sum(), leaf)
        return values.detach().double().cpu(), found.float().cpu()

    with frozen(proxy.model):
        for rows, (values, found) in run_batches(_lengths(proxy, slots, queries), proxy.budget, compute):
            yield rows, values, found


def query_losses(proxy: "Proxy", slots: Slots, queries: Sequence[Encoded]) -> Tensor:
    """Return the losses (Q,) that `query_gradients` yields, without gradients: float64 on the CPU."""
    losses = torch.empty(len(queries), dtype=torch.float64)
    with frozen(proxy.model), torch.no_grad():
        for rows, values in run_batches(
            _lengths(proxy, slots, queries),
            proxy.budget,
            lambda rows: _batch_losses(proxy, *_slots_of(slots, rows), [queries[row] for row in rows]),
        ):
            losses[rows] = values.double().cpu()
    return losses


def _slots_of(slots: Slots, rows: list[int]) -> tuple[Tensor, Tensor]:
    """Return embeddings (B, k, T, h) and what is shown (B, k, T), copied for these queries."""
    if slots.shown.ndim == 3:
        return slots.embeddings[rows].detach(), slots.shown[rows]
    size = len(rows)
    return slots.embeddings.detach().repeat(size, 1, 1, 1), slots.shown.expand(size, -1, -1)


def _lengths(proxy: "Proxy", slots: Slots, queries: Sequence[Encoded]) -> list[int]:
    length = check_fit(proxy, slots.shown.shape[-2:], queries)
    return [length + len(query.ids) for query in queries]


def check_fit(proxy: "Proxy", shape: Sequence[int], queries: Sequence[Encoded]) -> int:
    """Return the tokens of k slots of T, shape (k, T); TooLongError if a query does not fit behind them."""
    length = shape[0] * shape[1]
    longest = length + max((len(query.ids) for query in queries), default=0)
    if longest > proxy.max_length:
        raise TooLongError(
            f"{shape[0]} slots of {shape[1]} tokens and a query: {longest} tokens",
            expected=f"at most {proxy.max_length}, the context of the proxy {proxy.name!r}",
            fix='take fewer shots, a smaller slot_width with on_too_long="truncate", or another proxy',
        )
    return length


def _shared(proxy: "Proxy", slots: Slots, queries: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
    """Run the slots once, keep their keys and values, and sum the gradients with respect to these."""
    lead, leaf = proxy.encoder.leading, slots.embeddings.detach().requires_grad_(True)
    begin = torch.tensor([queries[0].ids[:lead]], dtype=torch.long, device=proxy.device)
    embeddings = proxy.model.get_input_embeddings()(begin)
    embeddings = torch.cat([embeddings, leaf[slots.shown][None].to(embeddings.dtype)], dim=1)
    places = lead + np.flatnonzero(slots.shown.flatten().cpu().numpy())
    places = np.concatenate([np.arange(lead), places])
    layers = _keys_and_values(proxy, embeddings, places)
    shared = [tensor for layer in layers for tensor in layer]
    leaves = [tensor.detach().requires_grad_(True) for tensor in shared]
    state = PrefixState((), tuple(zip(leaves[::2], leaves[1::2], strict=True)), lead + slots.shown.numel())
    sums = [torch.zeros_like(tensor) for tensor in leaves]
    losses = torch.empty(len(queries), dtype=torch.float64)

    def compute(rows: list[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
        values = _packed_losses(proxy, state, places, [_without(queries[row], lead) for row in rows])
        return values.detach(), torch.autograd.grad(values.sum(), leaves, materialize_grads=True)

    lengths = [len(query.ids) for query in queries]
    for rows, (values, found) in run_batches(lengths, proxy.shared_prefix.budget, compute):
        losses[rows] = values.double().cpu()
        for total, one in zip(sums, found, strict=True):
            total += one / len(queries)
    (gradient,) = torch.autograd.grad(shared, leaf, sums, materialize_grads=True)
    return losses, gradient.float().cpu()


def _without(query: Encoded, lead: int) -> Encoded:
    return Encoded(query.ids[lead:], query.answer_start - lead, query.answer_stop - lead)


def _keys_and_values(proxy: "Proxy", embeddings: Tensor, places: np.ndarray) -> list[tuple[Tensor, Tensor]]:
    """Run embeddings (1, S, h) at their places (S,); return the keys and values of each layer."""
    cache = PrefixState().cache()
    with picked(proxy, slice(-1, None)):
        proxy.model(
            inputs_embeds=embeddings,
            position_ids=torch.tensor(places, device=proxy.device)[None],
            attention_mask=attention_masks(proxy, places, places, np.tri(len(places), dtype=bool)),
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
    return [(layer.keys, layer.values) for layer in cache.layers]


def _packed_losses(
    proxy: "Proxy", state: PrefixState, places: np.ndarray, queries: Sequence[Encoded]
) -> Tensor:
    """Return the losses (B,) of queries packed into one row behind the state; its keys stand at `places`."""
    tree, targets = answer_tree(queries)
    positions = state.position + np.asarray(tree.depths)
    at = torch.tensor(targets.nodes, device=proxy.device)
    with picked(proxy, at):
        logits: Tensor = proxy.model(
            input_ids=torch.tensor([tree.tokens], device=proxy.device),
            position_ids=torch.tensor(positions, device=proxy.device)[None],
            attention_mask=attention_masks(
                proxy, positions, np.concatenate([places, positions]), tree.ancestors()
            ),
            past_key_values=state.cache(),
            use_cache=True,
            return_dict=True,
        ).logits[0]
    logits = logits if proxy.slice_head else logits[at]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nodes, tokens, rows = torch.tensor([targets.at, targets.tokens, targets.sequences], device=proxy.device)
    per_token = -logits.log_softmax(-1)[nodes, tokens]
    return per_token.new_zeros(len(queries)).index_add(0, rows, per_token)


def _batch_losses(proxy: "Proxy", slots: Tensor, shown: Tensor, queries: list[Encoded]) -> Tensor:
    """Return the losses (B,) of queries, each behind slots (B, k, T, h) of its own, pads masked."""
    lead = proxy.encoder.leading
    batch = collate(queries, proxy.device)
    own = proxy.model.get_input_embeddings()(batch.ids)
    size, between = len(queries), slots.flatten(1, 2).to(own.dtype)
    whole = torch.cat([own[:, :lead], between, own[:, lead:]], dim=1)
    seen = torch.ones(size, whole.shape[1], dtype=torch.long, device=proxy.device)
    seen[:, lead : lead + between.shape[1]] = shown.flatten(1)
    positions = torch.arange(whole.shape[1], device=proxy.device).expand(size, -1)
    logits = proxy.model(
        inputs_embeds=whole, attention_mask=seen, position_ids=positions, use_cache=False, return_dict=True
    ).logits
    read = logits[batch.rows, batch.positions + between.shape[1]]
    read = read.to(torch.promote_types(read.dtype, torch.float32))
    per_token = torch.nn.functional.cross_entropy(read, batch.targets, reduction="none")
    return per_token.new_zeros(size).index_add(0, batch.rows, per_token)
