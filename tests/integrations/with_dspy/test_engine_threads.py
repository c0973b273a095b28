"""The async side of an engine: how many calls are one batch, and whose context they run in."""

import asyncio
from contextvars import ContextVar
from types import SimpleNamespace

import pytest
from dspy.lm15 import Message
from dspy_icl import AsyncDeepThinkingEngine
from thinking_engines import ask, make_engine

from icl_plugins import Proxy
from icl_plugins.proxy.locking import lock_of
from icl_plugins.thinking.serving import StateServer

CALLER = ContextVar("caller", default="nobody")


@pytest.fixture(scope="module")
def engine():
    return make_engine(Proxy.load("micro"))


def behind(engine, text, **config):
    """The request of a question behind the prompt of the engine's state."""
    state = engine.state
    roles = {"user": Message.user, "assistant": Message.assistant, "system": Message.developer}
    messages = state.prompt.messages({"question": text}, state.layout)
    return ask(engine, *(roles[one["role"]](one["content"]) for one in messages), **config)


async def until(holds):
    """Wait until it holds, 10 seconds at most."""
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)


async def test_calls_under_way_are_one_batch(engine, monkeypatch):
    sizes, write = [], StateServer._write

    def counted(self, batch):
        sizes.append(len(batch))
        write(self, batch)

    monkeypatch.setattr(StateServer, "_write", counted)
    requests = [behind(engine, f"card card {row}") for row in range(40)]
    alone = [engine.complete(request) for request in requests[:3]]
    sizes.clear()
    with lock_of(engine.state.proxy):
        calls = [
            asyncio.create_task(AsyncDeepThinkingEngine(engine).complete(request)) for request in requests
        ]
        await until(lambda: len(engine._server._waiting) == 40)
    answers = await asyncio.gather(*calls)
    assert sizes == [40]
    assert answers[:3] == alone


async def test_a_stream_is_closed_however_many_calls_wait_for_it(engine):
    runs = []
    stream = AsyncDeepThinkingEngine(engine).stream(behind(engine, "card", max_tokens=600))
    hook = engine.state.proxy.model.register_forward_hook(lambda *_: runs.append(None))
    await anext(stream), await anext(stream)
    calls = [
        asyncio.create_task(AsyncDeepThinkingEngine(engine).complete(behind(engine, "card", max_tokens=1)))
        for _ in range(80)
    ]
    await until(lambda: len(engine._server._waiting) >= 64)
    await stream.aclose()
    written = len(runs)
    hook.remove()
    assert 0 < written < 400
    assert len({answer.text for answer in await asyncio.gather(*calls)}) == 1


async def test_an_engine_runs_in_the_context_of_its_caller():
    def stream(_):
        yield CALLER.get()

    both = SimpleNamespace(complete=lambda _: CALLER.get(), stream=stream)
    CALLER.set("me")
    engine = AsyncDeepThinkingEngine(both)
    assert await engine.complete(None) == "me"
    assert [event async for event in engine.stream(None)] == ["me"]
