"""Which scaling of the features, and which way to take gradients, makes the better prompt?

    python benchmarks/scaling_and_mode.py DATA --out results.json

DATA holds NAME/train.jsonl and NAME/test.jsonl. For every data set and pool (a seeded draw of train) each
setting of GradientMatching chooses demonstrations, and so do random draws, plain and in the labels'
proportions. The proxy itself reads each prompt and answers the test rows with the label of highest
log-probability. Reported: accuracy, loss of the right answer, differences from the plain random mean with a
95 % interval over (data set, pool) pairs.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from icl_plugins import GradientMatching, Pool, Proxy, Random, Template
from icl_plugins.selection import Selection
from icl_plugins.selectors._context import context_losses

QUESTIONS = {
    "snips": "Query: {text}\nIntent:",
    "trec": "Question: {text}\nType:",
    "agnews": "Text: {text}\nTopic:",
    "sst2": "Review: {text}\nSentiment:",
}


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def measure(proxy: Proxy, selection: Selection, test: Pool, labels: list[str]) -> tuple[float, float]:
    """Accuracy on the test pool, and mean loss of the right answer in nats."""
    questions = [q for q in test.questions for _ in labels]
    answers = [f" {label}" for _ in test.questions for label in labels]
    pool = selection.pool
    demonstrations = [pool.texts[i] for i in selection.indices]
    losses = context_losses(proxy, demonstrations, pool.template.separator, questions, answers)
    losses = losses.reshape(len(test), len(labels))
    gold = np.array([labels.index(label) for label in test.labels])
    return float((losses.argmin(1) == gold).mean()), float(losses[np.arange(len(gold)), gold].mean())


def settings(proxy: Proxy, folder: str, random_sets: int) -> dict[str, list[tuple]]:
    """Method name -> (selector, quotas) to be averaged."""
    methods: dict[str, list[tuple]] = {
        "random": [(Random(seed=s), None) for s in range(random_sets)],
        "random, labels in proportion": [(Random(seed=s), "proportional") for s in range(random_sets)],
    }
    for mode in ("exact", "online"):
        for scaling in ("none", "checkpoint", "example"):
            selector = GradientMatching(proxy=proxy, mode=mode, scaling=scaling, store=f"{folder}/{mode}")
            methods[f"{mode}, {scaling}"] = [(selector, None)]
    selector = GradientMatching(proxy=proxy, mode="online", scaling="example", store=f"{folder}/online")
    methods["online, example, labels in proportion"] = [(selector, "proportional")]
    return methods


def run(args: argparse.Namespace) -> list[dict]:
    """One row per data set, pool and method."""
    proxy, rows = Proxy.load(args.proxy), []
    for name in args.sets:
        template = Template(QUESTIONS[name], " {label}")
        train, test_rows = (read(args.data / name / f"{part}.jsonl") for part in ("train", "test"))
        for seed in range(args.pools):
            rng = np.random.default_rng(seed)
            drawn = rng.permutation(len(train))[: args.pool_size]
            pool = Pool.from_records([train[i] for i in drawn], template)
            held = [test_rows[i] for i in rng.permutation(len(test_rows))[: args.items]]
            test, labels = Pool.from_records(held, template), sorted(pool.label_counts)
            with tempfile.TemporaryDirectory() as folder:
                for method, variants in settings(proxy, folder, args.random_sets).items():
                    chosen = [s.select(pool, args.shots, quotas=quotas) for s, quotas in variants]
                    accuracy, loss = np.mean([measure(proxy, c, test, labels) for c in chosen], axis=0)
                    rows.append(
                        {"set": name, "pool": seed, "method": method, "accuracy": accuracy, "loss": loss}
                    )
                    print(json.dumps(rows[-1]), flush=True)
    return rows


def summary(rows: list[dict]) -> str:
    """Markdown table: means over pairs, difference from random with its interval."""
    pairs = sorted({(r["set"], r["pool"]) for r in rows})
    value = {(r["set"], r["pool"], r["method"]): r for r in rows}
    lines = [
        "| method | accuracy | difference from random (95 % interval) | loss per answer |",
        "|---|---|---|---|",
    ]
    for method in dict.fromkeys(r["method"] for r in rows):
        of = np.array([[value[(*p, method)][k] for k in ("accuracy", "loss")] for p in pairs])
        base = np.array([value[(*p, "random")]["accuracy"] for p in pairs])
        difference = of[:, 0] - base
        rng = np.random.default_rng(0)
        means = difference[rng.integers(len(pairs), size=(10_000, len(pairs)))].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        lines.append(
            f"| {method} | {of[:, 0].mean():.3f} | {difference.mean():+.3f} ({low:+.3f} to {high:+.3f}) "
            f"| {of[:, 1].mean():.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--proxy", default="micro")
    parser.add_argument("--sets", nargs="+", default=list(QUESTIONS))
    parser.add_argument("--pools", type=int, default=2)
    parser.add_argument("--pool-size", type=int, default=1000)
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--shots", type=int, default=32)
    parser.add_argument("--random-sets", type=int, default=5)
    args = parser.parse_args()
    rows = run(args)
    if args.out:
        args.out.write_text(
            json.dumps({"settings": vars(args) | {"data": "", "out": ""}, "rows": rows}, indent=1) + "\n"
        )
    print(summary(rows))


if __name__ == "__main__":
    main()
