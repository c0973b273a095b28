"""Answers behind a state for many threads at once: what waits is written together."""

import threading
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from icl_plugins.errors import TargetError
from icl_plugins.evaluation.target import Messages
from icl_plugins.proxy.locking import lock_of
from icl_plugins.proxy.prefix_state import PrefixState, read
from icl_plugins.proxy.token_tree import common_length
from icl_plugins.thinking.generating import generator_of
from icl_plugins.thinking.options import check_options
from icl_plugins.thinking.streaming import stream
from icl_plugins.thinking.writing import Stops

if TYPE_CHECKING:
    from icl_plugins.thinking.kv_state import KVState


@dataclass(frozen=True)
class Written:
    """An answer: its text, its tokens counted, and whether it came to its end or to the last token allowed.

    cached_tokens: the part of prompt_tokens that was not read, since the state holds it.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    finished: bool


@dataclass(frozen=True, eq=False)
class _Waiting:
    ids: list[int]
    stops: Stops
    options: Mapping[str, Any]
    seed: int
    written: "Future[Written]" = field(default_factory=Future)

    def goes_with(self, other: "_Waiting") -> bool:
        """Return whether both may be one batch: what is sampled alone is the same whoever else waits."""
        same = (self.stops, self.options) == (other.stops, other.options)
        return same and not self.options.get("do_sample")


class StateServer:
    """Answers messages of which those behind the state's prompt alone are read.

    Messages that begin with the tokens of the state are served from it; any others are read as they are, in
    full. Safe to call from many threads: one of them writes for all that wait.
    """

    def __init__(self, state: "KVState") -> None:
        self.state = state
        self._mutex = threading.Lock()
        self._waiting: list[_Waiting] = []

    def answer(
        self,
        messages: Messages,
        *,
        max_new_tokens: int,
        stop: Sequence[str] | None = (),
        seed: int = 0,
        **options: Any,
    ) -> Written:
        """Return the answer; arguments and errors are those of KVState.generate, of one query and text."""
        own = self._request(messages, max_new_tokens, stop, seed, options)
        with self._mutex:
            self._waiting.append(own)
        with lock_of(self.state.proxy):
            if not own.written.done():
                self._write(self._taken(own))
        return own.written.result()

    def stream(
        self,
        messages: Messages,
        *,
        max_new_tokens: int,
        stop: Sequence[str] | None = (),
        seed: int = 0,
        **options: Any,
    ) -> Generator[str, None, Written]:
        """Yield the text of the answer piece by piece, as KVState.stream does; return what `answer` does."""
        own = self._request(messages, max_new_tokens, stop, seed, options, streamed=True)
        state, query = self._behind(own.ids)
        tokens = yield from stream(self.state.proxy, state, query, own.options, own.stops, seed)
        return self._result(own, tokens)

    def cached(self, ids: Sequence[int]) -> int:
        """Return how many of the first tokens need not be read: all of the state's, or none."""
        prefix = self.state.ids
        return len(prefix) if common_length(prefix, tuple(ids[:-1])) == len(prefix) else 0

    def tokens(self, messages: Messages, room: int = 0) -> list[int]:
        """Return the tokens of messages; raises DataError, TooLongError unless `room` more fit."""
        return self.state.target.texts.tokens([messages], room)[0]

    def _request(
        self,
        messages: Messages,
        room: int,
        stop: Sequence[str] | None,
        seed: int,
        options: Mapping[str, Any],
        *,
        streamed: bool = False,
    ) -> _Waiting:
        checked = check_options({**options, "max_new_tokens": room}, one_text=True, streamed=streamed)
        return _Waiting(self.tokens(messages, room), self.state.stops(stop, checked), checked, seed)

    def _taken(self, own: _Waiting) -> list[_Waiting]:
        """Return what is written with a request, which is no longer waiting then."""
        with self._mutex:
            taken = [one for one in self._waiting if one is own or one.goes_with(own)]
            taken = [one for one in taken if self.cached(one.ids)] if self.cached(own.ids) else [own]
            self._waiting = [one for one in self._waiting if one not in taken]
        return taken

    def _write(self, batch: list[_Waiting]) -> None:
        first = batch[0]
        try:
            states, queries = zip(*(self._behind(one.ids) for one in batch), strict=True)
            write = generator_of(self.state.proxy).write
            rows = write(states[0], queries, first.options, ended=first.stops.ended, seed=first.seed)
            for one, tokens in zip(batch, rows, strict=True):
                one.written.set_result(self._result(one, tokens))
        except BaseException as error:  # nobody may wait for ever
            mine = isinstance(error, Exception)
            for one in batch:
                if not one.written.done():
                    one.written.set_exception(error if mine else _interrupted())
            if not mine:
                raise

    def _behind(self, ids: list[int]) -> tuple[PrefixState, list[int]]:
        cached = self.cached(ids)
        if cached:
            return self.state.prefix, ids[cached:]
        with lock_of(self.state.proxy):
            return read(self.state.proxy, ids[:-1], PrefixState()), ids[-1:]

    def _result(self, one: _Waiting, tokens: list[int]) -> Written:
        return Written(
            text=one.stops.text(tokens),
            prompt_tokens=len(one.ids),
            completion_tokens=len(tokens),
            cached_tokens=self.cached(one.ids),
            finished=one.stops.ended(tokens) or tokens[-1] in one.stops.ends,
        )


def _interrupted() -> TargetError:
    return TargetError(
        "the thread that wrote for all that waited was interrupted",
        expected="a run to its end",
        fix="ask again",
    )
