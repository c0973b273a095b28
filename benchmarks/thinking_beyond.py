"""Beyond the paper: what else a prompt's keys and values can become, against what costs no state.

    python benchmarks/thinking_beyond.py DATA --out runs/beyond.jsonl [--shots 32] [--draws 5] [--data trec]
    python benchmarks/thinking_beyond.py --table runs/beyond.jsonl

Each draw of demonstrations is one line; a run that was stopped goes on. Everything that is chosen is chosen
on demonstrations held out of the prompt. Accuracy on items of the test file that no prompt shows.
"""

import argparse
import json
import time
from functools import cache
from pathlib import Path

import numpy as np
import thinking_variants as variants

from icl_plugins import Pool, Proxy, Random, Template
from icl_plugins.evaluation.local_texts import LocalTexts
from icl_plugins.proxy.prefix_state import PrefixState, read
from icl_plugins.thinking.choosing import choose
from icl_plugins.thinking.context_tuning import Training
from icl_plugins.thinking.positions import resolve
from icl_plugins.thinking.prefix import prefix_tokens
from icl_plugins.thinking.reading import Pace

QUESTIONS = {
    "trec": "Question: {text}\nType:",
    "snips": "Query: {text}\nIntent:",
    "sst2": "Review: {text}\nSentiment:",
    "agnews": "Article: {text}\nCategory:",
    "sst5": "Review: {text}\nSentiment:",
    "mr": "Review: {text}\nSentiment:",
    "hwu64": "Query: {text}\nIntent:",
    "banking77": "Query: {text}\nIntent:",
    "clinc150": "Query: {text}\nIntent:",
}
ORDERS, RATE, ITERATIONS = 4, 0.01, 11
_LABELS = 10  # of data sets with more, the most frequent ones


def load(folder, name, items):
    template = Template(question=QUESTIONS[name], answer=" {label}", separator="\n\n")
    pool = Pool.from_jsonl(folder / name / "train.jsonl", template)
    counts = sorted(pool.label_counts.items(), key=lambda one: (-one[1], one[0]))[:_LABELS]
    kept = {label for label, _ in counts}
    rows = [one for one in pool.examples if one["label"] in kept]
    pool = Pool.from_records(rows, template, label_field="label")
    test = Pool.from_jsonl(folder / name / "test.jsonl", template)
    found = [one for one in test.examples if one["label"] in kept]
    order = np.random.default_rng(0).permutation(len(found))[:items]
    return pool, [found[at] for at in order]


def measure(task, prompt, most, only):
    """The items answered right by each variant, and its seconds; only: parts of the names of those wanted."""
    proxy, ids = task.proxy, prefix_tokens(task.texts, prompt)
    plain = read(proxy, ids, PrefixState())
    mode, move, _ = resolve(proxy, "auto", len(ids))
    pace, training = Pace(0.01, 0.9, mode, move), Training(RATE, 0.0, 0)
    found = {}
    held_out = cache(lambda: variants.steps_of(task, prompt, training, most))

    def tell(name, scores):
        if only and not any(part in name for part in ("plain", *only)):
            return
        started = time.process_time()
        values = scores()
        found[name] = (task.right(values), round(time.process_time() - started, 2))

    def state(name, make):
        tell(name, lambda: task.scores(prompt, make()))

    state("plain", lambda: plain)
    tell("calibrated", lambda: variants.calibrated(task, prompt, plain))
    tell("doubled", lambda: task.scores(prompt, variants.doubled(task, prompt)))
    tell("order ensemble", lambda: variants.order_ensemble(task, prompt, ORDERS))
    state("averaged orders", lambda: variants.averaged_orders(task, prompt, ORDERS))
    state("deep thinking, 5 steps", lambda: variants.after(task, prompt, pace, 5))

    def thought(steps):
        return variants.after(task, prompt, pace, steps)

    def tuned(steps):
        return variants.after(task, prompt, training, steps)

    state("deep thinking, chosen", lambda: thought(choose([variants.steps_of(task, prompt, pace, 15)]).steps))
    state("layer groups", lambda: variants.layer_groups(task, prompt))
    state("trust region", lambda: variants.trust_region(task, prompt))
    state(f"context tuning, {ITERATIONS} steps", lambda: tuned(ITERATIONS))
    tell("context tuning, calibrated", lambda: variants.calibrated(task, prompt, tuned(ITERATIONS)))
    for rule, errors in (("one standard error", 1.0), ("least loss", 0.0)):
        state(f"context tuning, {rule}", lambda errors=errors: tuned(choose([held_out()], errors).steps))
    return found


def table(path):
    """Mean accuracy, and gains over plain with the interval of a bootstrap over data sets and their draws."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    data = list(dict.fromkeys(line["data"] for line in lines))
    head = "| | " + " | ".join(data) + " | gain over plain, all | seconds |"
    out = [head, "|---|" + "---:|" * (len(data) + 2)]
    rng = np.random.default_rng(0)
    for name in lines[0]["found"]:
        own = [[_percent(line, name) for line in lines if line["data"] == one] for one in data]
        plain = [[_percent(line, "plain") for line in lines if line["data"] == one] for one in data]
        gains = [np.subtract(*pair) for pair in zip(own, plain, strict=True)]
        drawn = rng.integers(0, len(data), (2000, len(data)))
        boot = [np.mean([rng.choice(gains[at], len(gains[at])).mean() for at in sets]) for sets in drawn]
        low, high = np.quantile(boot, [0.025, 0.975])
        seconds = np.mean([line["found"][name][1] for line in lines])
        cells = " | ".join(f"{np.mean(one):.1f}" for one in own)
        gain = np.mean([one.mean() for one in gains])
        out.append(f"| {name} | {cells} | {gain:+.1f} ({low:+.1f} to {high:+.1f}) | {seconds:.1f} |")
    return "\n".join(out)


def _percent(line, name):
    return 100 * np.mean(line["found"][name][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--data", nargs="+", default=list(QUESTIONS))
    parser.add_argument("--shots", type=int, default=32)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--items", type=int, default=250)
    parser.add_argument("--most", type=int, default=31, help="steps of context tuning to choose among")
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of variants")
    parser.add_argument("--model", default="micro")
    args = parser.parse_args()
    if args.table:
        print(table(args.table))
        return
    proxy = Proxy.load(args.model, "cpu", "float32")
    texts = LocalTexts(proxy, "single")
    known = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(line["data"], line["draw"]) for line in map(json.loads, known)}
    for draw in range(args.draws):
        for name in args.data:
            if (name, draw) in done:
                continue
            pool, items = load(args.folder, name, args.items)
            prompt = Random(seed=draw).select(pool, shots=args.shots, quotas="proportional").to_prompt()
            labels = sorted(set(pool.answers))
            golds = np.array([labels.index(pool.template.render_answer(item)) for item in items])
            task = variants.Task(proxy, texts, items, labels, golds)
            found = measure(task, prompt, args.most, args.only)
            with args.out.open("a") as file:
                file.write(
                    json.dumps({"data": name, "draw": draw, "shots": args.shots, "found": found}) + "\n"
                )


if __name__ == "__main__":
    main()
