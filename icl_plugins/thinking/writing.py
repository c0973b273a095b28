"""The text of an answer, and the stop texts that end it, which tokens do not respect."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from icl_plugins.evaluation.local_texts import LocalTexts


@dataclass(frozen=True)
class Stops:
    """What ends the answers of one call.

    stop: texts, which are looked for behind `lead`, the space that answers begin with. ends: tokens.
    """

    texts: "LocalTexts"
    stop: tuple[str, ...]
    ends: frozenset[int]
    lead: str = ""

    def ended(self, tokens: Sequence[int]) -> bool:
        """Return whether a stop text is there."""
        return bool(self.stop) and self._first(self.texts.answer(tokens)) is not None

    def text(self, tokens: Sequence[int]) -> str:
        """Return the answer, without what ended it and what the chat template puts in front of answers."""
        whole = bool(tokens) and tokens[-1] in self.ends
        text = self.texts.answer(tokens[:-1] if whole else tokens)
        return text[: self._first(text)]

    def certain(self, tokens: Sequence[int]) -> str:
        """Return the part of the text that no further token can change or cut away."""
        text = self.text(tokens)
        if self.ended(tokens):
            return text
        lengths = range(1, 1 + max(map(len, self.stop), default=0))
        begun = (n for n in lengths if any(text.endswith(one[:n]) for one in self.stop))
        text = text[: len(text) - max(begun, default=0)]
        return text.rstrip("\ufffd")  # the first bytes of a character that is not whole yet

    def _first(self, text: str) -> int | None:
        start = len(self.lead) if text.startswith(self.lead) else 0
        found = [text.find(stop, start) for stop in self.stop]
        return min((at for at in found if at >= 0), default=None)
