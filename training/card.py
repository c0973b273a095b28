# ruff: noqa: E501  (a page of text)
"""Write micro's model card: how it was made, from what, and how well it learns in context.

python training/card.py DATA_OPEN runs/micro curve.json icl_plugins/proxy/micro/README.md
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

from corpus import SHARE_ALIKE_TEXT, load_sources
from evaluate_micro import wilson
from train_micro import STAGES

HEAD = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
---
# micro

A small causal language model that learns in context, made to be the proxy of `icl_plugins`: its gradients
choose demonstrations. It ships in the package (`Proxy.load("micro")`) and runs on two CPU cores. It knows
little about the world, and it is not meant to answer people.

| | |
|---|---|
| architecture | Llama: {layers} layers, width {width}, {heads} heads, MLP {mlp}, tied embeddings |
| parameters | {parameters:,} (float16 safetensors) |
| tokenizer | byte-level BPE of {vocabulary:,} tokens, digits apart; chat template included |
| context | {context:,} positions; trained on sequences of up to 2,048 tokens, with jumps in the positions |
| training | {steps:,} steps, seed {seed}, {time} |

## Accuracy against shots

Families whose data it never saw. Every one of {items} items has demonstrations of its own, drawn at random;
the answer is the label with the highest log-probability, summed over its tokens. 95 % Wilson intervals.
{command}

{curve}

{verdict}

## How it was trained

Loss on every answer of many-shot sequences, and on the token that ends it (the objective of ManyICL, arXiv
2506.11103), with a little language modelling on plain text. It starts from word vectors (co-occurrence, PPMI,
SVD) and from a hand-written circuit that pools recent words, finds positions that pooled alike and copies what
stands there (`training/initialise.py`); then texts grow from single words to whole sentences:

| stage | steps at most | tokens of a sequence | words of a text | classes at most |
|---|---|---|---|---|
{stages}

Tasks: {tasks}. Names of classes are invented for the sequence (one word, or two or three in three spellings;
from "written names" on half of them in capitals, as labels are written) or letters and digits; where a task has
names of its own they are kept in about a quarter of its sequences and permuted in about an eighth. Templates,
separators and the number of classes change from one sequence to the next. Tasks are drawn by source, weighted by the square root of its rows. To repeat it:

    python training/train_micro.py DATA_OPEN --out runs/micro
    python training/export_micro.py runs/micro icl_plugins/proxy/micro
    python training/evaluate_micro.py icl_plugins/proxy/micro DATA --out curve.json

AdamW (0.9, 0.98), weight decay 0.02 on matrices, gradient norm clipped at 1, learning rate 1.5e-3 with a cosine
decay over the last 35 % of the steps, bfloat16 products, batches of 4,096 (single words) or 8,192 tokens.

## Limits

* Trained on English, with a little of other languages (home-assistant intents, dates and numbers).
* Some names draw answers whatever the question, so that with few classes, long texts and names that it
  hardly saw (AG News) it may be below chance.
* What a text is about, it tells by its words. Sentiment, inference and arithmetic are beyond it.
* Accuracy is that of a small model: see the table. Beyond 2,048 tokens it was only trained by jumps in position.
* Its training data include third-party comments (GoEmotions, product reviews, tweets) with strong language.

## Data

Nothing of sst2, sst5, mr, trec, trec_fine, agnews, snips, snli, rte, copa, openbookqa, qasc, commonsenseqa and
geoquery is in its training. Tasks marked share-alike or sensitive, and texts under CC BY-SA, were left out, and
the rows that overlap an evaluation set.

| source | tasks | rows | licence |
|---|---|---|---|
{sources}

Plain text:

{texts}
"""


def curve_table(curve: dict) -> str:
    """One row a family."""
    shots = [k for k in next(iter(curve.values())) if k.isdigit()]
    lines = ["| family | chance | majority | " + " | ".join(shots) + " |", "|---" * (3 + len(shots)) + "|"]
    for name, row in curve.items():
        cells = [f"{row[s]['accuracy']:.2f} ({row[s]['low']:.2f}-{row[s]['high']:.2f})" for s in shots]
        lines.append(f"| {name} | {row['chance']:.2f} | {row['majority']:.2f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def verdict(curve: dict) -> str:
    """Say plainly where it beats chance and majority at 32 shots and more."""
    wins, losses = [], []
    for name, row in curve.items():
        best = [
            s
            for s in ("32", "64", "128")
            if s in row
            and row[s]["low"]
            > max(row["chance"], wilson(round(row["majority"] * row["items"]), row["items"])[1])
        ]
        (wins if best else losses).append(f"{name} ({', '.join(best)} shots)" if best else name)
    text = f"Beats chance and the majority class, intervals apart: {'; '.join(wins) or 'none'}."
    return text + (f" Does not: {', '.join(losses)}." if losses else "")


def sources_table(folder: Path) -> str:
    """One row a source."""
    groups = defaultdict(list)
    for source in load_sources(folder):
        groups[source.source].append(source)
    return "\n".join(
        f"| {name} | {len(group)} | {sum(len(s.rows) for s in group):,} | {', '.join(sorted({s.licence for s in group}))} |"
        for name, group in sorted(groups.items(), key=lambda item: item[0].lower())
    )


def texts(folder: Path) -> str:
    """One line a file of plain text, with the works in it."""
    entries = json.loads((folder / "tasks.json").read_text())["text"]
    kept = [e for e in entries if e["file"] not in SHARE_ALIKE_TEXT]
    return "\n".join(f"* {e['source']}. {e['licence']}." for e in kept)


def main() -> None:
    """Gather and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("data", "run", "curve", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--time", default="", help="how long it took, on what")
    parser.add_argument("--command", default="")
    args = parser.parse_args()
    config = json.loads((args.run / "config.json").read_text())
    curve = json.loads(args.curve.read_text())
    width, layers, mlp = config["hidden_size"], config["num_hidden_layers"], config["intermediate_size"]
    size = config["vocab_size"] * width + layers * (4 * width**2 + 3 * width * mlp + 2 * width) + width
    args.out.write_text(
        HEAD.format(
            layers=layers, width=width, heads=config["num_attention_heads"], mlp=mlp, parameters=size,
            vocabulary=config["vocab_size"],
            context=config["max_position_embeddings"], seed=0, time=args.time, command=args.command,
            steps=json.loads((args.run / "counters.json").read_text())["step"],
            items=next(iter(curve.values()))["items"], curve=curve_table(curve), verdict=verdict(curve),
            stages="\n".join(
                f"| {s.name} | {s.steps} | {s.length} | {s.window[0]} to {s.window[1]} | {s.classes} |" for s in STAGES
            ),
            tasks="labelled tasks (fresh subsets of their classes), sentences that share a word, an opening, a "
            "document or a cluster of word vectors, questions with short answers, plain text",
            sources=sources_table(args.data), texts=texts(args.data),
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
