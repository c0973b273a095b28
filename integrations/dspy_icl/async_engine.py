"""AsyncDeepThinkingEngine: the async side of an engine."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Self

from dspy_icl.engine import DeepThinkingEngine

# The event loop's own threads are few: too few for a batch. Streams have theirs, so that no number of calls
# that wait for a stream keeps it from being read or closed.
_calls = ThreadPoolExecutor(64, thread_name_prefix="deep_thinking_call")
_streams = ThreadPoolExecutor(64, thread_name_prefix="deep_thinking_stream")


class AsyncDeepThinkingEngine:
    """The same for ``async_engine``: answers are written in threads, so that calls under way are one batch.

    At most 64 calls and 64 streams run at a time in a process; further ones wait. A cancelled call returns at
    once; its answer, once begun, is written to its end and dropped. A stream that is closed ends at the next
    token.
    """

    def __init__(self, engine: DeepThinkingEngine) -> None:
        self.engine = engine

    async def complete(self, request: Any) -> Any:
        """Return what the engine returns; raises what it raises."""
        return await _in_thread(_calls, self.engine.complete, request)

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        """Yield the engine's events."""
        source = self.engine.stream(request)
        step: asyncio.Task[Any] | None = None
        try:
            while True:
                step = asyncio.create_task(_in_thread(_streams, next, source, None))
                if (event := await asyncio.shield(step)) is None:
                    return
                yield event
        finally:
            if step is not None:  # a generator cannot be closed while it runs
                await asyncio.gather(step, return_exceptions=True)
            await _in_thread(_streams, source.close)  # type: ignore[attr-defined]

    async def aclose(self) -> None:
        """Do nothing: the model belongs to the state."""

    def dump_state(self) -> dict[str, str]:
        """Return what the engine's returns."""
        return self.engine.dump_state()

    @classmethod
    def load_state(cls, state: Mapping[str, str]) -> Self:
        """Return the async side of the engine of a saved state."""
        return cls(DeepThinkingEngine.load_state(state))


async def _in_thread(threads: ThreadPoolExecutor, call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a call returns that runs in a thread, in the context of this one."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(threads, copy_context().run, call, *arguments)
