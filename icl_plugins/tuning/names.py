"""Other names for classes: words, letters and digits, or the classes' own names changed around."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from icl_plugins.errors import SettingError

_SYMBOLS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
# Ways to write a name of several words: get weather, get_weather, GetWeather.
_JOINED = (" ".join, "_".join, lambda words: "".join(word.capitalize() for word in words))
_PERMUTED, _OF_SYMBOLS = 1 / 3, 1 / 6  # shares among the replaced; the others are invented
_WORD = re.compile(r"[Ġ▁]([a-z]{3,})")
_LEAST_WORDS = 16


def vocabulary_words(tokenizer: Any) -> tuple[str, ...]:
    """Return the lower-case words that are one token behind a space, in order of their ids.

    Names made of them cost what real names cost. Raises SettingError for a vocabulary without such words.
    """
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    words = tuple(dict.fromkeys(match[1] for token in tokens if (match := _WORD.fullmatch(token or ""))))
    if len(words) < _LEAST_WORDS:
        raise SettingError(
            f"a vocabulary with {len(words)} words to make names of",
            expected=f"a tokenizer with at least {_LEAST_WORDS} words of small Latin letters",
            fix="set other_names to 0, or take another model",
        )
    return words


def other_names(names: Sequence[str], words: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Draw a name for each class, all different."""
    way, count = rng.random(), len(names)
    if way < _PERMUTED:
        return [names[at] for at in rng.permutation(count)]
    if way < _PERMUTED + _OF_SYMBOLS and count <= len(_SYMBOLS):
        return [_SYMBOLS[at] for at in rng.choice(len(_SYMBOLS), count, replace=False)]
    size = int(rng.choice([1, 1, 2, 3]))
    while len(words) ** size < 2 * count:
        size += 1
    join, capital = _JOINED[rng.integers(len(_JOINED))], rng.random() < 0.5
    drawn: dict[str, None] = {}
    while len(drawn) < count:
        chosen = [words[at] for at in rng.integers(len(words), size=size)]
        drawn[join([word.capitalize() for word in chosen] if capital else chosen)] = None
    return list(drawn)
