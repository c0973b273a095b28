"""An OpenAI-compatible server on this machine, without network: `transformers serve` with the shipped model.

Needs `pip install 'transformers[serving]'`. The examples use it when they are given no other target:

    with local_server() as server:
        OpenAI(base_url=server.base_url, api_key="none").chat.completions.create(model=server.model, ...)
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

_SERVE = "from transformers.cli.transformers import main; main()"
_PATIENCE = 120.0  # seconds; a loaded machine takes its time to import torch


@dataclass(frozen=True)
class Server:
    """Where a server listens (ending in /v1) and what it calls its model."""

    base_url: str
    model: str


@contextmanager
def local_server(model: str | Path | None = None) -> Iterator[Server]:
    """Serve a folder of a chat model (default: the shipped one) on a free port, until the block ends.

    Raises RuntimeError with the server's last words when it does not come up.
    """
    folder = str(model or files("icl_plugins") / "proxy" / "micro")
    port = _free_port()
    command = [sys.executable, "-c", _SERVE, "serve", folder, "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: S603
        try:
            if not _healthy(process, f"http://127.0.0.1:{port}/health"):
                log.seek(0)
                raise RuntimeError(
                    "the server did not start:\n" + log.read().decode(errors="replace")[-2000:]
                )
            yield Server(f"http://127.0.0.1:{port}/v1", folder)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _healthy(process: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until the server answers; False if it ended or took too long."""
    opener = build_opener(ProxyHandler({}))  # loopback, whatever proxy the environment names
    end = time.monotonic() + _PATIENCE
    while process.poll() is None and time.monotonic() < end:
        try:
            opener.open(url, timeout=5).close()
            return True
        except (URLError, OSError):
            time.sleep(0.2)
    return False
