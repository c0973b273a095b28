"""One row of tokens behind a prefix, in which each token sees only what it is told to see."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from icl_plugins.proxy.forward import frozen
from icl_plugins.proxy.prefix_state import PrefixState, picked

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

_KINDS = {"full_attention", "sliding_attention"}


class PackedRow:
    """Tokens of many sequences side by side behind one prefix; it grows with each feed.

    Positions restart behind the prefix for every sequence, and a mask keeps the sequences apart. For models
    that take positions and a mask of their own, with full or sliding attention; see shared_prefix. shared:
    the prefix is not copied in front of the row; for full attention only, else raises NotImplementedError.
    """

    def __init__(self, proxy: "Proxy", state: PrefixState, *, shared: bool = False) -> None:
        from icl_plugins.proxy.shared_cache import suffix_cache

        if shared and (not state.layers or any(attention_windows(proxy.model.config).values())):
            raise NotImplementedError("nothing to share, or layers that see a window only")
        self._proxy, self._state, self._shared = proxy, state, shared
        self._cache = suffix_cache(state) if shared else state.cache()
        self._positions = np.arange(state.position - state.slots, state.position)

    def feed(self, tokens: list[int], depths: list[int], sees: np.ndarray, picks: list[int]) -> Tensor:
        """Run n tokens; return the logits (len(picks), V) of some of them.

        depths: (n,), the position of each behind the prefix. sees: (n, T) bool over all T tokens fed so far,
        these included; the prefix is seen by all.
        """
        model, device = self._proxy.model, self._proxy.device
        positions = self._state.position + np.asarray(depths)
        self._positions = np.concatenate([self._positions, positions])
        at = torch.tensor(picks, device=device)
        with frozen(model), torch.no_grad(), picked(self._proxy, at), self._sharing():
            logits: Tensor = model(
                input_ids=torch.tensor([tokens], device=device),
                position_ids=torch.tensor(positions, device=device)[None],
                attention_mask=self._mask(positions, sees),
                past_key_values=self._cache,
                use_cache=True,
                return_dict=True,
            ).logits[0]
        return logits if self._proxy.slice_head else logits[at]

    def _sharing(self) -> AbstractContextManager[None]:
        from icl_plugins.proxy.shared_cache import sharing

        return sharing(self._proxy.model, self._state) if self._shared else nullcontext()

    def _mask(self, positions: np.ndarray, sees: np.ndarray) -> Any:
        if self._shared:
            return torch.tensor(sees, device=self._proxy.device)[None, None]
        return attention_masks(self._proxy, positions, self._positions, sees)


def attention_windows(config: Any) -> dict[str, int | None]:
    """Return how far back each kind of attention layer sees, None for all.

    Raises NotImplementedError for other kinds.
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    kinds = set(getattr(text, "layer_types", None) or ())
    if not kinds:
        return {"": window}
    if not kinds <= _KINDS:
        raise NotImplementedError(f"layers of the kinds {sorted(kinds - _KINDS)}")
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}


def attention_masks(proxy: "Proxy", positions: np.ndarray, keys: np.ndarray, sees: np.ndarray) -> Any:
    """Return what is added to the attention scores of one row; by kind of layer if the model has several.

    positions: (n,), keys: (S,), where the n tokens and all that they may look at stand. sees: (n, T) bool,
    over the last T keys; the keys in front of these are seen by all.
    """
    distances = torch.tensor(positions[:, None] - keys)
    hidden = torch.tensor(~sees)
    dtype = proxy.dtype
    masks = {}
    for kind, window in attention_windows(proxy.model.config).items():
        mask = torch.zeros(distances.shape, dtype=dtype)
        mask[:, len(keys) - sees.shape[1] :].masked_fill_(hidden, torch.finfo(dtype).min)
        if window is not None:
            mask.masked_fill_(distances >= window, torch.finfo(dtype).min)
        masks[kind] = mask.to(proxy.device)[None, None]
    return masks if len(masks) > 1 else next(iter(masks.values()))
