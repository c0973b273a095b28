"""Messages as the tokens that a local model reads, for scoring choices and for writing on."""

import json
from collections.abc import Sequence

from icl_plugins.errors import DataError, SettingError
from icl_plugins.evaluation.answers import begin_alike
from icl_plugins.evaluation.local_checks import check_choices, check_lengths, check_requests
from icl_plugins.evaluation.target import Messages
from icl_plugins.prompt import Layout
from icl_plugins.proxy.chat import ChatText, PlainText
from icl_plugins.proxy.continuation import Request, RequestEncoder
from icl_plugins.proxy.model import Proxy


class LocalTexts:
    """How a proxy's tokenizer writes messages down in a layout; what requests begin with is tokenized once.

    Raises SettingError for a chat layout without a chat template.
    """

    def __init__(self, proxy: Proxy, layout: Layout) -> None:
        self.layout = layout
        self._texts = PlainText(proxy.encoder) if layout == "single" else ChatText(proxy.tokenizer)
        self._encoder = RequestEncoder(self._texts.tokenize)
        self._proxy = proxy

    @property
    def end(self) -> str:
        """What the chat template puts behind an answer."""
        return self._texts.end

    def text(self, messages: Messages) -> str:
        """Return the text that the model continues."""
        return self._texts.text(messages)

    def tokens(self, requests: Sequence[Messages], room: int = 0) -> list[list[int]]:
        """Return the tokens of each request; raises DataError, TooLongError unless `room` more fit."""
        check_requests(requests)
        tokens = [ids for ids, _ in self._encoder.tokens([self.text(messages) for messages in requests])]
        for index, ids in enumerate(tokens):
            if not ids:
                raise DataError(
                    f"request {index} has no tokens", expected="a text", fix="correct the request"
                )
        check_lengths([len(ids) + room for ids in tokens], self._proxy.max_length)
        return tokens

    def spans(self, messages: Messages) -> tuple[str, list[tuple[int, int]]]:
        """Return the text of messages, and the characters that each of its tokens covers."""
        text = self.text(messages)
        return text, self._encoder.tokens([text])[0][1]

    def written(self, text: str) -> str:
        """Return how a text stands in that of messages."""
        if self.layout == "json":
            text = json.dumps(text, ensure_ascii=False)[1:-1]
        return self._texts.data(text)

    def requests(self, requests: Sequence[Messages], choices: Sequence[Sequence[str]]) -> list[Request]:
        """Return the tokens of each request with its choices; raises DataError, TooLongError."""
        check_requests(requests)
        check_choices(choices, len(requests))
        texts = [self.text(messages) for messages in requests]
        written = [self._written(own) for own in choices]
        encoded = []
        for index, request in enumerate(self._encoder.requests(texts, written)):
            if request is None:
                raise DataError(
                    f"request {index}: a choice without a token, or nothing in front of it",
                    expected="a text, and choices that are not empty",
                    fix="correct the request or its choices",
                )
            encoded.append(request)
        check_lengths([request.length for request in encoded], self._proxy.max_length)
        return encoded

    def answer(self, ids: Sequence[int]) -> str:
        """Return the text of an answer, without special tokens and what the template puts in front of it."""
        text: str = self._proxy.tokenizer.decode(list(ids), skip_special_tokens=True)
        lead = self._texts.lead
        return "" if lead.startswith(text) else text.removeprefix(lead)

    def _written(self, choices: Sequence[str]) -> list[str]:
        texts = [self._texts.lead + self._texts.data(choice) for choice in choices]
        if self.layout == "single" or not begin_alike(texts):
            return texts
        if not self.end:
            raise SettingError(
                f"choices of which one begins another, among them {min(choices)!r:.80}",
                expected="a chat template that ends an answer, since only their ends tell them apart",
                fix='choose layout="single", or other labels',
            )
        return [text + self.end for text in texts]
