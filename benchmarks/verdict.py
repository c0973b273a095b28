"""The verdict on the selectors, from the comparisons of `verdict_development` and `verdict_confirmation`.

    python benchmarks/verdict.py DEVELOPMENT/comparison.json CONFIRMATION/comparison.json --out verdict.md

Gains over random by number of shots, with 95 % intervals over items and seeds, averaged over the data sets of
each comparison and over all of them; then those of 64 and more shots together, beside the label KL.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import numpy as np

from icl_plugins.evaluation.config import RANDOM
from icl_plugins.evaluation.results import Comparison, Run
from icl_plugins.evaluation.statistics import Difference, average_difference
from icl_plugins.evaluation.table import gain_text, shots_text

MANY = 64
Groups = dict[tuple[str, int | None, str], list[Run]]


def groups_of(runs: Sequence[Run]) -> Groups:
    groups: Groups = {}
    for run in runs:
        groups.setdefault((run.data, run.asked, run.method), []).append(run)
    return groups


def gain(groups: Groups, method: str, shots: Sequence[int | None], base: str = RANDOM) -> Difference | None:
    """Gain over a base, averaged over numbers of shots and data sets; None where a run is missing."""

    def values(
        name: str, data: str
    ) -> np.ndarray:  # (seeds, items): the same items with all numbers of shots
        return np.mean(
            [[run.evaluation.values for run in groups[data, asked, name]] for asked in shots], axis=0
        )

    names = list(dict.fromkeys(key[0] for key in groups))
    if any((data, asked, one) not in groups for data in names for asked in shots for one in (method, base)):
        return None
    return average_difference([(values(method, data), values(base, data)) for data in names])


def table(headers: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(headers) - 1)]
    return ["", *(f"| {' | '.join(cells)} |" for cells in (headers, rule, *lines))]


def by_shots(groups: Groups) -> list[str]:
    asked = list(dict.fromkeys(key[1] for key in groups))
    methods = list(dict.fromkeys(key[2] for key in groups))
    random = [
        fmean(
            fmean(run.evaluation.value for run in runs)
            for key, runs in groups.items()
            if key[1:] == (shots, RANDOM)
        )
        for shots in asked
    ]
    lines = [("random, points", *(f"{100 * value:.1f}" for value in random))]
    for method in (one for one in methods if one != RANDOM):
        lines.append((method, *(gain_text(gain(groups, method, [shots])) for shots in asked)))
    return table(("gain over random", *map(shots_text, asked)), lines)


def many_shots(groups: Groups) -> list[str]:
    asked = [shots for shots in dict.fromkeys(key[1] for key in groups) if shots is None or shots >= MANY]
    if not asked:
        return []
    lines = []
    for method in dict.fromkeys(key[2] for key in groups):
        runs = [run for key, found in groups.items() if key[1] in asked and key[2] == method for run in found]
        over = gain(groups, method, asked) if method != RANDOM else None
        stratified = (
            gain(groups, method, asked, "stratified_random")
            if method not in (RANDOM, "stratified_random")
            else None
        )
        kl = fmean(run.label_kl for run in runs)
        p = "" if over is None else f"{over.p:.3f}"
        lines.append((method, gain_text(over), p, gain_text(stratified), f"{kl:.3f}"))
    return table(
        (f"{MANY} and more shots", "gain over random", "p", "over stratified random", "label KL"), lines
    )


def by_data(groups: Groups) -> list[str]:
    """The gain of each method with 64 shots, by data set."""
    names = list(dict.fromkeys(key[0] for key in groups))
    lines = []
    for method in dict.fromkeys(key[2] for key in groups if key[2] != RANDOM):
        own = [{key: runs for key, runs in groups.items() if key[0] == name} for name in names]
        lines.append((method, *(gain_text(gain(one, method, [MANY])) for one in own)))
    return table((f"{MANY} shots", *names), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("development", type=Path)
    parser.add_argument("confirmation", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    development, confirmation = (Comparison.load(path).runs for path in (args.development, args.confirmation))
    parts = ["# Verdict on the selectors"]
    for heading, runs in (
        ("All data sets", (*development, *confirmation)),
        ("Development", development),
        ("Confirmation", confirmation),
    ):
        groups = groups_of(runs)
        parts += ["", f"## {heading}", *by_shots(groups), *many_shots(groups), *by_data(groups)]
    args.out.write_text("\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
