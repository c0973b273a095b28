"""A chat server on loopback that does what a test tells it to, and counts what it is asked."""

import json
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 1000, "completion_tokens": 10}


def completion(content: Any = "yes", finish: Any = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion as servers write it."""
    message = {"role": "assistant", "content": content, **message}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}], "usage": USAGE}


def refusal(text: str = "no", **error: Any) -> dict[str, Any]:
    return {"error": {"message": text, **error}}


@dataclass(frozen=True)
class Reply:
    """What to answer, after so many seconds: bytes as they are, anything else as JSON.

    cut: nothing at all. half: the head and the first half. drip: seconds between one byte and the next.
    """

    body: Any = field(default_factory=completion)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    cut: bool = False
    half: bool = False
    drip: float = 0.0


@dataclass
class FaultServer:
    """answer(query, n): the reply to the n-th request (from 0) whose last message is this query."""

    answer: Callable[[str, int], Reply] = lambda query, n: Reply()
    asked: list[tuple[str, float, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    under_way: int = 0
    most: int = 0
    base_url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    http: Any = None

    def close(self):
        """Stop listening; what is under way ends at once."""
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()

    def times(self, query: str) -> list[float]:
        return [time for asked, time, *_ in self.asked if asked == query]

    def take(self, headers: dict[str, str], body: dict[str, Any]) -> Reply:
        query = body["messages"][-1]["content"]
        with self.lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            before = len(self.times(query))
            self.asked.append((query, time.monotonic(), headers, body))
        reply = self.answer(query, before)
        self.closing.wait(reply.delay)
        with self.lock:
            self.under_way -= 1
        return reply


@contextmanager
def fault_server():
    server = FaultServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = server.take({name.lower(): value for name, value in self.headers.items()}, body)
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            if reply.cut:
                self.close_connection = True
                return
            try:
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                content = content[: len(content) // 2] if reply.half else content
                step = 1 if reply.drip else len(content) or 1
                for start in range(0, len(content), step):
                    self.wfile.write(content[start : start + step])
                    if server.closing.wait(reply.drip):
                        return
            except OSError:  # the client went away
                self.close_connection = True

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 64

    server.http = Server(("127.0.0.1", 0), Handler)
    server.base_url = f"http://127.0.0.1:{server.http.server_port}/v1"
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
