"""What ends an answer, and its text: end tokens, and stop texts that tokens do not respect."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl_plugins.evaluation.local import end_tokens

if TYPE_CHECKING:
    from icl_plugins.evaluation.local_texts import LocalTexts
    from icl_plugins.proxy.model import Proxy


@dataclass(frozen=True)
class Stops:
    """The stop texts of one call."""

    texts: "LocalTexts"
    stop: tuple[str, ...]
    proxy: "Proxy"

    def ended(self, tokens: Sequence[int]) -> bool:
        """Return whether a stop text is there."""
        return bool(self.stop) and self._first(self.texts.decoded(tokens)) is not None

    def finished(self, tokens: Sequence[int]) -> bool:
        """Return whether the answer came to its end, not only to the last token that was allowed."""
        return self.ended(tokens) or (bool(tokens) and tokens[-1] in end_tokens(self.proxy))

    def text(self, tokens: Sequence[int]) -> str:
        """Return the answer, without what ended it and what the chat template puts in front of answers."""
        text = self.texts.decoded(tokens)
        return self.texts.answer(text[: self._first(text)])

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
        found = [text.find(stop) for stop in self.stop]
        return min((at for at in found if at >= 0), default=None)
