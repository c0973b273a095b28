"""Losses of answers with demonstrations in front, as the target will read them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from icl_plugins.errors import DataError, TooLongError

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


def context_losses(
    proxy: "Proxy",
    demonstrations: Sequence[str],
    separator: str,
    questions: Sequence[str],
    answers: Sequence[str],
) -> np.ndarray:
    """Return (N,) nats: -log p(answer | demonstrations, question), summed over the answer's tokens.

    The demonstrations go through the model once, as far as it can share what it keeps of them.
    Raises TooLongError when demonstrations and a question do not fit the proxy.
    """
    choices = [[answer] for answer in answers]
    return -np.concatenate(context_scores(proxy, demonstrations, separator, questions, choices))


def context_scores(
    proxy: "Proxy",
    demonstrations: Sequence[str],
    separator: str,
    questions: Sequence[str],
    choices: Sequence[Sequence[str]],
) -> list[np.ndarray]:
    """Return for each question log p of each of its choices, as `context_losses` has its negative."""
    from icl_plugins.proxy.chat import PlainText
    from icl_plugins.proxy.continuation import RequestEncoder
    from icl_plugins.proxy.token_tree import common_length

    context = "".join(text + separator for text in demonstrations)
    encoder = RequestEncoder(PlainText(proxy.encoder).tokenize)
    requests = []
    for row, request in enumerate(encoder.requests([context + question for question in questions], choices)):
        if request is None:
            raise DataError(
                f"among the answers {choices[row]!r:.80} one has no tokens",
                expected="one at least",
                fix="complete it",
            )
        requests.append(request)
    longest = max(request.length for request in requests)
    if longest > proxy.max_length:
        raise TooLongError(
            f"{len(demonstrations)} demonstrations and a question of {longest} tokens together",
            expected=f"at most {proxy.max_length} tokens, the context of the proxy {proxy.name!r}",
            fix="set max_tokens, lower shots, or choose a proxy with a longer context",
        )
    stems = [request.stem for request in requests]
    common = common_length(min(stems), max(stems))
    shared = proxy.shared_prefix
    state = shared.read(stems[0][:common])
    found: dict[int, np.ndarray] = {}
    for rows, scores in shared.score(state, [request.behind(common) for request in requests]):
        found.update(zip(rows, scores, strict=True))
    return [found[row] for row in range(len(requests))]
