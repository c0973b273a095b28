"""What became of plain text: how likely it was and is, and how far the predictions have moved."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.errors import DataError, NonFiniteError, SettingError

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

_WINDOW = 1024  # tokens: the logits of more would take much memory


@dataclass(frozen=True)
class TextChange:
    """Nats per token of plain text before and after, and KL(base || tuned), each the mean over all tokens."""

    before: float
    after: float
    divergence: float
    tokens: int


def text_change(
    base: "Proxy", tuned: "Proxy", text: Sequence[str], *, window: int | None = None
) -> TextChange:
    """Read documents in windows that do not overlap, with both models; every token counts the same.

    window: tokens, None for as many as both models read, at most 1,024. A model that was not touched changes
    by exactly 0. Raises SettingError for models with different tokenizers or a window that does not fit,
    DataError for no text and documents without a token to predict, NonFiniteError where a model gives no
    numbers.
    """
    windows = _windows(base, text, _size(base, tuned, window))
    sums, tokens = np.zeros(3), 0
    for ids in windows:
        found, count = _compare(base, tuned, ids)
        sums, tokens = sums + found, tokens + count
    if not np.isfinite(sums).all():
        raise NonFiniteError(
            f"predictions of {base.name!r} or {tuned.name!r} that are not numbers",
            expected="finite numbers",
            fix='load both with dtype="float32"',
        )
    before, after, divergence = (sums / tokens).tolist()
    return TextChange(before, after, divergence, tokens)


def _compare(base: "Proxy", tuned: "Proxy", ids: list[int]) -> tuple[np.ndarray, int]:
    """Return the sums (3,) of both models' nats and of KL(base || tuned), and over how many tokens."""
    import torch

    from icl_plugins.proxy.forward import frozen
    from icl_plugins.tuning.objective import logits_at, nats
    from icl_plugins.tuning.rows import collate
    from icl_plugins.tuning.sequences import Sequence as Tokens
    from icl_plugins.tuning.sequences import Weighting

    batch = collate([[Tokens(ids)]], Weighting())

    def logits(proxy: "Proxy") -> torch.Tensor:
        with frozen(proxy.model):
            return logits_at(
                proxy.model, {name: values.to(proxy.device) for name, values in batch.items()}
            ).cpu()

    with torch.no_grad():
        before, after = logits(base), logits(tuned)
        divergence = torch.nn.functional.kl_div(
            after.log_softmax(-1), before.log_softmax(-1), reduction="sum", log_target=True
        )
        sums = [float(nats(one, batch).sum()) for one in (before, after)]
    return np.array([*sums, float(divergence)]), len(batch["targets"])


def _size(base: "Proxy", tuned: "Proxy", window: int | None) -> int:
    """Return the tokens of a window; raises SettingError for models that cannot be compared."""
    sizes = [len(proxy.model.get_input_embeddings().weight) for proxy in (base, tuned)]
    if base.encoder.fingerprint != tuned.encoder.fingerprint or sizes[0] != sizes[1]:
        raise SettingError(
            f"{base.name!r} and {tuned.name!r} have different tokenizers",
            expected="a model and what it was tuned to",
            fix="load the base that the tuned model was made from",
        )
    most = min(base.max_length, tuned.max_length)
    if window is None:
        return min(most, _WINDOW)
    if whole_number("window", window, max(2, base.encoder.leading + 1)) > most:
        raise SettingError(
            f"window={window:,}", expected=f"at most {most:,} tokens, the models' context", fix="lower it"
        )
    return window


def _windows(proxy: "Proxy", text: Sequence[str], window: int) -> list[list[int]]:
    """Return the tokens of all windows, each behind what the tokenizer puts in front of a text."""
    if isinstance(text, str) or not text:
        raise DataError(
            "text: one string" if text else "no text",
            expected="a list of documents",
            fix="put it into a list" if text else "give at least one document",
        )
    lead = proxy.encoder.leading
    front = proxy.encoder.tokenize(["a"])[0][0][:lead]
    documents = [ids for ids, _ in proxy.encoder.tokenize(text, add_special_tokens=False)]
    empty = [row for row, ids in enumerate(documents) if lead + len(ids) < 2]
    if empty:
        raise DataError(
            f"{len(empty)} documents without a token to predict (rows {empty[:5]})",
            expected="text in every document",
            fix="leave the empty ones out",
        )
    size = window - lead
    pieces = [front + ids[at : at + size] for ids in documents for at in range(0, len(ids), size)]
    return [piece for piece in pieces if len(piece) > 1]  # a last token alone has nothing in front of it
