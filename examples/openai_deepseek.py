"""Intent classification with the bare OpenAI client, at DeepSeek, OpenAI or any API like theirs.

    python examples/openai_deepseek.py       # offline: the shipped model on a local server
    python examples/openai_deepseek.py --base-url https://api.deepseek.com/v1 --model deepseek-v4-flash
    python examples/openai_deepseek.py --base-url https://api.openai.com/v1 --model gpt-4o-mini

The key is read from OPENAI_API_KEY, DeepSeek's too. The data are six intents of the shipped Banking77 sample,
or with --data a .jsonl file of your own with the fields text and label. Every request begins with the same
bytes, so both providers bill most of it at their price for cached input. Ends with the accuracy of
gradient-matched shots against that of random ones.
"""

import argparse
import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from local_server import local_server
from openai import OpenAI

from icl_plugins import GradientMatching, ManyShotPrompt, Pool, Random, Template

TEMPLATE = Template(question="Query: {text}\nIntent:", answer=" {label}")
INSTRUCTION = "Name the intent of the query, as in the examples, and nothing else."
INTENTS = (
    "age_limit",
    "card_arrival",
    "change_pin",
    "exchange_rate",
    "lost_or_stolen_phone",
    "top_up_failed",
)


def main() -> None:
    """Choose twice from the same pool, and ask both prompts the same held-out queries."""
    options = arguments()
    records = load(options.data)
    random.Random(0).shuffle(records)  # noqa: S311
    test, pool = records[: options.test], Pool.from_records(records[options.test :], TEMPLATE)
    choices = {
        "gradient-matched": GradientMatching(),
        **{f"random, seed {s}": Random(s) for s in range(options.seeds)},
    }
    with target(options) as (client, model):
        scores = {}
        for name, selector in choices.items():
            prompt = selector.select(pool, options.shots).to_prompt(INSTRUCTION)
            scores[name] = accuracy(client, model, prompt, test)
            print(f"{name}: {scores[name]:.3f}")
    matched, *controls = scores.values()
    mean = sum(controls) / len(controls)
    print(f"{options.shots} of {len(pool)} examples, {len(test)} queries, model {Path(model).name}")
    print(f"accuracy: gradient-matched {matched:.3f}, random {mean:.3f}, gain {matched - mean:+.3f}")


def accuracy(client: OpenAI, model: str, prompt: ManyShotPrompt, test: list[dict[str, str]]) -> float:
    """Return the share of queries that are answered with their label."""

    def right(record: dict[str, str]) -> bool:
        reply = client.chat.completions.create(
            model=model, messages=prompt.messages(record), temperature=0, max_tokens=24
        )
        return (reply.choices[0].message.content or "").strip() == record["label"]

    with ThreadPoolExecutor(4) as threads:
        return sum(threads.map(right, test)) / len(test)


@contextmanager
def target(options: argparse.Namespace) -> Iterator[tuple[OpenAI, str]]:
    """Connect to the target of the command line, else to the shipped model on a local server."""
    if options.base_url:
        with OpenAI(base_url=options.base_url) as client:
            yield client, options.model
        return
    with local_server() as server, OpenAI(base_url=server.base_url, api_key="none") as client:
        yield client, server.model


def load(data: str | None) -> list[dict[str, str]]:
    """Read the records of a .jsonl file, or those of the shipped sample with one of six intents."""
    path = Path(data) if data else files("icl_plugins") / "data" / "banking77.jsonl"
    records = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return records if data else [record for record in records if record["label"] in INTENTS]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base-url", help="an OpenAI-compatible API, such as https://api.deepseek.com/v1")
    parser.add_argument("--model", default="deepseek-v4-flash", help="its name there (default: %(default)s)")
    parser.add_argument("--data", help="a .jsonl file with the fields text and label")
    parser.add_argument("--shots", type=int, default=32)
    parser.add_argument("--test", type=int, default=60, help="queries held out (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="random choices to compare with")
    return parser.parse_args()


if __name__ == "__main__":
    main()
