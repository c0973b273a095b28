"""What a model keeps of a prefix: keys and values, read once, shared by all that stands behind."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from icl_plugins.proxy.batching import is_out_of_memory
from icl_plugins.proxy.forward import frozen, head_input

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

Layers = tuple[tuple[Tensor, Tensor], ...]

# Tokens read in one piece: the first piece needs no mask, and attention without one is a quarter faster.
_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class PrefixState:
    """The keys and values of a prefix; nothing that reads them changes them.

    ids: the L tokens. layers: keys and values of each layer, (1, heads, S, d) each, S slots; empty
    when nothing was read. position: of the first token behind the prefix; S unless the keys were made at
    other positions.
    """

    ids: tuple[int, ...] = ()
    layers: Layers = ()
    position: int = 0

    @property
    def slots(self) -> int:
        """How many keys each layer holds."""
        return self.layers[0][0].shape[-2] if self.layers else 0

    def head(self, length: int) -> "PrefixState":
        """Return the state of the first `length` tokens: in a causal model a part of that of all."""
        layers = tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in self.layers)
        return PrefixState(self.ids[:length], layers, self.position - len(self.ids) + length)

    def cache(self, size: int = 1) -> Any:
        """Return a cache for a batch of `size`, its tensors views: a model that adds to them makes copies."""
        from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

        new_layer: Any = DynamicLayer
        layers = []
        for keys, values in self.layers:
            layer = new_layer()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys.expand(size, -1, -1, -1), values.expand(size, -1, -1, -1)
            layers.append(layer)
        return Cache(layers=layers) if layers else DynamicCache()


def read(proxy: "Proxy", ids: Sequence[int], behind: PrefixState) -> PrefixState:
    """Return the state of the tokens behind another state; every layer keeps all of them.

    Read in chunks, which halve when memory runs out. Raises ProxyError if one token does not fit.
    """
    from transformers.cache_utils import DynamicLayer

    state, chunk, at = behind, _CHUNK, 0
    while at < len(ids):
        part = tuple(ids[at : at + chunk])
        try:
            layers = _read_chunk(proxy, part, state)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(part) == 1:
                raise
            chunk = len(part) // 2
            continue
        if not layers or not all(type(layer) is DynamicLayer for layer in layers):
            raise NotImplementedError("the model keeps something else than keys and values")
        kept = tuple((layer.keys, layer.values) for layer in layers)
        state = PrefixState(state.ids + part, kept, state.position + len(part))
        at += len(part)
    return state


def _read_chunk(proxy: "Proxy", ids: tuple[int, ...], state: PrefixState) -> Any:
    # A cache without config: one made with it would forget what left the window of a sliding layer.
    cache = state.cache()
    tokens = torch.tensor([ids], device=proxy.device)
    with frozen(proxy.model), torch.no_grad(), picked(proxy, slice(-1, None)):
        proxy.model(
            input_ids=tokens,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
            **shifted(state, tokens),
        )
    return cache.layers


def shifted(state: PrefixState, tokens: Tensor, fed: int = 0) -> dict[str, Tensor]:
    """Return the positions as an argument, where they are others than the model would count itself."""
    if not state.layers or state.position == state.slots:
        return {}
    start = state.position + fed
    return {"position_ids": torch.arange(start, start + tokens.shape[1], device=tokens.device)[None]}


def picked(proxy: "Proxy", positions: Any) -> AbstractContextManager[None]:
    """Let the LM head see only these positions of every row, where it may be run on some only."""
    if not proxy.slice_head:
        return nullcontext()
    return head_input(proxy.model, lambda hidden: hidden[:, positions])
