"""The local server that examples and end-to-end tests talk to."""

import socket
from urllib.parse import urlsplit

import pytest
from local_server import local_server
from openai import BadRequestError, OpenAI

from icl_plugins.evaluation.local import LocalTarget

INTENTS = {"my card": "card", "a refund": "refund", "cold soup": "soup", "late fee": "fee"}


def test_the_server_answers_chat_requests_as_the_model_does_in_this_process(server):
    shots = [{"role": "system", "content": "Name the intent."}]
    for text, intent in [*INTENTS.items()] * 4:
        shots.append({"role": "user", "content": f"Query: {text}\nIntent:"})
        shots.append({"role": "assistant", "content": intent})
    requests = [[*shots, {"role": "user", "content": f"Query: {text}\nIntent:"}] for text in INTENTS]
    here = LocalTarget.load("micro", layout="turns").generate(requests, max_tokens=8)
    with OpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
        for messages, answer in zip(requests, here, strict=True):
            reply = client.chat.completions.create(
                model=server.model, messages=messages, temperature=0, max_tokens=8
            )
            assert reply.choices[0].message.content.strip() == answer.text in INTENTS.values()
        with pytest.raises(BadRequestError):
            client.chat.completions.create(model="another", messages=shots)


def test_a_server_that_cannot_start_says_why(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(RuntimeError, match="did not start"), local_server(tmp_path):
        pass


def test_the_server_is_gone_after_the_block_and_needs_no_proxy_to_be_found(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with local_server() as running:
        address = urlsplit(running.base_url)
        socket.create_connection((address.hostname, address.port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.hostname, address.port), timeout=5)
