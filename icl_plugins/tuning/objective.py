"""The loss of a batch: weighted, with logits at the predictions that count and nowhere else."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from icl_plugins.proxy.forward import frozen, head_input


def logits_at(model: Any, batch: Mapping[str, Tensor], forward: Any = None) -> Tensor:
    """Return (M, V) float32 (float64 stays): the logits in front of the predictions that count.

    forward: what is called in the model's place, where it is wrapped for several devices.
    """
    inputs = {name: batch[name] for name in ("input_ids", "position_ids") if name in batch}
    rows, positions = batch["rows"], batch["positions"]
    with head_input(model, lambda hidden: hidden[rows, positions].unsqueeze(0)):
        logits = (forward or model)(**inputs, use_cache=False, return_dict=True).logits[0]
    precise: Tensor = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return precise


def answer_weights(batch: Mapping[str, Tensor]) -> Tensor:
    """Return (M,): the weights of the predictions, 0 for those of plain text."""
    return batch["weights"] * ~batch["plain"]


def nats(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Return (M,): -log p of every prediction that counts."""
    return torch.nn.functional.cross_entropy(logits, batch["targets"], reduction="none")


def divergence(
    logits: Tensor, model: Any, batch: Mapping[str, Tensor], base: AbstractContextManager[None]
) -> Tensor:
    """Return KL(base || tuned) in nats, summed over the tokens of plain text; base: turns the adapter off."""
    plain = batch["plain"]
    part = {**batch, "rows": batch["rows"][plain], "positions": batch["positions"][plain]}
    with frozen(model), base, torch.no_grad():  # frozen: without dropout
        before = logits_at(model, part).log_softmax(-1)
    after = logits[plain].log_softmax(-1)
    return torch.nn.functional.kl_div(after, before, reduction="sum", log_target=True)
