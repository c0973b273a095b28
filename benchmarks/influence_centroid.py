"""GradE's query loss and CLG's centroid in one objective: is a set that serves both better than one alone?

    python benchmarks/influence_centroid.py DATA --store runs/gradients --out influence_centroid.json

SlotAssignment minimises loss + w J^2, J being the distance of the set's mean gradient from the pool's: J^2 is
added to what finalists are judged by, and to the table by its share of each candidate given the others that
stand around it. w: so many standard deviations of the loss over random sets for one of J^2; 0 is the loss
alone. Accuracy and loss on held-out items, on the data sets that confirm.
"""

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from icl_plugins import GradientMatching, Pool, Proxy, SlotAssignment
from icl_plugins.algorithms.matching import centered_gram
from icl_plugins.algorithms.slots import SlotTable
from icl_plugins.evaluation.config_file import read_config
from icl_plugins.evaluation.datasets import load_data
from icl_plugins.selectors._context import context_scores
from icl_plugins.selectors._study import Study

WEIGHTS = (0.0, 0.3, 1.0, 3.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class CentroidStudy(Study):
    """A study whose losses and tables hold w J^2 too; gram: (n, n) of the candidates' centred gradients."""

    gram: np.ndarray
    weight: float
    around: list[np.ndarray]

    def losses(
        self, subsets: Iterable[Sequence[int] | np.ndarray], stage: str = "real subsets"
    ) -> np.ndarray:
        subsets = [np.asarray(subset) for subset in subsets]
        return super().losses(subsets, stage) + self.weight * self.squared_distances(subsets)

    def squared_distances(self, subsets: Iterable[np.ndarray]) -> np.ndarray:
        return np.array([self.gram[np.ix_(subset, subset)].mean() for subset in subsets])

    def anchors(self, wanted: Any) -> Any:
        self.around[:] = list(self.draw(wanted))
        return super().anchors(wanted)

    def table(self, anchors: Any, last: int | None = None) -> tuple[SlotTable, float]:
        made, loss = super().table(anchors, last)
        shots = len(self.slots)
        rows = np.array(self.around)
        sums = self.gram[rows].sum(1)  # (a, n), over all slots
        others = (sums[:, None] - self.gram[rows]).mean(0)  # (k, n), over the other slots
        share = (2 * others + self.gram.diagonal()) / shots**2
        table = replace(made, table=made.table + self.weight * share)
        return table, loss + self.weight * float(self.squared_distances(self.around).mean())


@dataclass(frozen=True)
class WithCentroid(SlotAssignment):
    """SlotAssignment on loss + weight J^2, in standard deviations of random sets."""

    gram: Any = None
    weight: float = 0.0

    def _near(self, study: Any, incumbent: np.ndarray, round_: int) -> np.ndarray:
        study.around[:] = list(super()._near(study, incumbent, round_))
        return np.array(study.around)

    def _study(self, request: Any) -> CentroidStudy:
        study = super()._study(request)
        parts = {one.name: getattr(study, one.name) for one in fields(study)}
        gram = self.gram[np.ix_(study.rows, study.rows)]
        made = CentroidStudy(**parts, gram=gram, weight=0.0, around=[])
        sets = made.draw(32, seed=9)
        scale = Study.losses(study, sets).std() / made.squared_distances(sets).std()
        return replace(made, weight=self.weight * float(scale))


def measured(proxy: Proxy, pool: Pool, rows: Sequence[int], items: Pool) -> tuple[float, float]:
    """Accuracy and loss of held-out items, by the likeliest of all answers."""
    options = sorted({*pool.answers, *items.answers})
    texts = [pool.texts[row] for row in rows]
    choices = [options] * len(items)
    scores = np.array(context_scores(proxy, texts, pool.template.separator, items.questions, choices))
    gold = np.array([options.index(answer) for answer in items.answers])
    return float((scores.argmax(1) == gold).mean()), float(-scores[np.arange(len(gold)), gold].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--config", type=Path, default="benchmarks/configs/influence_confirmation.yaml")
    parser.add_argument("--store", type=Path, default=Path("runs/gradients"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shots", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--names", nargs="+", default=["sst2", "sst5", "agnews", "mr"])
    parser.add_argument("--weights", type=float, nargs="+", default=WEIGHTS)
    options = parser.parse_args()
    config, _ = read_config(options.config, {"data": str(options.data)})
    proxy = Proxy.load("micro")
    found = []
    for data in config.datasets:
        if data.name not in options.names:
            continue
        loaded = load_data(config, data)
        pool, items = loaded.pool, loaded.items
        matching = GradientMatching(proxy=proxy, store=options.store / data.name)
        gram = sum(centered_gram(block) for block in matching.features(pool).blocks)
        for shots in options.shots:
            for weight in options.weights:
                selector = WithCentroid(proxy, queries=64, check=0, gram=gram, weight=weight)
                study_rows = selector.select(pool, shots).indices
                accuracy, loss = measured(proxy, pool, study_rows, items)
                found.append(
                    {"data": data.name, "shots": shots, "weight": weight, "accuracy": accuracy, "loss": loss}
                )
                print(found[-1], flush=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
