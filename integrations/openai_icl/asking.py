"""Asking a server many things at once: a limit on what is under way, and patience."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import anyio
import openai
from anyio.from_thread import start_blocking_portal

from icl_plugins.errors import TargetError
from icl_plugins.evaluation.target import Answer, OnAnswer
from openai_icl.failures import Failure, failure_of
from openai_icl.known_model import KnownModel
from openai_icl.providers import Key
from openai_icl.replies import read_reply

_LONGEST_WAIT = 120.0  # seconds; a server that asks for more has its limit by the hour or day
_CONNECT = 10.0  # seconds until a server that does not answer at all counts as not there


@dataclass
class Conversation:
    """One batch of requests to one server.

    variable: where the key is looked for, for messages. timeout: seconds for one try. retries, backoff: how
    often a failure that may pass is tried again, and the wait before the first time, doubled every time and
    spread by a random factor of 0.5 to 1; a server's Retry-After counts where it is longer.
    """

    base_url: str
    variable: str
    concurrency: int
    timeout: float
    retries: int
    backoff: float
    known: KnownModel | None = None
    reached: bool = False

    def hold(
        self, key: Key, bodies: Sequence[Mapping[str, Any]], on_answer: OnAnswer | None = None
    ) -> list[Answer]:
        """Send the bodies of requests -> their answers in order; on_answer is called from this thread.

        The event loop has a thread of its own, since the caller's may be running one. Whatever is raised
        here, KeyboardInterrupt too, cancels what is under way. Raises TargetError as `_ask` returns it.
        """
        answers: dict[int, Answer] = {}
        arrived: SimpleQueue[tuple[int, Answer] | None] = SimpleQueue()
        with start_blocking_portal() as portal:
            job = portal.start_task_soon(self._ask_all, key, bodies, arrived.put)
            job.add_done_callback(lambda _: arrived.put(None))
            while pair := arrived.get():
                answers[pair[0]] = pair[1]
                if on_answer:
                    on_answer(*pair)
            job.result()
        return [answers[index] for index in range(len(bodies))]

    async def _ask_all(
        self, key: Key, bodies: Sequence[Mapping[str, Any]], put: Callable[[tuple[int, Answer]], None]
    ) -> None:
        turn = anyio.Semaphore(self.concurrency)
        stopped: list[TargetError] = []
        timeout = openai.Timeout(self.timeout, connect=min(self.timeout / 2, _CONNECT))
        client = openai.AsyncOpenAI(
            base_url=self.base_url, api_key=key.reveal(), timeout=timeout, max_retries=0
        )
        async with client, anyio.create_task_group() as group:

            async def ask(index: int, body: Mapping[str, Any]) -> None:
                async with turn:
                    answer = await self._ask(client, body)
                if isinstance(answer, TargetError):
                    stopped.append(answer)
                    group.cancel_scope.cancel()
                else:
                    put((index, answer))

            for index, body in enumerate(bodies):
                group.start_soon(ask, index, body)
        if stopped:  # raised out here it has no context: the client's own errors may quote the key
            raise stopped[0]

    async def _ask(self, client: openai.AsyncOpenAI, body: Mapping[str, Any]) -> Answer | TargetError:
        """Ask until there is an answer; a TargetError for what would fail every other request too."""
        start = time.perf_counter()
        retries = 0
        while not isinstance(result := await self._try(client, body), Answer):
            wait = self._wait(result, retries)
            if wait is None:
                return self._given_up(result, retries, time.perf_counter() - start)
            await anyio.sleep(wait)
            retries += 1
        return replace(result, seconds=time.perf_counter() - start)

    def _wait(self, failure: Failure, retries: int) -> float | None:
        """Return the seconds until the next try, None if there is none.

        A server that nobody has reached yet is not tried again, nor one that asks for more than our patience.
        """
        if not failure.retry or retries >= self.retries or (failure.unreachable and not self.reached):
            return None
        doubled = self.backoff * 2 ** min(retries, 30)
        wait = min(doubled, _LONGEST_WAIT) * random.uniform(0.5, 1)  # noqa: S311
        wait = max(wait, failure.after or 0.0)
        return wait if wait <= _LONGEST_WAIT else None

    def _given_up(self, failure: Failure, retries: int, seconds: float) -> Answer | TargetError:
        if failure.fix:
            got = f"{self.base_url}: {failure.error}"
            return TargetError(got, expected="a server that answers", fix=failure.fix)
        tried = f", after {retries} {'retry' if retries == 1 else 'retries'}" if retries else ""
        return Answer(error=failure.error + tried, seconds=seconds)

    async def _try(self, client: openai.AsyncOpenAI, body: Mapping[str, Any]) -> Answer | Failure:
        try:
            with anyio.fail_after(self.timeout):
                reply = (await client.chat.completions.with_raw_response.create(**body)).text
        except Exception as error:  # whatever one request meets must not end the others
            failure = failure_of(error, self.variable)
            self.reached |= not failure.unreachable
            return failure
        self.reached = True
        return read_reply(reply, self.known)
