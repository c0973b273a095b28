"""Where the demonstrations stand when they are read again, and how their keys are made comparable."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from icl_plugins.errors import ProxyError, TooLongError
from icl_plugins.proxy.forward import frozen
from icl_plugins.proxy.prefix_state import PrefixState, picked
from icl_plugins.proxy.probe import FAILURES

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

Mode = Literal["reference", "overlap", "relative"]
# (keys (1, heads, L, d), layer, by how many positions) -> the keys as they are at other positions
Move = Callable[[Tensor, int, int], Tensor]

_TRIAL = 8  # tokens


def resolve(proxy: "Proxy", mode: Mode | Literal["auto"], length: int) -> tuple[Mode, Move | None, str]:
    """Return the mode, how keys are moved back (None where they stay), and why.

    "reference" reads at L..2L-1 and takes the keys as they are, as the published code does; they then differ
    from the first reading by their positions too. "overlap" reads at 0..L-1 again. "relative" reads at
    L..2L-1 and moves the keys back by L: everything that a token sees then stands in front of it, and the
    keys are comparable. "auto" is "relative" where the model's keys can be moved and 2L positions are there,
    else "overlap".

    Raises ProxyError where "relative" is asked of a model whose keys cannot be moved, TooLongError where 2L
    positions are not there.
    """
    room = 2 * length <= proxy.max_length
    if mode == "overlap":
        return mode, None, "asked for"
    if mode != "auto" and not room:
        raise TooLongError(
            f'positions="{mode}" for a prompt of {length} tokens',
            expected=f"at most {proxy.max_length // 2} tokens, half of the model's context",
            fix='pass positions="overlap", or take fewer demonstrations',
        )
    if mode == "reference":
        return mode, None, "asked for"
    move, why = find_move(proxy, length) if room else (None, "twice the prompt is longer than the context")
    if move is not None:
        return "relative", move, why
    if mode == "relative":
        raise ProxyError(
            f'positions="relative": {why}',
            expected="a model with rotary positions, whose keys can be moved",
            fix='pass positions="overlap" or "auto"',
        )
    return "overlap", None, why


def find_move(proxy: "Proxy", distance: int) -> tuple[Move | None, str]:
    """Return what moves the keys of every layer by `distance`, proven on a few tokens, or why there is none.

    The same tokens are read at 0.. and at distance..: where only relative positions count, the keys of all
    layers are those of the first reading, moved. (The first layer alone would not show a model that turns
    the keys of some layers by other angles.)
    """
    try:
        here, there = (_keys_at(proxy, start) for start in (0, distance))
    except FAILURES as error:
        return None, f"the model takes no positions of its own: {error}"[:160]
    scale = max(float(keys.norm()) for keys in here)
    # Half precision rounds keys after turning them; wrong angles are wrong by about the scale itself.
    tolerance = scale * max(1e-3, 8 * torch.finfo(proxy.dtype).eps)
    tried = (_unmoved, _rotary(proxy.model, interleaved=False), _rotary(proxy.model, interleaved=True))
    for move in tried:
        try:
            moved = [move(keys, layer, -distance) for layer, keys in enumerate(there)]
        except FAILURES:
            continue
        if all(float((a - b).norm()) <= tolerance for a, b in zip(here, moved, strict=True)):
            turned = "do not depend on positions" if move is _unmoved else "turn with their positions"
            return move, f"keys {turned}, shown at a distance of {distance}"
    return None, "keys at other positions are not those of the first reading, turned"


def _keys_at(proxy: "Proxy", start: int) -> list[Tensor]:
    size = proxy.model.get_input_embeddings().weight.shape[0]
    tokens = torch.tensor([[(7 * at + 3) % size for at in range(_TRIAL)]], device=proxy.device)
    places = torch.arange(start, start + _TRIAL, device=proxy.device)[None]
    cache = PrefixState().cache()
    with frozen(proxy.model), torch.no_grad(), picked(proxy, slice(-1, None)):
        proxy.model(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
    return [layer.keys for layer in cache.layers]


def _unmoved(keys: Tensor, layer: int, by: int) -> Tensor:
    return keys


def _rotary(model: Any, *, interleaved: bool) -> Move:
    """Return what turns keys as rotary embeddings do: dimensions in halves, or in neighbouring pairs."""

    def move(keys: Tensor, layer: int, by: int) -> Tensor:
        angles = _frequencies(model, layer).to(keys.device).double() * by
        angles = angles.repeat_interleave(2) if interleaved else angles.repeat(2)
        precise = torch.promote_types(keys.dtype, torch.float32)
        turned, rest = keys[..., : len(angles)].to(precise), keys[..., len(angles) :]
        across = _pairs(turned) if interleaved else _halves(turned)
        turned = turned * angles.cos().to(precise) + across * angles.sin().to(precise)
        return torch.cat([turned.to(keys.dtype), rest], -1)

    return move


def _frequencies(model: Any, layer: int) -> Tensor:
    """Return the angle per position of each pair of dimensions; some models have others in some layers."""
    rotary = getattr(model.base_model, "rotary_emb", None)
    config = model.config.get_text_config(decoder=True)
    if rotary is None:  # GPT-J computes its angles in each layer
        size = config.rotary_dim
        powers = torch.arange(0, size, 2, dtype=torch.float64) / size
        return torch.pow(10000.0, -powers)
    kinds = getattr(config, "layer_types", None)
    own = f"{kinds[layer]}_inv_freq" if kinds else ""
    frequencies: Tensor = getattr(rotary, own if hasattr(rotary, own) else "inv_freq")
    return frequencies


def _halves(turned: Tensor) -> Tensor:
    first, second = turned.chunk(2, -1)
    return torch.cat((-second, first), -1)


def _pairs(turned: Tensor) -> Tensor:
    return torch.stack((-turned[..., 1::2], turned[..., ::2]), -1).flatten(-2)
