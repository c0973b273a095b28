"""What first-order estimates know of real losses, with the proxy micro.

    python benchmarks/estimates.py DATA --out estimates.json

DATA holds NAME/train.jsonl. 200 real ordered subsets, mean loss of 100 queries behind each as a prompt of
their own, against their estimates: around one or several real subsets or the mean embedding, with slots for
labels (all subsets have the same labels in the same places) or free, in slots or joined as published.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from icl_plugins import GradRE, Pool, Proxy, Template
from icl_plugins.algorithms.honesty import Measured, estimate_quality
from icl_plugins.selectors._common import Request
from icl_plugins.selectors._joined import joined_table

QUESTIONS = {
    "snips": "Query: {text}\nIntent:",
    "trec": "Question: {text}\nType:",
    "banking77": "Query: {text}\nIntent:",
}
ANCHORS = (1, 4, 16, 64, "mean")
SUBSETS, QUERIES, POOL = 200, 100, 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--shots", type=int, nargs="+", default=[8])
    parser.add_argument("--names", nargs="+", default=list(QUESTIONS))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    proxy, rows = Proxy.load("micro"), []
    for name in options.names:
        template = Template(QUESTIONS[name], " {label}")
        whole = Pool.from_jsonl(options.data / name / "train.jsonl", template)
        pool = whole.subset(np.random.default_rng(0).permutation(len(whole))[:POOL].tolist())
        for shots in options.shots:
            for labels in (True, False):
                method = GradRE(proxy, queries=QUERIES, slot_labels=labels)
                study = method._study(Request.check(pool, shots, None, None, (), (), proxy))
                subsets = study.draw(SUBSETS, seed=1)
                real = study.losses(subsets)
                for anchors in ANCHORS:
                    table, anchor = study.table(study.anchors(anchors))
                    found = {"slots": (table.outcomes(subsets), anchor)}
                    if anchors in (1, 16):
                        joined, anchor = joined_table(study, study.draw(anchors))
                        found["joined"] = joined.outcomes(subsets), anchor
                    for layout, (estimates, at) in found.items():
                        quality = estimate_quality([Measured(estimates, real, at)])
                        row = {
                            "data": name,
                            "shots": shots,
                            "slot_labels": labels,
                            "layout": layout,
                            "anchors": anchors,
                        }
                        rows.append({**row, **quality.__dict__, "mean": real.mean(), "sd": real.std()})
                        print(
                            row,
                            f"{quality.rank_correlation:+.2f} {quality.relative_error:.3f} "
                            f"{quality.constant_relative_error:.3f} {quality.regret:.3f}",
                            f"{quality.constant_regret:.3f}",
                            flush=True,
                        )
    options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
