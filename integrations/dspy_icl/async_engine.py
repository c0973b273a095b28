"""AsyncDeepThinkingEngine: the async side of an engine."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Self

from dspy_icl.engine import DeepThinkingEngine


class AsyncDeepThinkingEngine:
    """The same for ``async_engine``: answers are written in threads, so that calls under way are one batch.

    A cancelled call returns at once; its answer, once begun, is written to its end and dropped. A stream that
    is closed ends at the next token.
    """

    def __init__(self, engine: DeepThinkingEngine) -> None:
        self.engine = engine

    async def complete(self, request: Any) -> Any:
        """Return what the engine returns; raises what it raises."""
        return await asyncio.to_thread(self.engine.complete, request)

    async def stream(self, request: Any) -> AsyncIterator[Any]:
        """Yield the engine's events."""
        source = self.engine.stream(request)
        step: asyncio.Task[Any] | None = None
        try:
            while True:
                step = asyncio.create_task(asyncio.to_thread(next, source, None))
                if (event := await asyncio.shield(step)) is None:
                    return
                yield event
        finally:
            if step is not None:  # a generator cannot be closed while it runs
                await asyncio.gather(step, return_exceptions=True)
            await asyncio.to_thread(source.close)  # type: ignore[attr-defined]

    async def aclose(self) -> None:
        """Do nothing: the model belongs to the state."""

    def dump_state(self) -> dict[str, str]:
        """Return what the engine's returns."""
        return self.engine.dump_state()

    @classmethod
    def load_state(cls, state: Mapping[str, str]) -> Self:
        """Return the async side of the engine of a saved state."""
        return cls(DeepThinkingEngine.load_state(state))
