"""What first-order estimates cost, against running the same prompts, with the proxy micro.

    python benchmarks/influence.py DATA/snips/train.jsonl

Gate first: look-ups equal the Taylor expansion written out, and gradients through shared slots those of each
query by itself. Then, in one run on one pool: scoring 100,000 subsets of 8 demonstrations against inferring
them (inferred on 40, times 2,500); the table against one pass over the queries behind the anchor; the table's
time for 1,000 to 100,000 candidates; and what it holds in memory, with a small and a large block.
"""

import argparse
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from icl_plugins import Pool, Proxy, Template
from icl_plugins.algorithms.slots import slot_table
from icl_plugins.proxy.slot_gradients import query_gradients, slot_gradients
from icl_plugins.proxy.slots import SlotTexts
from icl_plugins.selectors._context import context_losses

SHOTS, SUBSETS, INFERRED = 8, 100_000, 40


def seconds(run: Callable[[], object], times: int = 5) -> float:
    """The least of several runs, after one that warms up."""
    run()
    found = []
    for _ in range(times):
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--queries", type=int, default=128)
    parser.add_argument("--candidates", type=int, default=1000)
    options = parser.parse_args()

    proxy = Proxy.load("micro")
    pool = Pool.from_jsonl(options.data, Template("Query: {text}\nIntent:", " {label}"))
    order = np.random.default_rng(0).permutation(len(pool))
    queries = pool.subset(order[: options.queries].tolist())
    candidates = pool.subset(order[options.queries :][: options.candidates].tolist())
    encoded = [one for one in proxy.encode(queries) if one is not None]
    tokens = [
        ids
        for ids, _ in proxy.encoder.tokenize(
            [text + "\n\n" for text in candidates.texts], add_special_tokens=False
        )
    ]
    texts = SlotTexts.of(proxy, tokens, max(map(len, tokens)))
    embeddings = texts.embeddings.numpy()
    generator = np.random.default_rng(1)
    subsets = np.array([generator.choice(len(candidates), SHOTS, replace=False) for _ in range(SUBSETS)])
    anchor = texts.at(subsets[0])
    standing = anchor.embeddings.numpy()
    losses, gradient = slot_gradients(proxy, anchor, encoded)

    def table(ids: np.ndarray = texts.ids, block: int = 1 << 26):
        return slot_table(gradient.numpy(), ids, embeddings, standing, float(losses.mean()), block=block)

    def infer(subset: np.ndarray) -> float:
        shown = [candidates.texts[row] for row in subset]
        return float(context_losses(proxy, shown, "\n\n", queries.questions, queries.answers).mean())

    scored = table().outcomes(subsets[:200])
    direct = [
        float(losses.mean()) + float((gradient * (texts.at(one).embeddings - anchor.embeddings)).sum())
        for one in subsets[:200]
    ]
    one_by_one = sum(found.sum(0) for _, _, found in query_gradients(proxy, anchor, encoded)) / len(encoded)
    off = float(np.abs(scored - direct).max()), float((gradient - one_by_one).abs().max())
    scale = float(np.abs(direct).max()), float(gradient.abs().max())
    if off[0] > 1e-4 * scale[0] or off[1] > 1e-4 * scale[1]:
        raise SystemExit(f"gate failed: off by {off} of {scale}")
    print(
        f"gate: estimates off by {off[0] / scale[0]:.1e}, gradients by {off[1] / scale[1]:.1e} of the largest"
    )

    gradient_time = seconds(lambda: slot_gradients(proxy, anchor, encoded))
    table_time = seconds(table)
    made = table()
    scoring = seconds(lambda: made.outcomes(subsets))
    pass_time = seconds(lambda: infer(subsets[0]))
    start = time.perf_counter()
    for subset in subsets[:INFERRED]:
        infer(subset)
    inferring = (time.perf_counter() - start) * SUBSETS / INFERRED
    whole = gradient_time + table_time + scoring
    print(f"one pass over {len(encoded)} queries behind {SHOTS} demonstrations: {pass_time:.3f} s")
    print(
        f"gradient {gradient_time:.3f} s and table of {len(candidates)} candidates {table_time:.3f} s: "
        f"{(gradient_time + table_time) / pass_time:.2f} passes"
    )
    print(
        f"scoring {SUBSETS:,} subsets: {scoring:.3f} s; inferring them: {inferring:,.0f} s; "
        f"{inferring / scoring:,.0f} times, with gradient and table {inferring / whole:,.0f} times"
    )

    for size in (1_000, 10_000, 100_000):
        ids = texts.ids[generator.integers(0, len(texts.ids), size)]
        spent = seconds(lambda ids=ids: table(ids), 3)
        print(f"{size:>7,} candidates: {spent:.3f} s, {1e6 * spent / size:.2f} us each")
    for block in (1 << 18, 1 << 26):
        tracemalloc.start()
        table(ids, block)
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        print(f"blocks of {block:,} numbers: {peak:.0f} MiB, the table itself {SHOTS * 1e5 * 8 / 2**20:.0f}")


if __name__ == "__main__":
    main()
