"""Text to token ids: demonstrations with their answer tokens, special tokens never read from data."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from icl_plugins.errors import DataError, ProxyError

Tokens = tuple[list[int], list[tuple[int, int]]]  # ids, and the characters (start, stop) each one covers


@dataclass(frozen=True)
class Encoded:
    """One tokenized demonstration.

    ids: all tokens, those the tokenizer adds by itself (BOS) included; ids[answer_start:answer_stop] is the
    answer.
    """

    ids: list[int]
    answer_start: int
    answer_stop: int


class TextEncoder:
    """A private copy of a fast tokenizer, in which every text of the data is nothing but text.

    The caller's tokenizer is only read. Raises ProxyError for a tokenizer without character offsets, since
    the answer's tokens could then not be found.
    """

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ProxyError(
                f"got a tokenizer of type {type(tokenizer).__name__}",
                expected="a fast tokenizer (tokenizer.json), which reports character offsets",
                fix="save it once as tokenizer.json with AutoTokenizer, or choose another proxy",
            )
        self._backend = Tokenizer.from_str(backend.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        self._backend.encode_special_tokens = True
        added = self._backend.get_added_tokens_decoder()
        self._special = {token_id: token.content for token_id, token in added.items() if token.special}
        self._special_ids = frozenset(self._special)

    @property
    def fingerprint(self) -> str:
        """sha256 of the tokenizer's serialised definition, truncation and padding left out."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()

    @cached_property
    def leading(self) -> int:
        """How many tokens (BOS) the tokenizer puts in front of every text by itself."""
        spans = self._backend.encode("a").offsets
        return next((at for at, (start, stop) in enumerate(spans) if stop > start), len(spans))

    @property
    def largest_id(self) -> int:
        """The largest token id the tokenizer can produce."""
        return max(self._backend.get_vocab(with_added_tokens=True).values(), default=0)

    def tokenize(self, texts: Sequence[str], *, add_special_tokens: bool = True) -> list[Tokens]:
        """Return ids and character spans of each text; tokens the tokenizer adds have an empty span."""
        lead = self.leading if add_special_tokens else 0
        tokens = []
        for text, encoding in zip(
            texts, self._backend.encode_batch(list(texts), add_special_tokens=add_special_tokens), strict=True
        ):
            ids, spans = encoding.ids, encoding.offsets
            plain = self._special_ids.isdisjoint(ids[lead:])
            tokens.append((ids, spans) if plain else self._special_as_text(text, ids, spans))
        return tokens

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, without those the tokenizer adds by itself."""
        return [len(ids) for ids, _ in self.tokenize(texts, add_special_tokens=False)]

    def demonstrations(self, questions: Sequence[str], answers: Sequence[str]) -> list[Encoded]:
        """Tokenize each question with its answer, as rendered, in one piece, and find the answer's tokens.

        A token belongs to the answer when it covers at least one of its characters: at the seam, a token that
        holds the question's last space and the answer's first word is an answer token, as it is in the prompt
        that the target reads. Raises DataError naming the rows whose answer has no token.
        """
        texts = [question + answer for question, answer in zip(questions, answers, strict=True)]
        encoded, empty = [], []
        for row, (ids, spans) in enumerate(self.tokenize(texts)):
            seam = len(questions[row])
            covered = [at for at, (start, stop) in enumerate(spans) if stop > max(start, seam)]
            if not covered:
                empty.append(row)
                continue
            encoded.append(Encoded(ids, covered[0], covered[-1] + 1))
        if empty:
            raise DataError(
                f"{len(empty)} examples have no answer tokens (rows {empty[:5]})",
                expected="an answer of at least one token in every example",
                fix="remove these examples or complete their answers",
            )
        return encoded

    def _special_as_text(self, text: str, ids: list[int], spans: list[tuple[int, int]]) -> Tokens:
        """Cut in two every special token that was written out in the text.

        Needed for unigram models, and BPE that looks words up whole: both find "</s>" in their vocabulary.
        """
        plain_ids: list[int] = []
        plain_spans: list[tuple[int, int]] = []
        for token_id, (start, stop) in zip(ids, spans, strict=True):
            content = self._special.get(token_id, "")
            if len(content) > 1 and text[start:stop].strip() == content:
                first = text.index(content, start) + 1
                pieces = [*self._pieces(text, start, first), *self._pieces(text, first, stop)]
            else:
                pieces = [(token_id, (start, stop))]
            plain_ids.extend(piece_id for piece_id, _ in pieces)
            plain_spans.extend(span for _, span in pieces)
        return plain_ids, plain_spans

    def _pieces(self, text: str, start: int, stop: int) -> list[tuple[int, tuple[int, int]]]:
        encoding = self._backend.encode(text[start:stop], add_special_tokens=False)
        spans = [(start + left, start + right) for left, right in encoding.offsets]
        return list(zip(encoding.ids, spans, strict=True))
