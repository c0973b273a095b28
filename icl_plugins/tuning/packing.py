"""Whether a model keeps the sequences that are packed into a row apart, proven on a small row."""

from typing import TYPE_CHECKING

import torch

from icl_plugins.proxy.batching import is_out_of_memory
from icl_plugins.proxy.forward import frozen
from icl_plugins.proxy.probe import FAILURES
from icl_plugins.tuning.objective import logits_at
from icl_plugins.tuning.rows import collate
from icl_plugins.tuning.sequences import Sequence, Weighting

_ROUNDING = 0.1  # of what leaks where nothing keeps the sequences apart; roundings are far less

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


def packs(proxy: "Proxy") -> tuple[bool, str]:
    """Return whether a packed row gives the logits of its sequences alone, and why not.

    The second and third sequence of the row would show what leaks into them, and positions that run on, as
    they do where the same row is read without positions.
    """
    size = len(proxy.model.get_input_embeddings().weight)
    ids = [(7 * at + 3) % size for at in range(24)]
    parts = [Sequence(ids[start : start + 8]) for start in (0, 8, 16)]
    weighting = Weighting()

    def logits(row: list[Sequence], *without: str) -> torch.Tensor:
        batch = {name: values.to(proxy.device) for name, values in collate([row], weighting).items()}
        return logits_at(proxy.model, {name: batch[name] for name in batch if name not in without})

    try:
        with frozen(proxy.model), torch.no_grad():
            together, apart = logits(parts), torch.cat([logits([part]) for part in parts])
            leaking = logits(parts, "position_ids")
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        return False, f"{type(error).__name__}: {error}"[:160]
    wrong, leak = (float((found - apart).abs().max()) for found in (together, leaking))
    if wrong <= leak * _ROUNDING:
        return True, ""
    return False, f"the model's logits change by {wrong:.2g} where sequences share a row"
