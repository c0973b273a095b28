"""Reading the demonstrations again and again: one forward for each step, in front of all that was kept."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icl_plugins.errors import NonFiniteError, TooLongError
from icl_plugins.progress import tell_progress
from icl_plugins.proxy.batching import is_out_of_memory
from icl_plugins.proxy.forward import frozen
from icl_plugins.proxy.prefix_state import PrefixState, picked, read
from icl_plugins.proxy.shared_cache import sharing, suffix_cache
from icl_plugins.thinking.generating import generator_of
from icl_plugins.thinking.positions import Mode, Move
from icl_plugins.thinking.recursion import KeysAndValues, Memory

if TYPE_CHECKING:
    from icl_plugins.evaluation.local_texts import LocalTexts
    from icl_plugins.prompt import ManyShotPrompt
    from icl_plugins.proxy.model import Proxy

# Tokens read at a time behind the history.
_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Thought:
    """The state after a step, its tensors those of the recursion: they change when the next step is taken.

    step: 1 is plain in-context learning. state: in the model's precision. precise: in float32 at least.
    norms: (layers, 2) how far keys and values were from the new reading, None at step 1. loss: nats, of the
    demonstrations before the step, where it is trained.
    """

    step: int
    state: PrefixState
    precise: KeysAndValues
    norms: np.ndarray | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Pace:
    """How the state moves; move: what brings keys back to where they were first read, or None.

    why: why it is that mode.
    """

    step_size: float
    momentum: float
    mode: Mode
    move: Move | None = None
    why: str = ""

    def states(
        self, proxy: "Proxy", prompt: "ManyShotPrompt", texts: "LocalTexts", ids: tuple[int, ...], steps: int
    ) -> Iterator[Thought]:
        """Yield the state after 1, 2, ... readings; see `think`."""
        return think(proxy, ids, self, steps)

    def told(self) -> dict[str, Any]:
        """Return the settings, as JSON holds them."""
        named = f"step size {self.step_size!r}, momentum {self.momentum!r}, positions {self.mode}"
        values = {"step_size": self.step_size, "momentum": self.momentum, "positions": self.mode}
        return {"method": "deep thinking", "recipe": named, **values}

    def reasons(self) -> dict[str, str]:
        """Return why it is this mode."""
        return {"positions": self.why}


def think(proxy: "Proxy", ids: Sequence[int], pace: Pace, steps: int) -> Iterator[Thought]:
    """Yield the state after 1, 2, ... `steps` readings (arXiv 2305.13016, section 3; T is `steps`).

    At every reading after the first each token sees all L tokens of the history and those of the new reading
    up to itself, in all layers at once. Raises TooLongError where the prompt is longer than the context,
    NonFiniteError, ProxyError if one token does not fit into memory.
    """
    if len(ids) >= proxy.max_length:
        raise TooLongError(
            f"a prompt of {len(ids)} tokens",
            expected=f"fewer than the {proxy.max_length} tokens of the model's context",
            fix="take fewer demonstrations, or choose a model with a longer context",
        )
    ids = tuple(ids)
    state = read(proxy, ids, PrefixState())
    memory = Memory.of(state.layers)
    yield Thought(1, state, memory.history)
    for step in range(2, steps + 1):
        norms = memory.advance(reread(proxy, state, pace), pace.step_size, pace.momentum)
        state = in_precision(proxy, ids, memory.history)
        tell_progress("thinking", step, steps)
        yield Thought(step, state, memory.history, norms)


def reread(proxy: "Proxy", past: PrefixState, pace: Pace) -> KeysAndValues:
    """Return the keys and values (1, heads, L, d) that the tokens of a state have when read behind it."""
    ids = past.ids
    start = 0 if pace.mode == "overlap" else len(ids)
    if generator_of(proxy).way == "shared":
        new = _read_apart(proxy, past, start)
    else:
        both = read(proxy, ids, PrefixState(ids, past.layers, start))
        new = [(keys[:, :, len(ids) :], values[:, :, len(ids) :]) for keys, values in both.layers]
    if pace.move is None:
        return new
    return [(pace.move(keys, layer, -len(ids)), values) for layer, (keys, values) in enumerate(new)]


def _read_apart(proxy: "Proxy", past: PrefixState, start: int) -> KeysAndValues:
    """Return the new keys and values, the history never copied nor masked; chunks halve when memory runs out.

    Half the time of one long row: what is seen in full and what is seen in part have kernels of their own.
    """
    chunk = _CHUNK
    while True:
        try:
            cache = suffix_cache(past)
            with sharing(proxy.model, past):
                for at in range(0, len(past.ids), chunk):
                    _read_chunk(proxy, past.ids[at : at + chunk], cache, start + at)
            return [(layer.keys, layer.values) for layer in cache.layers]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or chunk == 1:
                raise
            chunk //= 2


def _read_chunk(proxy: "Proxy", ids: Sequence[int], cache: Any, start: int) -> None:
    tokens = torch.tensor([ids], device=proxy.device)
    places = torch.arange(start, start + len(ids), device=proxy.device)[None]
    with frozen(proxy.model), torch.no_grad(), picked(proxy, slice(-1, None)):
        proxy.model(
            input_ids=tokens, position_ids=places, past_key_values=cache, use_cache=True, return_dict=True
        )


def in_precision(proxy: "Proxy", ids: tuple[int, ...], layers: KeysAndValues) -> PrefixState:
    """Return the state that queries stand behind, in the model's precision; raises NonFiniteError."""
    kept = tuple((keys.to(proxy.dtype), values.to(proxy.dtype)) for keys, values in layers)
    for at, layer in enumerate(kept):
        if not all(torch.isfinite(part).all() for part in layer):
            raise NonFiniteError(
                f"keys or values of layer {at} that {proxy.dtype} cannot hold",
                expected="a step that stays within the numbers of the model",
                fix='lower step_size or steps, or load the model with dtype="float32"',
            )
    return PrefixState(ids, kept, len(ids))
