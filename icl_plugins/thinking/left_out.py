"""Each demonstration of a prompt as a query behind the others, its own keys and values hidden from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from icl_plugins.evaluation.answers import continued
from icl_plugins.evaluation.local_texts import LocalTexts
from icl_plugins.prompt import ManyShotPrompt
from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.forward import frozen
from icl_plugins.proxy.packed_row import attention_masks
from icl_plugins.proxy.prefix_state import Layers, PrefixState, picked
from icl_plugins.thinking.prefix import begin_with, demonstration_starts

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

_TOKENS = 1024  # of queries, in one row


@dataclass(frozen=True)
class LeftOut:
    """A demonstration as it would be asked: its tokens behind the prompt, and where it stands in the prompt.

    query: question and answer. start, stop: the slots of the prompt that hold it.
    """

    query: Encoded
    start: int
    stop: int


def left_out(prompt: ManyShotPrompt, texts: LocalTexts, ids: Sequence[int]) -> list[LeftOut]:
    """Return every demonstration of a prompt whose tokens are ids."""
    messages = [prompt.messages(example, texts.layout) for example in prompt.examples]
    answers = [continued([answer], prompt.template, texts.layout) for _, answer in prompt.demonstrations]
    requests = begin_with(ids, texts.requests(messages, answers))
    starts = [*demonstration_starts(texts, prompt, ids), len(ids)]
    queries = [request.behind(len(ids))[0] for request in requests]
    return [LeftOut(query, *starts[at : at + 2]) for at, query in enumerate(queries)]


def rows_of(queries: Sequence[LeftOut], tokens: int = _TOKENS) -> Iterator[list[LeftOut]]:
    """Yield queries that are read in one row, as many as fit."""
    row: list[LeftOut] = []
    for one in queries:
        if row and sum(len(other.query.ids) for other in row) + len(one.query.ids) > tokens:
            yield row
            row = []
        row.append(one)
    if row:
        yield row


def left_out_losses(
    proxy: "Proxy", layers: Layers, ids: Sequence[int], row: Sequence[LeftOut], hidden: Tensor | None = None
) -> Tensor:
    """Return (n,) nats: -log p(answer | the other demonstrations, question), summed over the answer's tokens.

    layers: keys and values of the prompt; gradients reach them. hidden: (L,) bool, slots that nobody sees.
    All queries stand in one row and see themselves and all slots but their own. For models that take
    positions and a mask of their own.
    """
    length, (tokens, owners, depths) = len(ids), _side_by_side(row)
    sees = np.ones((len(tokens), length + len(tokens)), dtype=bool)
    if hidden is not None:
        sees[:, :length] = ~hidden.numpy()
    for at, one in enumerate(row):
        sees[owners == at, one.start : one.stop] = False
    order = np.arange(len(tokens))
    sees[:, length:] = (owners[:, None] == owners) & (order[:, None] >= order)
    before, targets, own = (torch.tensor(part, device=proxy.device) for part in _targets(row))
    positions = length + depths
    state = PrefixState(tuple(ids), tuple((k.to(proxy.dtype), v.to(proxy.dtype)) for k, v in layers), length)
    with frozen(proxy.model), picked(proxy, before):
        logits = proxy.model(
            input_ids=torch.tensor([tokens], device=proxy.device),
            position_ids=torch.tensor(positions, device=proxy.device)[None],
            attention_mask=attention_masks(
                proxy, positions, np.concatenate([np.arange(length), positions]), sees
            ),
            past_key_values=state.cache(),
            use_cache=True,
            return_dict=True,
        ).logits[0]
    logits = (logits if proxy.slice_head else logits[before]).float()
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return losses.new_zeros(len(row)).index_add(0, own, losses)


def _side_by_side(row: Sequence[LeftOut]) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Return the tokens of all queries, whose each is, and how far behind the prompt it stands."""
    tokens = [token for one in row for token in one.query.ids]
    lengths = [len(one.query.ids) for one in row]
    owners = np.repeat(np.arange(len(row)), lengths)
    return tokens, owners, np.concatenate([np.arange(length) for length in lengths])


def _targets(row: Sequence[LeftOut]) -> tuple[list[int], ...]:
    """Return, for each answer token: the place in front of it, the token, and whose it is."""
    found: list[tuple[int, int, int]] = []
    first = 0
    for at, one in enumerate(row):
        ids, places = one.query.ids, range(one.query.answer_start, one.query.answer_stop)
        found += [(first + place - 1, ids[place], at) for place in places]
        first += len(ids)
    return tuple([*part] for part in zip(*found, strict=True))
