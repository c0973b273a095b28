"""An answer piece by piece, while transformers writes it in another thread."""

import contextvars
import queue
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from icl_plugins.proxy.locking import lock_of
from icl_plugins.proxy.prefix_state import PrefixState
from icl_plugins.thinking.generating import generator_of
from icl_plugins.thinking.writing import Stops

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


def stream(
    proxy: "Proxy",
    state: PrefixState,
    query: Sequence[int],
    options: Mapping[str, Any],
    stops: Stops,
    seed: int,
) -> Generator[str, None, list[int]]:
    """Yield pieces of the answer, return its tokens; what was raised in the other thread is raised here.

    The thread ends with the answer, or at the next token when the iterator is closed.
    """
    tokens, closed = _Tokens(), threading.Event()

    def ended(so_far: list[int]) -> bool:
        return closed.is_set() or stops.ended(so_far)

    def write() -> None:
        try:
            with lock_of(proxy):
                generator_of(proxy).write(state, [query], options, ended=ended, seed=seed, streamer=tokens)
        except BaseException as error:
            tokens.put_error(error)
        finally:
            tokens.end()

    # the caller's context, so that progress and the like are told to the same listeners
    thread = threading.Thread(target=contextvars.copy_context().run, args=(write,), daemon=True)
    thread.start()
    written: list[int] = []
    told = ""
    try:
        for token in tokens:
            written.append(token)
            text = stops.certain(written)
            if len(text) > len(told) and text.startswith(told):
                yield text[len(told) :]
                told = text
        if len(text := stops.text(written)) > len(told):
            yield text[len(told) :]
        return written
    finally:
        closed.set()
        thread.join()


class _Tokens:
    """A streamer as transformers calls it, and an iterator over the new tokens."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[list[int] | BaseException | None] = queue.SimpleQueue()
        self._query = True

    def put(self, value: Any) -> None:
        """Take tokens; the first are those of the query."""
        if not self._query:
            self._queue.put(value.flatten().tolist())
        self._query = False

    def put_error(self, error: BaseException) -> None:
        self._queue.put(error)

    def end(self) -> None:
        """Take note that there will be no more."""
        self._queue.put(None)

    def __iter__(self) -> Iterator[int]:
        """Yield the new tokens until they end; raises what was put."""
        while (found := self._queue.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            yield from found
