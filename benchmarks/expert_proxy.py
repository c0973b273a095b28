"""A stronger proxy for one data set: the proxy, tuned on rows of train that no pool of the ablations holds.

    python benchmarks/expert_proxy.py DATA snips --out runs/expert-snips
    python benchmarks/ablations.py DATA --sets snips --proxy runs/expert-snips --target micro ...

It answers the queries of its data set by itself, which micro does not: whether its gradients know more of
what helps the target is then one of the ablations. Prints loss and accuracy on the test rows, before and
after.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from ablations import QUESTIONS

from icl_plugins import Pool, Proxy, Template
from icl_plugins.evaluation.config import Config, DataConfig
from icl_plugins.evaluation.datasets import load_data
from icl_plugins.evaluation.local import LocalTarget
from icl_plugins.proxy.encoding import Encoded


def held_apart(args: argparse.Namespace) -> tuple[Pool, Pool]:
    """Rows of train that are in no pool of the ablations, and the test rows."""
    train, test = (str(args.data / args.name / f"{part}.jsonl") for part in ("train", "test"))
    one = DataConfig(args.name, train, Template(QUESTIONS[args.name], " {label}"), test)
    seeds = range(args.pools)
    drawn = [load_data(Config((one,), (4,), pool=args.pool_size, seed=seed), one) for seed in seeds]
    pools = {text for data in drawn for text in data.pool.texts}
    rows = Pool.from_file(train, one.template)
    asked = set(Pool.from_file(test, one.template).questions)
    apart = [
        row
        for row, (text, question) in enumerate(zip(rows.texts, rows.questions, strict=True))
        if text not in pools and question not in asked
    ]
    return rows.subset(apart), drawn[0].items


def batch_of(examples: list[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (B, T), and the same with -100 wherever no answer stands."""
    width = max(len(example.ids) for example in examples)
    ids, labels = (
        torch.zeros(len(examples), width, dtype=torch.long),
        torch.full((len(examples), width), -100),
    )
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        answer = slice(example.answer_start, example.answer_stop)
        labels[row, answer] = ids[row, answer]
    return ids, labels


def tune(proxy: Proxy, pool: Pool, steps: int, seed: int = 0) -> None:
    """Fine-tune the proxy's weights on the answers, in place."""
    model = proxy.model.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    examples = [example for example in proxy.encode(pool, on_too_long="skip") if example is not None]
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        ids, labels = batch_of([examples[row] for row in rng.integers(len(examples), size=32)])
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        schedule.step()
    model.eval().requires_grad_(False)


def worth(proxy: Proxy, items: Pool, labels: list[str]) -> str:
    target = LocalTarget(proxy)
    requests = [[{"role": "user", "content": question}] for question in items.questions]
    scores = np.array([answer.scores for answer in target.score(requests, [labels] * len(items))])
    gold = np.array([labels.index(answer) for answer in items.answers])
    loss = -scores[np.arange(len(gold)), gold].mean()
    return f"accuracy {(scores.argmax(axis=1) == gold).mean():.3f}, loss {loss:.3f} nats"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("name", choices=sorted(QUESTIONS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--pools", type=int, default=3)
    parser.add_argument("--pool-size", type=int, default=500)
    args = parser.parse_args()
    train, items = held_apart(args)
    labels = sorted(set(train.answers))
    proxy = Proxy.load("micro", dtype="float32")
    print(f"{args.name}, no demonstrations: {worth(proxy, items, labels)}")
    tune(proxy, train, args.steps)
    proxy.model.save_pretrained(args.out)
    proxy.tokenizer.save_pretrained(args.out)
    print(f"tuned on {len(train):,} rows: {worth(Proxy.load(str(args.out)), items, labels)}")


if __name__ == "__main__":
    main()
