"""Prove on one small batch that a model can do what the library needs, whatever its class is called."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from icl_plugins.errors import ProxyError
from icl_plugins.proxy.batching import is_out_of_memory
from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.forward import Batch, answer_losses, collate, frozen, run

# What a model may raise when it is asked for something that it cannot do.
FAILURES = (TypeError, ValueError, AttributeError, LookupError, NotImplementedError, RuntimeError)


@dataclass(frozen=True)
class Abilities:
    """What of a model may be run on the answers' positions only, and why.

    slice_head: the LM head. tail: position-wise modules of the last layer.
    """

    slice_head: bool
    tail: tuple[torch.nn.Module, ...]
    reasons: dict[str, str]


def probe(model: Any, device: torch.device) -> Abilities:
    """Return what the model can do, proven on two short sequences.

    Raises ProxyError when the model does not take ``inputs_embeds``, is not causal, depends on padding to
    the right, or gives no finite gradient for a prefix.
    """
    try:
        with frozen(model), torch.inference_mode(False):
            return _probe(model, device)
    except FAILURES as error:
        if isinstance(error, ProxyError) or is_out_of_memory(error):
            raise
        raise _incapable(f"cannot be run on embeddings: {error}") from error


def _probe(model: Any, device: torch.device) -> Abilities:
    weight = model.get_input_embeddings().weight
    tokens = [(7 * at + 3) % len(weight) for at in range(1, 13)]
    long, short = Encoded(tokens, 8, 12), Encoded(tokens[:7], 5, 7)
    padded, alone = collate([long, short], device), collate([short], device)
    with torch.no_grad():
        by_ids = model(input_ids=padded.ids[:1], use_cache=False, return_dict=True).logits
        embeddings = model.get_input_embeddings()(padded.ids[:1])
        by_embeddings, shorter = run(model, embeddings), run(model, embeddings[:, :-1])
    _require(model, by_ids, by_embeddings, "gives other logits for inputs_embeds than for input_ids")
    _require(model, by_ids[:, :-1], shorter, "is not causal: later tokens change earlier ones")
    prefix = embeddings[:, :2].expand(2, -1, -1)
    full = _losses_and_gradients(model, padded, prefix)
    apart = _losses_and_gradients(model, alone, prefix[:1])
    for one, of_two in zip(apart, full, strict=True):
        _require(model, one, of_two[1:], "depends on padding to the right")
    if not (torch.isfinite(full[1]).all() and full[1].any()):
        raise _incapable("gives no finite, non-zero gradient for a prefix")

    def proven(slice_head: bool, tail: Iterable[torch.nn.Module]) -> bool:
        try:
            sliced = _losses_and_gradients(model, padded, prefix, slice_head=slice_head, tail=tail)
        except FAILURES as error:
            if is_out_of_memory(error):
                raise
            return False
        return all(_equal(model, expected, got) for expected, got in zip(full, sliced, strict=True))

    slice_head = proven(True, ())
    tail = {name: module for name, module in _tail_candidates(model) if proven(slice_head, (module,))}
    if len(tail) > 1 and not proven(slice_head, tail.values()):
        tail = {}
    where = "on answer positions only, with the same losses and gradients"
    reasons = {"head": where if slice_head else "on all positions: the logits need more than the head alone"}
    if tail:
        reasons["last layer"] = f"{', '.join(tail)} {where}"
    return Abilities(slice_head, tuple(tail.values()), reasons)


def _losses_and_gradients(
    model: Any,
    batch: Batch,
    prefix: Tensor,
    *,
    slice_head: bool = False,
    tail: Iterable[torch.nn.Module] = (),
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        leaf = prefix.detach().clone().requires_grad_()
        losses = answer_losses(model, batch, leaf, slice_head=slice_head, tail=tail)
        (gradients,) = torch.autograd.grad(losses.sum(), leaf)
    return losses.detach(), gradients


def _tail_candidates(model: Any) -> list[tuple[str, torch.nn.Module]]:
    """Return the parts with a weight matrix of the last of the model's layers."""
    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    if not stacks:
        return []
    layer = max(stacks, key=lambda stack: sum(weight.numel() for weight in stack.parameters()))[-1]
    return [
        (name, part)
        for name, part in layer.named_children()
        if any(weight.ndim > 1 for weight in part.parameters())
    ]


def _require(model: Any, expected: Tensor, got: Tensor, otherwise: str) -> None:
    if not _equal(model, expected, got):
        raise _incapable(otherwise)


def _equal(model: Any, expected: Tensor, got: Tensor) -> bool:
    # Kernels differ with the shape of a batch by a few roundings; a wrong path differs by far more than this.
    # At least float32's: many models compute their norms in it whatever their weights are.
    precision = max(
        torch.finfo(kind).eps for kind in (model.get_input_embeddings().weight.dtype, torch.float32)
    )
    tolerance = precision**0.5 * float(expected.abs().max())
    return bool((expected - got).abs().max() <= tolerance)


def _incapable(what: str) -> ProxyError:
    return ProxyError(
        f"the model {what}",
        expected="a causal language model that takes inputs_embeds and passes gradients to them",
        fix='choose another proxy, for example the shipped "micro"',
    )
