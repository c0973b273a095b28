"""Tokens of texts that begin alike, each with its choices: what is common is tokenized once."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from icl_plugins.proxy.encoding import Encoded, Tokens
from icl_plugins.proxy.token_tree import common_length, put_behind

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
        return [put_behind(self.stem[length:], choice) for choice in self.choices]


class RequestEncoder:
    """Tokenizes texts as if each were alone, and the long text that they begin with only once.

    The tokens of the last such text are kept, so that a call for every query costs no more than one for all.
    """

    def __init__(self, tokenize: Tokenize) -> None:
        self._tokenize = tokenize
        self._kept: tuple[str, Tokens] = ("", ([], []))  # one value, since threads share it

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the tokens of each text."""
        lowest, highest = min(texts, default=""), max(texts, default="")
        common = lowest[: common_length(lowest, highest)]
        text, tokens = self._kept
        cut = common_length(common, text)
        if 2 * cut <= len(common):
            text, tokens, cut = common, self._tokenize([common], True)[0], len(common)
            self._kept = (text, tokens)
        ids, spans = _cut(tokens, cut)
        tails = [one[cut:] for one in texts]
        kept, first, rests = go_on(self._tokenize, text[:cut], (ids, spans), tails)
        return [
            (ids[:kept] + own, spans[:kept] + [(start + first, stop + first) for start, stop in own_spans])
            for own, own_spans in rests
        ]

    def requests(self, texts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[Request | None]:
        """Return each text with its choices; None where a choice has no token, or no token before it."""
        return [
            _request(self._tokenize, text, tokens, own)
            for text, tokens, own in zip(texts, self.tokens(texts), choices, strict=True)
        ]


def go_on(
    tokenize: Tokenize, text: str, tokens: Tokens, tails: Sequence[str]
) -> tuple[int, int, list[Tokens]]:
    """Return how many tokens of the text stay whatever follows, and for each tail those that come next.

    Together they are the tokens of text + tail; spans of the next ones count from the character that is
    returned in between. Only the end of the text is tokenized again: where a token begins at the same place
    both times, and its neighbours are the same, what follows does not depend on what stood before. Nothing
    is kept where they differ.
    """
    ids, spans = tokens
    joins = range(len(ids) - _OVERLAP, _OVERLAP, -1)
    join = next((at for at in joins if spans[at][0] >= spans[at - 1][1]), _OVERLAP)
    # Tokenizers cut a text at its spaces, then its words: begun inside a number it may be cut differently.
    first = max(text.rfind(space, 0, spans[join - _OVERLAP][0]) for space in " \n") if joins else -1
    if first >= 0:
        windows = tokenize([text[first:] + tail for tail in tails], False)
        around = ids[join - _AGREE : join + _AGREE]
        rests = [_rest(window, spans[join][0] - first, around) for window in windows]
        if None not in rests:
            return join, first, [rest for rest in rests if rest]
    return 0, 0, tokenize([text + tail for tail in tails], True)


def _rest(window: Tokens, place: int, around: list[int]) -> Tokens | None:
    """Return the window's tokens from the character on; None if the tokens around it are others."""
    ids, spans = window
    at = bisect_left(spans, place, key=lambda span: span[0])
    agrees = at < len(spans) and spans[at][0] == place and ids[max(0, at - _AGREE) : at + _AGREE] == around
    return (ids[at:], spans[at:]) if agrees else None


def _cut(tokens: Tokens, length: int) -> Tokens:
    """Return the tokens within the first `length` characters."""
    ids, spans = tokens
    count = bisect_right(spans, length, key=lambda span: span[1])
    return ids[:count], spans[:count]


def _request(tokenize: Tokenize, text: str, tokens: Tokens, choices: Sequence[str]) -> Request | None:
    kept, first, rests = go_on(tokenize, text, tokens, choices)
    encoded = []
    for ids, spans in rests:
        covering = [at for at, (start, stop) in enumerate(spans) if stop > start and stop + first > len(text)]
        if not covering or kept + covering[0] == 0:
            return None
        encoded.append(Encoded(ids, covering[0], covering[-1] + 1))
    lowest, highest = min(one.ids for one in encoded), max(one.ids for one in encoded)
    shared = min(common_length(lowest, highest), min(one.answer_start for one in encoded) - 1)
    return Request(
        tokens[0][:kept] + lowest[:shared],
        [Encoded(one.ids[shared:], one.answer_start - shared, one.answer_stop - shared) for one in encoded],
    )


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
