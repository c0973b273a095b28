"""Prove on one small batch that a model can do what the library needs, whatever its class is called."""

from typing import Any

import torch
from torch import Tensor

from icl_plugins.errors import ProxyError
from icl_plugins.proxy.batching import is_out_of_memory
from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.forward import answer_losses, collate, frozen, run


def probe(model: Any, device: torch.device) -> tuple[bool, str]:
    """Return whether the head may be run on answer positions only, and the reason.

    Raises ProxyError when the model does not take ``inputs_embeds``, is not causal, depends on padding to
    the right, or gives no finite gradient for a prefix.
    """
    try:
        with frozen(model), torch.inference_mode(False):
            return _probe(model, device)
    except (TypeError, ValueError, AttributeError, NotImplementedError, RuntimeError) as error:
        if isinstance(error, ProxyError) or is_out_of_memory(error):
            raise
        raise _incapable(f"cannot be run on embeddings: {error}") from error


def _probe(model: Any, device: torch.device) -> tuple[bool, str]:
    vocabulary = model.get_input_embeddings().num_embeddings
    tokens = [(7 * at + 3) % vocabulary for at in range(1, 13)]
    long, short = Encoded(tokens, 8, 12), Encoded(tokens[:7], 5, 7)
    padded, alone = collate([long, short], device), collate([short], device)
    with torch.no_grad():
        by_ids = model(input_ids=padded.ids[:1], use_cache=False, return_dict=True).logits
        embeddings = model.get_input_embeddings()(padded.ids[:1])
        _require(by_ids, run(model, embeddings), "gives other logits for inputs_embeds than for input_ids")
        _require(
            by_ids[:, :-1], run(model, embeddings[:, :-1]), "is not causal: later tokens change earlier ones"
        )
        full = answer_losses(model, padded, None, slice_head=False)
        _require(
            answer_losses(model, alone, None, slice_head=False), full[1:], "depends on padding to the right"
        )
        sliced = _sliced_losses(model, padded)
    leaf = embeddings[:, :2].clone().requires_grad_()
    with torch.enable_grad():
        loss = answer_losses(model, alone, leaf, slice_head=False).sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
    if not (torch.isfinite(gradient).all() and gradient.any()):
        raise _incapable("gives no finite, non-zero gradient for a prefix")
    if sliced is not None and _equal(full, sliced):
        return True, "on answer positions only: reproduces the losses of the full logits"
    return False, "on all positions: the model's logits are not its output embeddings of single positions"


def _sliced_losses(model: Any, batch: Any) -> Tensor | None:
    try:
        return answer_losses(model, batch, None, slice_head=True)
    except (RuntimeError, IndexError, AttributeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        return None


def _require(expected: Tensor, got: Tensor, otherwise: str) -> None:
    if not _equal(expected, got):
        raise _incapable(otherwise)


def _equal(expected: Tensor, got: Tensor) -> bool:
    # Kernels differ with the shape of a batch by a few roundings; a wrong path differs by far more than this.
    tolerance = torch.finfo(expected.dtype).eps ** 0.5 * float(expected.abs().max())
    return bool((expected - got).abs().max() <= tolerance)


def _incapable(what: str) -> ProxyError:
    return ProxyError(
        f"the model {what}",
        expected="a causal language model that takes inputs_embeds and passes gradients to them",
        fix='choose another proxy, for example the shipped "micro"',
    )
