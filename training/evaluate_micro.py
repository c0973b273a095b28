"""Accuracy against shots on families micro never saw.

    python training/evaluate_micro.py MODEL DATA --out curve.json

Every item has demonstrations of its own, drawn at random from the train file, and is answered by the
label of highest log-probability (summed over its tokens). Items are independent, so the interval over
items covers the draw of the demonstrations too. Rows of train serve as items where test is too small.
"""

import argparse
import copy
import json
import math
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

TEMPLATES = {
    "snips": "Query: {text}\nIntent:",
    "trec": "Question: {text}\nType:",
    "agnews": "Text: {text}\nTopic:",
    "sst2": "Review: {text}\nSentiment:",
}


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion."""
    z, p = 1.96, hits / n
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)


def rows_of(folder: Path, name: str) -> tuple[list[dict], list[dict]]:
    """Train and test rows."""
    read = lambda part: [json.loads(x) for x in (folder / name / f"{part}.jsonl").read_text().splitlines()]  # noqa: E731
    return read("train"), read("test")


@torch.no_grad()
def label_scores(model, cache, query: list[int], labels: list[list[int]]) -> list[float]:
    """Log-probability of each label after context (in the cache) and query, summed over its tokens."""
    cache = copy.deepcopy(cache)  # a model writes into the cache it is given
    first = (
        model(torch.tensor([query]), past_key_values=cache, logits_to_keep=1).logits[0, -1].log_softmax(-1)
    )
    scores = [first[y[0]].item() for y in labels]
    longer = [i for i, y in enumerate(labels) if len(y) > 1]
    if longer:
        width = max(len(labels[i]) for i in longer) - 1
        cache.batch_repeat_interleave(len(longer))
        ids = torch.tensor([labels[i][:-1] + [0] * (width - len(labels[i]) + 1) for i in longer])
        logits = model(ids, past_key_values=cache).logits.log_softmax(-1)
        for row, i in enumerate(longer):
            scores[i] += sum(logits[row, t, y].item() for t, y in enumerate(labels[i][1:]))
    return scores


@torch.no_grad()
def item_answers(
    model, demonstrations: list[list[int]], query: list[int], labels: list[list[int]], shots: list[int]
) -> list[int]:
    """Index of the best label with the first n demonstrations, for each n in ``shots`` (increasing)."""
    cache, answers = DynamicCache(config=model.config), []
    new = [0]
    for before, n in zip([0, *shots], shots, strict=False):
        new = new + [t for ids in demonstrations[before:n] for t in ids]
        if new:
            model(torch.tensor([new]), past_key_values=cache, logits_to_keep=1)
        answers.append(int(np.argmax(label_scores(model, cache, query, labels))))
        new = []
    return answers


def curve(model, tokenizer, folder: Path, name: str, shots: list[int], items: int, seed: int) -> dict:
    """Accuracy, interval, chance and majority share for one family."""
    train, test = rows_of(folder, name)
    rng = np.random.default_rng(seed)
    question = TEMPLATES[name]
    encode = lambda text: tokenizer(text, add_special_tokens=False).input_ids  # noqa: E731
    demonstrations = [encode(question.replace("{text}", r["text"]) + f" {r['label']}\n\n") for r in train]
    names = sorted({r["label"] for r in train})
    labels = [encode(" " + n) for n in names]
    order = rng.permutation(len(train))
    extra = [train[i] for i in order[: max(0, items - len(test))]]
    pool = order[max(0, items - len(test)) :]
    chosen = [test[i] for i in rng.permutation(len(test))[:items]] + extra
    gold = [r["label"] for r in chosen]
    result = {
        "items": len(chosen),
        "chance": 1 / len(names),
        "majority": max(gold.count(n) for n in names) / len(gold),
    }
    hits = dict.fromkeys(shots, 0)
    for row in chosen:
        shown = [demonstrations[i] for i in rng.choice(pool, max(shots), replace=False)]
        query = encode(question.replace("{text}", row["text"]))
        for n, answer in zip(shots, item_answers(model, shown, query, labels, shots), strict=True):
            hits[n] += names[answer] == row["label"]
    for n in shots:
        low, high = wilson(hits[n], len(chosen))
        result[str(n)] = {"accuracy": hits[n] / len(chosen), "low": low, "high": high}
    return result


def main() -> None:
    """Parse arguments and print one line a family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--families", nargs="+", default=list(TEMPLATES))
    parser.add_argument("--shots", nargs="+", type=int, default=[0, 4, 8, 16, 32, 64, 128])
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32, use_safetensors=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    results = {}
    for name in args.families:
        results[name] = curve(model, tokenizer, args.data, name, args.shots, args.items, args.seed)
        print(name, json.dumps(results[name]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
