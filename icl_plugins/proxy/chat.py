"""Messages as one text that the model continues: plain, or through the tokenizer's chat template."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from icl_plugins.errors import DataError, SettingError
from icl_plugins.prompt import Layout
from icl_plugins.proxy.encoding import TextEncoder, Tokens

Messages = Sequence[Mapping[str, str]]

# Cuts what data wrote like a special token; a code point that Unicode keeps free for such uses.
_CUT = "\ufdd0"
_SAMPLE = "\u25a1"


class PlainText:
    """The contents of the messages, one behind the other.

    lead, end: what stands between a text and its answer, and behind the answer: nothing.
    """

    lead = end = ""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder

    def data(self, text: str) -> str:
        """Return the text as it is: nothing in it is read as a special token."""
        return text

    def text(self, messages: Messages) -> str:
        """Return the text that the model continues."""
        return "".join(message["content"] for message in messages)

    def tokenize(self, texts: Sequence[str], begin: bool) -> list[Tokens]:
        """Return tokens of each text; `begin`: with those the tokenizer puts in front; none at the end."""
        tokens = self._encoder.tokenize(texts, add_special_tokens=begin)
        return [_without_end(one, self._encoder.leading if begin else 0) for one in tokens]


class ChatText:
    """The messages as the chat template of a tokenizer writes them, the assistant's turn begun.

    lead, end: what the template puts in front of an answer and behind it. What the template writes may be
    special tokens, what the messages hold never is. Raises SettingError for a tokenizer without a template.
    """

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers import Tokenizer

        if not getattr(tokenizer, "chat_template", None):
            raise SettingError(
                "a chat layout for a tokenizer without a chat template",
                expected='layout="single", or the tokenizer of a chat model',
                fix='pass layout="single"',
            )
        self._tokenizer = tokenizer
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.no_padding()
        self._backend.no_truncation()
        added = self._backend.get_added_tokens_decoder().values()
        special = sorted(
            (re.escape(token.content) for token in added if token.special and len(token.content) > 1),
            key=len,
            reverse=True,
        )
        self._special = re.compile("|".join(special) or "(?!)")
        self.lead, self.end = self._around_answer()

    def data(self, text: str) -> str:
        """Return the text with a cut in everything that is written like a special token."""
        if _CUT in text:
            raise DataError(
                f"the noncharacter U+{ord(_CUT):04X} in a text", expected="text", fix="remove the character"
            )
        return self._special.sub(lambda found: f"{found[0][0]}{_CUT}{found[0][1:]}", text)

    def text(self, messages: Messages) -> str:
        """Return the text that the model continues; raises DataError if the template refuses the messages."""
        own = [{"role": message["role"], "content": self.data(message["content"])} for message in messages]
        return self._render(own, begun=True)

    def tokenize(self, texts: Sequence[str], begin: bool) -> list[Tokens]:
        """Return tokens of each text; the template has written all special tokens there are to be."""
        return [self._tokens(text) for text in texts]

    def _tokens(self, text: str) -> Tokens:
        ids, spans, start = list[int](), list[tuple[int, int]](), 0
        for piece in text.split(_CUT):
            encoding = self._backend.encode(piece, add_special_tokens=False)
            ids += encoding.ids
            spans += [(start + left, start + right) for left, right in encoding.offsets]
            start += len(piece) + len(_CUT)
        return ids, spans

    def _render(self, messages: list[dict[str, str]], *, begun: bool) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=begun
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            roles = ", ".join(message["role"] for message in messages[:4])
            raise DataError(
                f"the chat template refuses messages of the roles {roles}, ...: {error}",
                expected="messages that the tokenizer's chat template can write",
                fix='leave out the instruction, or choose layout="single"',
            ) from error
        return text

    def _around_answer(self) -> tuple[str, str]:
        question, answer = ({"role": role, "content": _SAMPLE} for role in ("user", "assistant"))
        begun = self._render([question], begun=True)
        whole = self._render([question, answer], begun=False)
        found = whole.rfind(_SAMPLE)
        lead = whole[len(begun) : found] if whole.startswith(begun) else ""
        return lead, whole[found + len(_SAMPLE) :]


def chat_template(tokenizer: Any, layout: Layout) -> str:
    """Return what writes messages down in a layout, besides the tokenizer: nothing in "single"."""
    return "" if layout == "single" else repr(tokenizer.chat_template)


def _without_end(tokens: Tokens, lead: int) -> Tokens:
    ids, spans = tokens
    stop = len(ids)
    while stop > lead and spans[stop - 1][1] == 0:  # an EOS that the tokenizer adds
        stop -= 1
    return ids[:stop], spans[:stop]
