"""What the LangChain examples share: the data, which model answers, and how a choice is scored."""

import argparse
import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from statistics import mean
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from local_server import local_server

INTENTS = (
    "age_limit",
    "atm_support",
    "exchange_rate",
    "lost_or_stolen_phone",
    "passcode_forgotten",
    "terminate_account",
)


@contextmanager
def target(description: str) -> Iterator[BaseChatModel]:
    """Yield the chat model of the command line, else the shipped one on a server of its own."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--model", help="gpt-4o-mini, or as init_chat_model has it: deepseek:deepseek-chat")
    parser.add_argument("--base-url", help="where an OpenAI-compatible server has that model")
    options = parser.parse_args()
    settings: dict[str, Any] = {"temperature": 0, "max_tokens": 16, "stop": ["\n"]}
    if options.model is None:
        with local_server() as server:
            yield ChatOpenAI(model=server.model, base_url=server.base_url, api_key="none", **settings)
    elif ":" in options.model and options.base_url is None:
        from langchain.chat_models import init_chat_model  # pip install langchain and the provider's package

        yield init_chat_model(options.model, **settings)
    else:
        key = os.environ.get("OPENAI_API_KEY", "none")
        yield ChatOpenAI(model=options.model, base_url=options.base_url, api_key=key, **settings)


def questions() -> list[dict[str, str]]:
    """Return the shipped questions of bank customers with one of the intents, in a fixed random order."""
    lines = (files("icl_plugins") / "data" / "banking77.jsonl").read_text("utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["label"] in INTENTS]
    random.Random(0).shuffle(records)  # noqa: S311 - no secret
    return records


def accuracy(chain: Runnable[Any, str], test: Sequence[Mapping[str, str]]) -> float:
    """Return the share of test questions whose label the chain names."""
    answers = chain.batch([{"text": row["text"]} for row in test], config={"max_concurrency": 4})
    return mean(answer.strip() == row["label"] for answer, row in zip(answers, test, strict=True))


def report(matched: float, controls: Sequence[float], tested: int) -> None:
    """Print the number that it was all about."""
    every = ", ".join(f"{one:.3f}" for one in controls)
    print(f"random shots, {len(controls)} seeds: {every}; mean {mean(controls):.3f}")
    print(f"gradient-matched shots: {matched:.3f}")
    print(f"gain: {matched - mean(controls):+.3f} accuracy on {tested} held-out questions")
