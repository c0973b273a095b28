"""Losses of answers with demonstrations in front, as the target will read them."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from icl_plugins.errors import DataError, TooLongError

if TYPE_CHECKING:
    from torch import Tensor

    from icl_plugins.proxy.encoding import Encoded
    from icl_plugins.proxy.forward import Batch
    from icl_plugins.proxy.model import Proxy


def context_losses(
    proxy: "Proxy",
    demonstrations: Sequence[str],
    separator: str,
    questions: Sequence[str],
    answers: Sequence[str],
) -> np.ndarray:
    """Return (N,) nats: -log p(answer | demonstrations, question), summed over the answer's tokens.

    The demonstrations go through the model once; their keys and values serve every question, unless the
    model keeps something else of them (recurrent layers): then they are read again with each.
    Raises TooLongError when demonstrations and a question do not fit the proxy.
    """
    import torch

    from icl_plugins.proxy.batching import run_batches
    from icl_plugins.proxy.forward import answer_losses, collate, frozen

    context, examples = _encode(proxy, demonstrations, separator, questions, answers)
    losses = np.empty(len(examples))
    with frozen(proxy.model), torch.no_grad():
        cache = _read(proxy, torch.tensor([context], device=proxy.device))
        # Of the context a batch holds only copied keys and values, far less than a token's activations.
        ahead = 0 if cache is None else len(context) // 8
        if cache is None:
            examples = [_behind(context, example) for example in examples]

        def compute(rows: list[int]) -> "Tensor":
            batch = collate([examples[row] for row in rows], proxy.device)
            if cache is None:
                return answer_losses(proxy.model, batch, None, slice_head=proxy.slice_head)
            return _losses(proxy, cache, batch)

        lengths = [len(example.ids) + ahead for example in examples]
        for rows, values in run_batches(lengths, proxy.budget, compute):
            losses[rows] = values.double().cpu().numpy()
    return losses


def _encode(
    proxy: "Proxy",
    demonstrations: Sequence[str],
    separator: str,
    questions: Sequence[str],
    answers: Sequence[str],
) -> "tuple[list[int], list[Encoded]]":
    """Tokenize the context, less its last token, and each question with answer, that token in front.

    Questions are tokenized behind the last demonstration, so that they have the tokens of the whole prompt.
    """
    from icl_plugins.proxy.encoding import Encoded

    ((context, spans),) = proxy.encoder.tokenize(["".join(text + separator for text in demonstrations)])
    while spans[-1][1] == 0:  # an EOS that the tokenizer adds
        context, spans = context[:-1], spans[:-1]
    before = demonstrations[-1] + separator
    texts = [before + question + answer for question, answer in zip(questions, answers, strict=True)]
    behind = proxy.encoder.tokenize(texts, add_special_tokens=False)
    examples = []
    for row, (ids, spans) in enumerate(behind):
        start = _first_behind(len(before), spans)
        answer = _first_behind(len(before) + len(questions[row]), spans)
        if answer == len(ids):
            raise DataError(
                f"the answer {answers[row]!r:.80} has no tokens", expected="one at least", fix="complete it"
            )
        examples.append(Encoded([context[-1], *ids[start:]], answer - start + 1, len(ids) - start + 1))
    longest = len(context) - 1 + max(len(example.ids) for example in examples)
    if longest > proxy.max_length:
        raise TooLongError(
            f"{len(demonstrations)} demonstrations and a question of {longest} tokens together",
            expected=f"at most {proxy.max_length} tokens, the context of the proxy {proxy.name!r}",
            fix="set max_tokens, lower shots, or choose a proxy with a longer context",
        )
    return context[:-1], examples


def _first_behind(place: int, spans: Sequence[tuple[int, int]]) -> int:
    """Return the position of the first token that covers a character at `place` or later."""
    return next((at for at, (_, stop) in enumerate(spans) if stop > place), len(spans))


def _behind(context: list[int], example: "Encoded") -> "Encoded":
    from icl_plugins.proxy.encoding import Encoded

    ids = context + example.ids
    return Encoded(ids, example.answer_start + len(context), example.answer_stop + len(context))


def _read(proxy: "Proxy", ids: "Tensor") -> Any:
    """Return the keys and values of one sequence (1, T); None if they cannot be copied for a batch."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    from icl_plugins.proxy.forward import head_input

    # Logits of the whole context would be the largest tensor of all, and nobody reads them.
    last = head_input(proxy.model, lambda hidden: hidden[:, -1:]) if proxy.slice_head else nullcontext()
    with last:
        output = proxy.model(input_ids=ids, use_cache=True, return_dict=True)
    cache = getattr(output, "past_key_values", None)
    plain = [
        type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in getattr(cache, "layers", ())
    ]
    return cache if plain and all(plain) else None


def _shared(cache: Any, size: int) -> Any:
    """Return the keys and values for a batch of `size`, as views: a model that adds to them makes copies."""
    own = copy.copy(cache)
    own.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in own.layers:
        layer.keys = layer.keys.expand(size, -1, -1, -1)
        layer.values = layer.values.expand(size, -1, -1, -1)
    return own


def _losses(proxy: "Proxy", cache: Any, batch: "Batch") -> "Tensor":
    """Return (B,) losses of the answers of a batch that goes on where the cache ends."""
    import torch

    from icl_plugins.proxy.forward import head_input

    own = _shared(cache, len(batch.ids))
    inputs = {"input_ids": batch.ids, "past_key_values": own, "use_cache": True, "return_dict": True}
    if proxy.slice_head:
        with head_input(proxy.model, lambda hidden: hidden[batch.rows, batch.positions].unsqueeze(0)):
            logits = proxy.model(**inputs).logits[0]
    else:
        logits = proxy.model(**inputs).logits[batch.rows, batch.positions]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    per_token = torch.nn.functional.cross_entropy(logits, batch.targets, reduction="none")
    return per_token.new_zeros(len(batch.ids)).index_add(0, batch.rows, per_token)
