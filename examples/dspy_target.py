"""What the DSPy examples share: their questions, which LM answers, and how a program is scored."""

import argparse
import json
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import dspy
from local_server import local_server
from plain_adapter import PlainAdapter


def questions(intents: Sequence[str]) -> list[dspy.Example]:
    """Return the shipped questions of bank customers with these intents, in a fixed random order."""
    lines = (files("icl_plugins") / "data" / "banking77.jsonl").read_text("utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["label"] in intents]
    random.Random(0).shuffle(records)  # noqa: S311
    return [dspy.Example(**record).with_inputs("text") for record in records]


@contextmanager
def target(description: str) -> Iterator[None]:
    """Let DSPy use the LM of the command line, else the shipped one on a local server, for this block."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument(
        "--model", help="as dspy.LM names it, e.g. openai/gpt-4o-mini; default: the shipped one"
    )
    parser.add_argument("--api-base", help="where that model is served")
    options = parser.parse_args()
    logging.getLogger("dspy").setLevel(logging.CRITICAL)  # answers that do not parse are counted, not listed
    if options.model:
        where = {"api_base": options.api_base} if options.api_base else {}
        with dspy.context(lm=dspy.LM(options.model, **where)):
            yield
        return
    dspy.configure_cache(enable_disk_cache=False)  # the folder's name says nothing about the model in it
    with local_server() as server:
        lm = dspy.LM(
            f"openai/{server.model}", api_base=server.base_url, api_key="none", temperature=0.0, max_tokens=24
        )
        with dspy.context(lm=lm, adapter=PlainAdapter(), num_threads=1):
            yield


def accuracy(program: Any, test: Sequence[Any], metric: Any) -> float:
    """Return the share of right answers; one that does not parse is wrong."""
    evaluate = dspy.Evaluate(devset=list(test), metric=metric, max_errors=len(test) + 1)
    return float(evaluate(program).score) / 100


def report(matched: float, controls: Sequence[float], test: Sequence[Any]) -> None:
    """Print the number that this was all about."""
    mean = sum(controls) / len(controls)
    print(
        f"random shots, {len(controls)} seeds: {', '.join(f'{one:.3f}' for one in controls)}; mean {mean:.3f}"
    )
    print(f"gradient-matched shots: {matched:.3f}")
    error = (mean * (1 - mean) / len(test)) ** 0.5
    print(
        f"gain: {matched - mean:+.3f} accuracy on {len(test)} held-out questions (standard error {error:.3f})"
    )
