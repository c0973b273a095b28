"""Scoring choices behind a long prompt: one forward each, an expanded cache, and a tree behind one cache.

    python benchmarks/shared_prefix.py [--prefix 500 2000] [--choices 4 77] [--queries 4]

Processor time per query of micro on one thread, the prefix read beforehand where it is shared. The three
must agree on every score before anything is timed. Of one forward each, two choices are timed.
"""

import argparse
import time

import numpy as np
import torch

from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.model import Proxy
from icl_plugins.proxy.prefix_state import PrefixState
from icl_plugins.proxy.shared_prefix import SharedPrefix


def make(proxy, prefix, queries, choices, seed=0):
    """Random tokens: queries of 30, choices of 1 to 6 of which several begin alike."""
    rng = np.random.default_rng(seed)
    top = proxy.model.config.vocab_size
    starts = rng.integers(10, top, size=(max(1, choices // 4), 2))
    answers = [
        [
            *starts[row % len(starts)][: rng.integers(0, 3)].tolist(),
            *rng.integers(10, top, rng.integers(1, 5)).tolist(),
        ]
        for row in range(choices)
    ]
    questions = rng.integers(10, top, size=(queries, 30)).tolist()
    examples = [
        [Encoded(question + answer, 30, 30 + len(answer)) for answer in answers] for question in questions
    ]
    return tuple(rng.integers(10, top, prefix).tolist()), examples


def scores(shared, state, examples):
    """All scores in order, (queries * choices,)."""
    result = [np.empty(0)] * len(examples)
    for rows, values in shared.score(state, examples):
        for row, value in zip(rows, values, strict=True):
            result[row] = value
    return np.concatenate(result)


def timed(run):
    """The best of two, seconds of processor time."""
    best = np.inf
    for _ in range(2):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def measure(proxy, prefix_length, choices, queries):
    """Seconds per query of the three ways, and of reading the prefix."""
    prefix, examples = make(proxy, prefix_length, queries, choices)
    tree, rows, whole = (SharedPrefix(proxy) for _ in range(3))
    assert tree.packs, tree.reason
    rows.way, whole.way = "rows", "whole"
    state = tree.read(prefix)
    expected = scores(whole, PrefixState(prefix), examples[:1])
    for shared in (tree, rows):
        np.testing.assert_allclose(scores(shared, state, examples[:1]), expected, rtol=1e-4, atol=1e-3)
    return (
        timed(lambda: scores(whole, PrefixState(prefix), [examples[0][:2]])) * choices / 2,
        timed(lambda: scores(rows, state, examples[:1])),
        timed(lambda: scores(tree, state, examples)) / queries,
        timed(lambda: tree.read(prefix)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--proxy", default="micro")
    parser.add_argument("--prefix", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--choices", type=int, nargs="+", default=[4, 77])
    parser.add_argument("--queries", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    proxy = Proxy.load(args.proxy, "cpu", "float32")
    print(
        "| prefix | choices | one forward each, ms | expanded cache | tree "
        "| forwards / tree | expanded / tree | reading the prefix once |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for prefix in args.prefix:
        for choices in args.choices:
            whole, rows, tree, read = (1e3 * one for one in measure(proxy, prefix, choices, args.queries))
            print(
                f"| {prefix} | {choices} | {whole:.0f} | {rows:.0f} | {tree:.1f} "
                f"| {whole / tree:.0f} x | {rows / tree:.1f} x | {read:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
