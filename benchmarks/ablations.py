"""Why gradient matching helps, or not: what its objective knows about the target, and what its variants do.

    python benchmarks/ablations.py DATA --store runs/gradients --out ablations.json --markdown ablations.md

DATA holds NAME/train.jsonl and NAME/test.jsonl. For every data set, pool (a seeded draw of train) and number
of shots:

* Signal. Random sets of demonstrations, plain and stratified by label, are read by the target. How well does
  each objective rank them: Spearman's correlation of J with the loss of the right answers (positive is good:
  a lower J, a lower loss). Labels alone, as indicator features, stand beside the gradients, so that what the
  gradients know beyond the balance of the labels is visible.
* Choice. The set that each variant chooses, and the mismatch, which takes the highest J instead.

The proxy is the target unless another is named. Loss: of the right answer, nats, mean over items. Accuracy:
of the likeliest label.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from icl_plugins import GradientMatching, Pool, Proxy, Random, Template
from icl_plugins.algorithms.constraints import Constraints, resolve
from icl_plugins.algorithms.matching import centered_gram, match_gram
from icl_plugins.evaluation.config import Config, DataConfig
from icl_plugins.evaluation.datasets import load_data
from icl_plugins.evaluation.local import LocalTarget
from icl_plugins.selectors._embeddings import embed

QUESTIONS = {"trec": "Question: {text}\nType:", "snips": "Query: {text}\nIntent:"}
EVERY = slice(None)
Grams = Mapping[str, np.ndarray]


def norms(block: np.ndarray) -> np.ndarray:
    return np.linalg.norm(block, axis=1, keepdims=True)


def rbf(gram: np.ndarray) -> np.ndarray:
    """The centred kernel exp(-distance^2 / median): its mean embedding holds all moments."""
    squared = gram.diagonal()[:, None] + gram.diagonal() - 2 * gram
    return centred(np.exp(-squared / np.median(squared)))


def centred(kernel: np.ndarray) -> np.ndarray:
    rows = kernel.mean(axis=0)
    return kernel - rows - rows[:, None] + rows.mean()


def grams_of(proxy: Proxy, pool: Pool, seed: int, folder: Path) -> dict[str, np.ndarray]:
    """Name of a feature -> Gram matrix (N, N) of the centred features; J^2 is a mean of its entries."""

    def blocks(**settings: object) -> list[np.ndarray]:
        selector = GradientMatching(proxy=proxy, seed=seed, store=folder / repr(settings), **settings)
        return [np.asarray(block, dtype=np.float64) for block in selector.features(pool).blocks]

    exact = blocks()
    whole = np.concatenate(exact, axis=1)
    unit = whole / norms(whole)
    last = exact[-1] / norms(exact[-1])
    grams = {
        "all checkpoints": centered_gram(exact),
        "... each checkpoint to norm 1": centered_gram([block / norms(block).mean() for block in exact]),
        "... each example to norm 1": centered_gram(unit),
        "... second moments": centred((unit @ unit.T) ** 2),
        "... RBF kernel": rbf(centered_gram(unit)),
        "first checkpoint": centered_gram(exact[0]),
        "first 2": centered_gram(exact[:2]),
        "first 4": centered_gram(exact[:4]),
        "first 8": centered_gram(exact[:8]),
        "last checkpoint": centered_gram(exact[-1]),
        "last checkpoint, each example to norm 1": centered_gram(last),
        "online": centered_gram(blocks(mode="online")),
        "prefix of 1": centered_gram(blocks(prefix_length=1)),
        "prefix of 16": centered_gram(blocks(prefix_length=16)),
    }
    embeddings = np.asarray(embed(pool.texts, "proxy", proxy, "error")[0], dtype=np.float64)
    labels = np.array(pool.labels)[:, None] == np.unique(pool.labels)
    return {
        **grams,
        "embeddings": centered_gram(embeddings),
        "labels alone": centered_gram(labels.astype(np.float64)),
    }


def objective(gram: np.ndarray, rows: np.ndarray) -> float:
    return float(np.sqrt(max(gram[np.ix_(rows, rows)].mean(), 0.0)))


def mismatch(gram: np.ndarray, constraints: Constraints) -> np.ndarray:
    """Greedy choice of the highest J."""
    free, counts, chosen = np.ones(len(gram), dtype=bool), np.zeros_like(constraints.quota_max), []
    sums = np.zeros(len(gram))
    while len(chosen) < (constraints.shots or 0):
        allowed = free & (counts < constraints.quota_max)[constraints.groups]
        chosen.append(int(np.argmax(np.where(allowed, gram.diagonal() + 2 * sums, -np.inf))))
        free[chosen[-1]] = False
        counts[constraints.groups[chosen[-1]]] += 1
        sums += gram[chosen[-1]]
    return np.array(chosen)


class Reader:
    """The target, and what a set of demonstrations is worth to it: (accuracy, loss)."""

    def __init__(self, target: LocalTarget, pool: Pool, items: Pool) -> None:
        self.target, self.pool, self.items = target, pool, items
        self.choices = sorted(set(pool.answers))
        self.gold = np.array([self.choices.index(answer) for answer in items.answers])

    def worth(self, rows: np.ndarray) -> tuple[float, float]:
        before = "".join(self.pool.texts[row] + self.pool.template.separator for row in rows)
        requests = [[{"role": "user", "content": before + question}] for question in self.items.questions]
        answers = self.target.score(requests, [self.choices] * len(requests))
        scores = np.array([answer.scores for answer in answers])
        right = scores[np.arange(len(scores)), self.gold]
        return float((scores.argmax(axis=1) == self.gold).mean()), float(-right.mean())


def cases(args: argparse.Namespace) -> Iterator[tuple[dict, Reader, Grams]]:
    proxy = Proxy.load(args.proxy)
    target = LocalTarget(Proxy.load(args.target or args.proxy))
    for name, seed in product(args.sets, range(args.pools)):
        train, test = (str(args.data / name / f"{part}.jsonl") for part in ("train", "test"))
        one = DataConfig(name, train, Template(QUESTIONS[name], " {label}"), test)
        config = Config((one,), tuple(args.shots), pool=args.pool_size, items=args.items, seed=seed)
        data = load_data(config, one)
        grams = grams_of(proxy, data.pool, seed, args.store / f"{name}-{seed}")
        yield {"set": name, "pool": seed}, Reader(target, data.pool, data.items), grams


def run(args: argparse.Namespace) -> list[dict]:
    """One row for each number on the page: kind "signal" or "choice", feature, quotas and what was seen."""
    rows: list[dict] = []
    for case, reader, grams in cases(args):
        for shots, quotas in product(args.shots, (None, "proportional")):
            at = {**case, "shots": shots, "quotas": quotas or "none"}
            drawn = [
                np.array(Random(seed=seed).select(reader.pool, shots, quotas=quotas).indices)
                for seed in range(args.random_sets)
            ]
            worth = np.array([reader.worth(indices) for indices in drawn])
            rows.append({**at, "kind": "choice", "feature": "random", "worth": worth.mean(axis=0).tolist()})
            constraints = resolve(len(reader.pool), reader.pool.labels, shots, quotas=quotas)
            for feature, gram in grams.items():
                ranked = [objective(gram, indices) for indices in drawn]
                # within a stratum of labels all sets have the same J of labels
                known = np.ptp(ranked) > 1e-9 * max(ranked)
                signal = [
                    float(spearmanr(ranked, outcome).statistic) for outcome in (-worth[:, 0], worth[:, 1])
                ]
                rows.append({**at, "kind": "signal", "feature": feature, "worth": signal if known else None})
                chosen = match_gram(gram, constraints=constraints).indices
                rows.append({**at, "kind": "choice", "feature": feature, "worth": reader.worth(chosen)})
            worst = mismatch(grams["all checkpoints"], constraints)
            rows.append({**at, "kind": "choice", "feature": "mismatch", "worth": reader.worth(worst)})
            args.out.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def table(rows: list[dict], cells: Mapping[str, int], places: Mapping[tuple, dict]) -> list[str]:
    """Lines of Markdown: means over cases with standard errors, less what random is worth there."""
    by_feature: dict[str, list] = {}
    for row in rows:
        base = places.get((row["set"], row["pool"]), {"worth": (0, 0)})["worth"]
        if row["worth"] is not None:
            by_feature.setdefault(row["feature"], []).append(np.subtract(row["worth"], base))
    lines = ["", f"| feature | {' | '.join(cells)} |", f"|---| {' | '.join('---:' for _ in cells)} |"]
    for feature, worth in by_feature.items():
        scaled = np.array(worth) * [*cells.values()]
        error = scaled.std(axis=0, ddof=1) / np.sqrt(len(scaled))
        shown = (f"{mean:+.2f} ± {one:.2f}" for mean, one in zip(scaled.mean(axis=0), error, strict=True))
        lines.append(f"| {feature} | {' | '.join(shown)} |")
    return lines


def markdown(rows: list[dict]) -> str:
    lines = ["# Ablations of gradient matching", ""]
    cases = len({(row["set"], row["pool"]) for row in rows})
    lines.append(f"Means and standard errors over {cases} pools; see `benchmarks/ablations.py`.")
    for shots, quotas in dict.fromkeys((row["shots"], row["quotas"]) for row in rows):
        here = [row for row in rows if (row["shots"], row["quotas"]) == (shots, quotas)]
        random = {(row["set"], row["pool"]): row for row in here if row["feature"] == "random"}
        signal = [row for row in here if row["kind"] == "signal"]
        choice = [row for row in here if row["kind"] == "choice" and row["feature"] != "random"]
        kind = "random sets" if quotas == "none" else "random sets stratified by label"
        accuracy, loss = np.mean([row["worth"] for row in random.values()], axis=0)
        lines += ["", f"## {shots} shots, quotas {quotas}", "", f"Rank correlation of J over {kind} with:"]
        lines += table(signal, {"error rate": 1, "loss": 1}, {})
        lines += ["", f"The chosen set, less {kind} ({100 * accuracy:.1f} points, {loss:.2f} nats):"]
        lines += table(choice, {"accuracy, points": 100, "loss, nats": 1}, random)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--markdown", type=Path, required=True)
    parser.add_argument("--store", type=Path, required=True, help="a folder that keeps the gradients")
    parser.add_argument("--proxy", default="micro")
    parser.add_argument("--target", help="another model that reads the prompts")
    parser.add_argument("--sets", nargs="+", default=sorted(QUESTIONS), choices=sorted(QUESTIONS))
    parser.add_argument("--shots", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--pools", type=int, default=3)
    parser.add_argument("--pool-size", type=int, default=500)
    parser.add_argument("--items", type=int, default=250)
    parser.add_argument("--random-sets", type=int, default=20)
    args = parser.parse_args()
    args.markdown.write_text(markdown(run(args)))


if __name__ == "__main__":
    main()
