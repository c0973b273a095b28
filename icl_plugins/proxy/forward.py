"""One batch through a causal LM: losses of the answers, last hidden states, the model left as it came."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from icl_plugins.proxy.encoding import Encoded


@dataclass(frozen=True)
class Batch:
    """Right-padded demonstrations on the model's device.

    ids: (B, T); rows, positions, targets: (M,), one entry per answer token of the batch: its row, the
    position of the token in front of it (-1 for the first token), its id.
    """

    ids: Tensor
    rows: Tensor
    positions: Tensor
    targets: Tensor


def pad(sequences: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Return the sequences padded on the right with id 0, (B, T), int64.

    No attention mask is needed: in a causal model what stands to the right changes nothing to its left.
    """
    lengths = torch.tensor([len(ids) for ids in sequences])
    padded = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)
    filled = torch.arange(padded.shape[1]) < lengths[:, None]
    padded[filled] = torch.tensor(list(chain.from_iterable(sequences)))
    return padded.to(device)


def collate(demonstrations: Sequence[Encoded], device: torch.device) -> Batch:
    """Turn demonstrations into one Batch."""
    ids = pad([example.ids for example in demonstrations], device)
    answers = [range(example.answer_start, example.answer_stop) for example in demonstrations]
    rows = torch.tensor([len(answer) for answer in answers])
    rows = torch.repeat_interleave(torch.arange(len(answers)), rows).to(device)
    positions = torch.tensor(list(chain.from_iterable(answers)), device=device)
    return Batch(ids, rows, positions - 1, ids[rows, positions])


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """Hold the model in evaluation mode with frozen weights, then put all of it back as it was."""
    training = [module for module in model.modules() if module.training]
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        model.eval()
        for weight in trainable:
            weight.requires_grad_(False)
        yield
    finally:
        for module in training:
            module.training = True
        for weight in trainable:
            weight.requires_grad_(True)


@contextmanager
def head_input(model: Any, pick: Any) -> Iterator[None]:
    """Let the LM head see ``pick(hidden states)`` instead of all positions.

    Works for every model whose head is a module; whatever the model does to the logits afterwards (scaling,
    soft-capping) still happens. Other threads that run the model see all positions.
    """
    here = get_ident()

    def picked(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (pick(inputs[0]), *inputs[1:]) if get_ident() == here else inputs

    hook = model.get_output_embeddings().register_forward_pre_hook(picked)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def only_at(
    modules: Iterable[torch.nn.Module], shape: torch.Size, rows: Tensor, positions: Tensor
) -> Iterator[None]:
    """Let position-wise modules work on (rows, positions) of a (B, T) batch only, and return 0 elsewhere.

    For the last layer's feed-forward part, of which nothing but the answers' positions is ever read. Other
    threads that run the model are not concerned.
    """
    here = get_ident()

    def gather(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if get_ident() != here:
            return inputs
        return (inputs[0][rows, positions].unsqueeze(0), *inputs[1:])

    def scatter(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if get_ident() != here:
            return output
        return output.new_zeros(*shape, output.shape[-1]).index_put((rows, positions), output[0])

    hooks = [
        hook
        for one in modules
        for hook in (one.register_forward_pre_hook(gather), one.register_forward_hook(scatter))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def answer_losses(
    model: Any,
    batch: Batch,
    prefix: Tensor | None,
    *,
    slice_head: bool,
    tail: Iterable[torch.nn.Module] = (),
) -> Tensor:
    """Return (B,) losses in nats: -log p of the answer's tokens, summed over them.

    prefix: (B, k, h) embeddings in front of everything, or None. slice_head, tail: what may be run on the
    answers' positions only; see probe.
    """
    embeddings = model.get_input_embeddings()(batch.ids)
    before = batch.positions
    if prefix is not None:
        embeddings = torch.cat([prefix.to(embeddings.dtype), embeddings], dim=1)
        before = before + prefix.shape[1]
    with only_at(tail, embeddings.shape[:2], batch.rows, before):
        if slice_head:
            with head_input(model, lambda hidden: hidden[batch.rows, before].unsqueeze(0)):
                logits = run(model, embeddings)[0]
        else:
            logits = run(model, embeddings)[batch.rows, before]
    # Half precision would lose the losses' last digits; float64 stays float64.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    per_token = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")
    return per_token.new_zeros(batch.ids.shape[0]).index_add(0, batch.rows, per_token)


def run(model: Any, embeddings: Tensor) -> Tensor:
    """Return the logits of ``embeddings`` (B, T, h) without a cache or an attention mask."""
    logits: Tensor = model(inputs_embeds=embeddings, use_cache=False, return_dict=True).logits
    return logits


def last_hidden_states(model: Any, ids: Tensor, *, slice_head: bool) -> Tensor:
    """Return (B, T, h): what the LM head reads."""
    embeddings = model.get_input_embeddings()(ids)
    if not slice_head:
        output = model(inputs_embeds=embeddings, use_cache=False, return_dict=True, output_hidden_states=True)
        hidden: Tensor = output.hidden_states[-1]
        return hidden
    seen: list[Tensor] = []

    def keep(hidden: Tensor) -> Tensor:
        seen.append(hidden)
        return hidden[:, -1:]

    with head_input(model, keep):
        run(model, embeddings)
    return seen[0]
