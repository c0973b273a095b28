"""Tokens of texts that begin alike, each with its choices: what is common is tokenized once."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from icl_plugins.proxy.encoding import Encoded, Tokens

# (texts, whether they begin a sequence) -> tokens of each, without any that the tokenizer puts at the end.
Tokenize = Callable[[Sequence[str], bool], list[Tokens]]

# Tokens on either side of the place where two tokenizations are joined, and how many of them must agree.
_OVERLAP, _AGREE = 12, 4
# Tokens of a run that are rather read again than put into another run.
_SLACK = 256


@dataclass(frozen=True)
class Request:
    """A text with its choices, as a model reads them.

    stem: the tokens that all of them begin with, at least one short of any answer. choices: what comes behind
    the stem, the choice being the answer.
    """

    stem: list[int]
    choices: list[Encoded]

    @property
    def length(self) -> int:
        """How many tokens the text has with its longest choice."""
        return len(self.stem) + max(len(choice.ids) for choice in self.choices)

    def behind(self, length: int) -> list[Encoded]:
        """Return the choices as they come behind the first `length` tokens of the stem."""
        rest = self.stem[length:]
        return [
            Encoded(rest + one.ids, len(rest) + one.answer_start, len(rest) + one.answer_stop)
            for one in self.choices
        ]


class RequestEncoder:
    """Tokenizes texts as if each were alone, and the long text that they begin with only once.

    tokens of the last such text are kept, so that a call for every query costs no more than one for all.
    """

    def __init__(self, tokenize: Tokenize) -> None:
        self._tokenize = tokenize
        self._text = ""
        self._tokens: Tokens = ([], [])

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the tokens of each text."""
        common = min(texts)[: common_length(min(texts), max(texts))]
        cut = common_length(common, self._text)
        if 2 * cut <= len(common):
            self._text, self._tokens, cut = common, self._tokenize([common], True)[0], len(common)
        kept, rests = behind(
            self._tokenize, self._text[:cut], _cut(self._tokens, cut), [text[cut:] for text in texts]
        )
        ids, spans = self._tokens
        return [(ids[:kept] + own_ids, spans[:kept] + own_spans) for own_ids, own_spans in rests]

    def requests(self, texts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[Request | None]:
        """Return each text with its choices; None where a choice has no token, or no token before it."""
        return [
            _request(self._tokenize, text, tokens, own)
            for text, tokens, own in zip(texts, self.tokens(texts), choices, strict=True)
        ]


def behind(tokenize: Tokenize, text: str, tokens: Tokens, tails: Sequence[str]) -> tuple[int, list[Tokens]]:
    """Return how many tokens of the text stay whatever follows, and for each tail those that come next.

    Together they are the tokens of text + tail. Only the end of the text is tokenized again: where a token
    begins at the same place both times, and its neighbours are the same, what follows does not depend on what
    stood before. Nothing is kept where they differ.
    """
    ids, spans = tokens
    joins = range(len(ids) - _OVERLAP, _OVERLAP, -1)
    join = next((at for at in joins if spans[at][0] >= spans[at - 1][1]), 0)
    if join:
        first = spans[join - _OVERLAP][0]
        windows = tokenize([text[first:] + tail for tail in tails], False)
        rests = [_rest(tokens, join, first, window) for window in windows]
        if None not in rests:
            return join, [rest for rest in rests if rest]
    return 0, tokenize([text + tail for tail in tails], True)


def _rest(tokens: Tokens, join: int, first: int, window: Tokens) -> Tokens | None:
    """Return the window's tokens from the join on; None if the whole text has others around it."""
    (ids, spans), (own, own_spans) = tokens, window
    place = spans[join][0] - first
    at = next((at for at, (start, _) in enumerate(own_spans) if start >= place), 0)
    if at < _AGREE or own_spans[at][0] != place:
        return None
    if own[at - _AGREE : at + _AGREE] != ids[join - _AGREE : join + _AGREE]:
        return None
    return own[at:], [(start + first, stop + first) for start, stop in own_spans[at:]]


def _cut(tokens: Tokens, length: int) -> Tokens:
    """Return the tokens within the first `length` characters."""
    ids, spans = tokens
    count = bisect_right(spans, length, key=lambda span: span[1])
    return ids[:count], spans[:count]


def _request(tokenize: Tokenize, text: str, tokens: Tokens, choices: Sequence[str]) -> Request | None:
    kept, rests = behind(tokenize, text, tokens, choices)
    encoded = []
    for ids, spans in rests:
        answer = [at for at, (start, stop) in enumerate(spans) if stop > max(start, len(text))]
        if not answer or kept + answer[0] == 0:
            return None
        encoded.append(Encoded(ids, answer[0], answer[-1] + 1))
    first, last = min(one.ids for one in encoded), max(one.ids for one in encoded)
    shared = min(common_length(first, last), min(one.answer_start for one in encoded) - 1)
    choices_behind = [
        Encoded(one.ids[shared:], one.answer_start - shared, one.answer_stop - shared) for one in encoded
    ]
    return Request(tokens[0][:kept] + encoded[0].ids[:shared], choices_behind)


def common_length(one: Any, other: Any) -> int:
    """Return how many items two texts or lists begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def shared_runs(stems: Sequence[list[int]]) -> list[tuple[int, list[int]]]:
    """Group stems by what they begin with -> (length of the common prefix, rows) of each group.

    A stem joins the group that it shares most with, unless the tokens behind the prefix would then be more
    than those of the prefix.
    """
    runs: list[tuple[int, list[int]]] = []
    for row, stem in enumerate(stems):
        shared = [common_length(stem, stems[rows[0]][:length]) for length, rows in runs]
        best = max(range(len(runs)), key=shared.__getitem__, default=None)
        if best is not None:
            (length, rows), common = runs[best], shared[best]
            if max(len(rows) * (length - common), len(stem) - common) <= common + _SLACK:
                runs[best] = common, [*rows, row]
                continue
        runs.append((len(stem), [row]))
    return runs
