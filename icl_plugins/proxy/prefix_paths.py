"""The ways to go on behind a prefix: packed into one row, in rows of their own, or with all read again."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.forward import answer_losses, collate, frozen, head_input
from icl_plugins.proxy.packed_row import PackedRow
from icl_plugins.proxy.prefix_state import PrefixState, picked, shifted
from icl_plugins.proxy.token_tree import answer_tree, grow, put_behind

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

Ended = Callable[[Sequence[int]], bool]


def score_tree(
    proxy: "Proxy", state: PrefixState, queries: Sequence[Sequence[Encoded]], *, shared: bool = False
) -> list[np.ndarray]:
    """Score queries packed into one row, what they begin with alike standing there once."""
    tree, targets = answer_tree([one for query in queries for one in query])
    row = PackedRow(proxy, state, shared=shared)
    logits = row.feed(tree.tokens, tree.depths, tree.ancestors(), targets.nodes)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    at, tokens = torch.tensor([targets.at, targets.tokens], device=proxy.device)
    log_p = logits.log_softmax(-1)[at, tokens].double()
    ends = np.cumsum([len(query) for query in queries])
    scores = np.bincount(targets.sequences, weights=log_p.cpu().numpy(), minlength=int(ends[-1]))
    return np.split(scores, ends[:-1])


def score_rows(proxy: "Proxy", state: PrefixState, examples: Sequence[Encoded]) -> np.ndarray:
    """Score each example (N,) in a row of its own, the state expanded for all; read again if it is empty."""
    with frozen(proxy.model), torch.no_grad():
        if not state.layers:
            whole = collate([put_behind(state.ids, one) for one in examples], proxy.device)
            losses = answer_losses(proxy.model, whole, None, slice_head=proxy.slice_head, tail=proxy.tail)
            return -losses.double().cpu().numpy()
        batch = collate(examples, proxy.device)
        inputs = {"input_ids": batch.ids, "past_key_values": state.cache(len(batch.ids)), "use_cache": True}
        inputs |= {"return_dict": True, **shifted(state, batch.ids)}
        if proxy.slice_head:
            with head_input(proxy.model, lambda hidden: hidden[batch.rows, batch.positions].unsqueeze(0)):
                logits = proxy.model(**inputs).logits[0]
        else:
            logits = proxy.model(**inputs).logits[batch.rows, batch.positions]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    log_p = -torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none").double()
    return log_p.new_zeros(len(batch.ids)).index_add(0, batch.rows, log_p).cpu().numpy()


def generate_packed(
    proxy: "Proxy",
    state: PrefixState,
    queries: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    ended: Ended,
    shared: bool = False,
) -> list[list[int]]:
    """Continue queries packed into one row; those that end leave it to the others."""
    tree, paths = grow(queries)
    last = [path[-1] for path in paths]
    sees = tree.ancestors()
    row = PackedRow(proxy, state, shared=shared)
    logits = row.feed(tree.tokens, tree.depths, sees, last)
    seen, depths = sees[last], [len(query) for query in queries]
    answers: list[list[int]] = [[] for _ in queries]
    active = list(range(len(queries)))
    while True:
        for index, token in zip(active, logits.argmax(-1).tolist(), strict=True):
            answers[index].append(token)
        going = [at for at, index in enumerate(active) if _goes_on(answers[index], max_tokens, ended)]
        active, seen = [active[at] for at in going], seen[going]
        if not active:
            return answers
        seen = np.hstack([seen, np.eye(len(active), dtype=bool)])
        tokens = [answers[index][-1] for index in active]
        places = [depths[index] + len(answers[index]) - 1 for index in active]
        logits = row.feed(tokens, places, seen, list(range(len(active))))


def _goes_on(answer: Sequence[int], max_tokens: int, ended: Ended) -> bool:
    return len(answer) < max_tokens and not ended(answer)


def generate_one(
    proxy: "Proxy", state: PrefixState, query: Sequence[int], *, max_tokens: int, ended: Ended
) -> list[int]:
    """Continue one query with keys and values of its own; without any, reading all again for each token."""
    cache = state.cache() if state.layers else None
    whole, answer, fed = [*state.ids, *query], list[int](), 0
    while True:
        text = [*query, *answer][fed:] if cache else whole + answer
        tokens = torch.tensor([text], device=proxy.device)
        inputs = {"use_cache": cache is not None, "past_key_values": cache, **shifted(state, tokens, fed)}
        with frozen(proxy.model), torch.no_grad(), picked(proxy, slice(-1, None)):
            logits: Tensor = proxy.model(input_ids=tokens, return_dict=True, **inputs).logits
        fed += len(text)
        answer.append(int(logits[0, -1].argmax()))
        if not _goes_on(answer, max_tokens, ended):
            return answer
