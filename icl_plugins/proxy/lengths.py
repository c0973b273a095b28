"""How long an example may be for a proxy, and what becomes of those that are longer."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from icl_plugins.errors import SettingError, TooLongError
from icl_plugins.proxy.encoding import Encoded

OnTooLong = Literal["error", "skip", "truncate"]


def max_length(config: Any, tokenizer: Any) -> tuple[int, str]:
    """Return how many tokens the model reads at once, and where that is written."""
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    positions = getattr(text_config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        return positions, "the model's max_position_embeddings"
    if tokenizer.model_max_length < 1e9:
        return int(tokenizer.model_max_length), "the tokenizer's model_max_length"
    return 2048, "neither model nor tokenizer states a length"


def fit(examples: Sequence[Encoded], limit: int, lead: int, on_too_long: OnTooLong) -> list[Encoded | None]:
    """Return the examples with those above ``limit`` tokens refused, skipped (None) or shortened.

    lead: how many tokens in front (BOS) are never cut away. Raises TooLongError, SettingError.
    """
    if on_too_long not in ("error", "skip", "truncate"):
        raise SettingError(
            f"got on_too_long={on_too_long!r}", expected='"error", "skip" or "truncate"', fix="choose one"
        )
    fitted: list[Encoded | None] = list(examples)
    refused = {}
    for row, example in enumerate(examples):
        if len(example.ids) <= limit:
            continue
        fitted[row] = shorten(example, limit, lead) if on_too_long == "truncate" else None
        if fitted[row] is None and on_too_long != "skip":
            refused[row] = len(example.ids)
    if refused:
        raise too_long(refused, limit)
    return fitted


def shorten(example: Encoded, limit: int, lead: int) -> Encoded | None:
    """Drop the question's first tokens until ``limit`` are left; the ``lead`` in front and the answer stay.

    None when the answer does not fit even without a question.
    """
    surplus = len(example.ids) - limit
    if surplus > example.answer_start - lead:
        return None
    ids = example.ids[:lead] + example.ids[lead + surplus :]
    return Encoded(ids, example.answer_start - surplus, example.answer_stop - surplus)


def too_long(lengths: Mapping[int, int], limit: int) -> TooLongError:
    """Return the error that names the first five rows with their lengths in tokens."""
    first = ", ".join(f"{row} ({length} tokens)" for row, length in list(lengths.items())[:5])
    return TooLongError(
        f"{len(lengths)} examples are too long for the proxy: rows {first}",
        expected=f"at most {limit} tokens",
        fix='shorten them, set on_too_long to "skip" or "truncate", or choose a proxy with a longer context',
    )
