"""LocalTarget: a model on this machine; what the requests begin with is read once."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.artefacts import fingerprint
from icl_plugins.evaluation.local_checks import check_settings
from icl_plugins.evaluation.target import Answer, Messages, OnAnswer, Usage
from icl_plugins.prompt import Layout

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy
    from icl_plugins.proxy.prefix_state import PrefixState


class LocalTarget:
    """A causal LM in this process, as a ScoringTarget; the model and its tokenizer stay as they came.

    layout: "single" continues the messages' contents as plain text; "turns" and "json" go through the
    tokenizer's chat template. length_norm: scores are divided by the number of the choice's tokens. stop:
    texts at which generated answers end, such as the separator of a plain prompt.

    The longest token prefix of requests that come together is read once, and the last one is kept for the
    next call. Raises SettingError for a chat layout without a chat template, or wrong settings.
    """

    def __init__(
        self,
        proxy: "Proxy",
        *,
        layout: Layout = "single",
        length_norm: bool = False,
        stop: Sequence[str] = (),
    ) -> None:
        from icl_plugins.evaluation.local_texts import LocalTexts
        from icl_plugins.proxy.prefix_state import PrefixState

        check_settings(layout, stop, length_norm)
        self.proxy = proxy
        self.length_norm, self.stop = length_norm, tuple(stop)
        self.texts = LocalTexts(proxy, layout)
        self._shared = proxy.shared_prefix
        self._state = PrefixState()
        self.reasons = {**proxy.reasons, "shared prefix": self._shared.reason}

    @classmethod
    def load(
        cls,
        name_or_path: str | Path = "micro",
        *,
        layout: Layout = "single",
        device: str = "auto",
        dtype: str = "auto",
        length_norm: bool = False,
        stop: Sequence[str] = (),
    ) -> Self:
        """Load "micro", a folder, or a Hugging Face id, as Proxy.load does; raises what it raises."""
        from icl_plugins.proxy.model import Proxy

        check_settings(layout, stop, length_norm)
        return cls(Proxy.load(name_or_path, device, dtype), layout=layout, length_norm=length_norm, stop=stop)

    @property
    def name(self) -> str:
        """The name of the model, as given."""
        return self.proxy.name

    @property
    def layout(self) -> Layout:
        """The layout of the messages that it is to be given."""
        return self.texts.layout

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 over weights, tokenizer, chat template, layout and settings."""
        from icl_plugins.proxy.chat import chat_template

        template = chat_template(self.proxy.tokenizer, self.layout)
        ended = [f"ended with {self.texts.end!r}"] if self.texts.end else []  # what scores hold besides
        settings = (self.layout, str(self.length_norm), *self.stop, *ended)
        parts = (*self.proxy.fingerprint.values(), template, *settings)
        return fingerprint("local target", *parts)

    def score(
        self,
        requests: Sequence[Messages],
        choices: Sequence[Sequence[str]],
        *,
        on_answer: OnAnswer | None = None,
    ) -> list[Answer]:
        """Score each choice of each request: log p(choice | messages), nats, summed over its tokens.

        A token belongs to the choice if it covers one of its characters, as in the text as a whole. With
        length_norm the mean over its tokens. Scores that are not numbers make an Answer with an error.
        Raises before anything runs: TooLongError (indices and lengths), DataError naming the request.
        """
        encoded = self.texts.requests(requests, choices)

        def score(state: "PrefixState", length: int, rows: list[int]) -> Iterator[tuple[list[int], Any]]:
            return self._shared.score(state, [encoded[row].behind(length) for row in rows])

        def answer(row: int, scores: np.ndarray, cached: int, seconds: float) -> Answer:
            if self.length_norm:
                scores = scores / [one.answer_stop - one.answer_start for one in encoded[row].choices]
            return _scored(scores, Usage(encoded[row].length, 0, cached), seconds)

        return self._answers([request.stem for request in encoded], score, answer, on_answer)

    def generate(
        self, requests: Sequence[Messages], *, max_tokens: int, on_answer: OnAnswer | None = None
    ) -> list[Answer]:
        """Answer each request with the likeliest token at every step, until EOS, a stop text or max_tokens.

        The stop text is not part of the answer, nor is what the chat template puts in front of answers.
        Raises before anything runs: TooLongError where a request and max_tokens do not fit, DataError.
        """
        whole_number("max_tokens", max_tokens, 1)
        tokens = self.texts.tokens(requests, max_tokens)
        ends = end_tokens(self.proxy)

        def ended(ids: Sequence[int]) -> bool:
            return ids[-1] in ends or (
                bool(self.stop) and self._first_stop(self.texts.answer(ids)) is not None
            )

        def generate(state: "PrefixState", length: int, rows: list[int]) -> Iterator[tuple[list[int], Any]]:
            queries = [tokens[row][length:] for row in rows]
            return self._shared.generate(state, queries, max_tokens=max_tokens, ended=ended)

        def answer(row: int, ids: list[int], cached: int, seconds: float) -> Answer:
            text = self.texts.answer(ids[:-1] if ids[-1] in ends else ids)
            text = text[: self._first_stop(text)]
            return Answer(text=text, usage=Usage(len(tokens[row]), len(ids), cached), seconds=seconds)

        return self._answers([ids[:-1] for ids in tokens], generate, answer, on_answer)

    def _answers(
        self,
        stems: list[list[int]],
        run: "Callable[[PrefixState, int, list[int]], Iterator[tuple[list[int], Any]]]",
        answer: Callable[[int, Any, int, float], Answer],
        on_answer: OnAnswer | None,
    ) -> list[Answer]:
        """Read what stems share, run all rows behind it, and make answers of the results."""
        answers: dict[int, Answer] = {}
        for length, rows in self._runs(stems):
            start = time.perf_counter()
            state, known = self._read(stems[rows[0]][:length])
            for done, results in run(state, length, rows):
                seconds, start = (time.perf_counter() - start) / len(done), time.perf_counter()
                for at, result in zip(done, results, strict=True):
                    cached = 0 if self._shared.way == "whole" else length if at else known
                    answers[rows[at]] = answer(rows[at], result, cached, seconds)
                    if on_answer:
                        on_answer(rows[at], answers[rows[at]])
        return [answers[row] for row in range(len(stems))]

    def _runs(self, stems: list[list[int]]) -> list[tuple[int, list[int]]]:
        """Return groups of stems that begin alike, with the length of what each group shares."""
        from icl_plugins.proxy.continuation import shared_runs

        return shared_runs(stems)

    def _read(self, prefix: list[int]) -> "tuple[PrefixState, int]":
        """Return the state of the prefix, and how many of its tokens the last state already held."""
        from icl_plugins.proxy.token_tree import common_length

        known = common_length(self._state.ids, tuple(prefix))
        if known == len(prefix):
            return self._state.head(known), known
        self._state = self._shared.read(prefix[known:], self._state.head(known))
        return self._state, known

    def _first_stop(self, text: str) -> int | None:
        """Return where the first stop text begins, None if there is none."""
        found = [text.find(stop) for stop in self.stop]
        return min((at for at in found if at >= 0), default=None)


def _scored(scores: np.ndarray, usage: Usage, seconds: float) -> Answer:
    if np.isnan(scores).any():
        error = 'the model gave scores that are not numbers; load it with dtype="float32"'
        return Answer(error=error, usage=usage, seconds=seconds)
    return Answer(scores=tuple(scores.tolist()), usage=usage, seconds=seconds)


def end_tokens(proxy: "Proxy") -> frozenset[int]:
    """Return the tokens that end an answer, by the model's generation settings and by its tokenizer."""
    own = getattr(getattr(proxy.model, "generation_config", None), "eos_token_id", None)
    named = [own] if isinstance(own, int) else [*(own or ())]
    return frozenset(one for one in (*named, proxy.tokenizer.eos_token_id) if one is not None)
