"""Accuracy against shots on families micro never saw, beside logistic regression on the same examples.

    python training/micro_curve.py MODEL DATA --out training/results/micro_curve.json

Items and draws of demonstrations are crossed: every draw meets every item, and the interval is over both. The
answer is the label of highest log-probability, summed over its tokens. The regression is trained
on the tf-idf of the same demonstrations.
"""

import argparse
import json
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from icl_plugins import Pool, Proxy, Template
from icl_plugins.readers import read_jsonl
from icl_plugins.tuning import Task
from icl_plugins.tuning.answered import answered, drawn_rows
from icl_plugins.tuning.curves import curve_of

QUESTIONS = {
    "snips": "Query: {text}\nIntent:",
    "trec": "Question: {text}\nType:",
    "agnews": "Text: {text}\nTopic:",
    "sst2": "Review: {text}\nSentiment:",
}
SHOTS = (0, 4, 8, 16, 32, 64, 128, 256)


def family(folder: Path, name: str) -> Task:
    """All rows of train and test: none was trained on."""
    rows = [row for part in ("train", "test") for row in read_jsonl(folder / name / f"{part}.jsonl")]
    return Task(name, Pool.from_records(rows, Template(QUESTIONS[name], " {label}")), classes=True)


def regression(task: Task, shots: int, items: int, draws: int, seed: int) -> float:
    """Accuracy of logistic regression, trained on each draw of so many examples."""
    texts = np.array([str(example["text"]) for example in task.pool], dtype=object)
    labels = np.array(task.pool.labels)
    asked, orders = drawn_rows(task, items, draws, seed)
    right = []
    for order in orders:
        shown = order[:shots]
        if len(set(labels[shown])) < 2:
            right.append(np.mean(labels[asked] == labels[shown[0]]))
            continue
        words = TfidfVectorizer(sublinear_tf=True).fit(texts[shown])
        model = LogisticRegression(C=10.0, max_iter=2000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(words.transform(texts[shown]), labels[shown])
        right.append(np.mean(model.predict(words.transform(texts[asked])) == labels[asked]))
    return float(np.mean(right))


def main() -> None:
    """Parse arguments and print one line a family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--families", nargs="+", default=list(QUESTIONS))
    parser.add_argument("--shots", nargs="+", type=int, default=list(SHOTS))
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    proxy, results = Proxy.load(args.model, device="cpu"), {}
    for name in args.families:
        task, size = family(args.data, name), (args.items, args.draws)
        measured = answered(proxy, task, args.shots, items=args.items, draws=args.draws, seed=args.seed)
        found = curve_of(measured)
        compared = {n: regression(task, n, *size, args.seed) for n in args.shots if n}
        results[name] = {**asdict(found), "regression": compared}
        cells = (f"{p.shots}: {p.accuracy:.3f} ({compared.get(p.shots, np.nan):.3f})" for p in found.points)
        print(name, f"majority {found.majority:.2f}", *cells, flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
