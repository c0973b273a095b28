"""ManyICL against other ways to train on the same tasks: equal tokens, equal steps, several seeds.

    python benchmarks/many_icl.py DATA --text data_open/text --out runs/many_icl [--seeds 0 1 2] [--steps 200]
    python benchmarks/many_icl_table.py runs/many_icl/cells.jsonl --page docs/benchmarks-tuning.md

Every model starts from the same base and sees as many rows of as many tokens in as many steps. Accuracy and
nats against shots are measured on rows that were not trained on, the same items and demonstrations for all
models. A line of JSON for each model; a run that was interrupted goes on where it was. Tasks and templates:
many_icl_tasks.py. All of one seed comes before the next seed; seeds that were run apart are put together by
putting their lines together.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from many_icl_models import ADAPTER, FULL, METHODS, TURNS, Training
from many_icl_tasks import TRAINED, UNSEEN_KINDS, Tasks, documents, load

from icl_plugins import Proxy
from icl_plugins.tuning import Stage
from icl_plugins.tuning.answered import Answered, answered
from icl_plugins.tuning.plain_text import text_change

SHOTS, MORE = (0, 4, 16, 64), (256,)
LONG = ("trec", "hwu64", "snips")  # short enough for 256 shots in the context that micro was trained on
IN_TURN = (0, 16)
ITEMS, DRAWS = 100, 2
WINDOWS = 12  # documents of neutral text, each about a window
Cell = dict


@dataclass
class Bench:
    """base: measured and trained from. neutral: documents, to measure on."""

    base: Proxy
    tasks: Tasks
    training: Training
    neutral: list[str]

    def cells(self, seeds: Sequence[int]) -> Iterator[tuple[str, int, Callable[[str, int], Cell]]]:
        yield "base", 0, self.untouched
        for seed in seeds:
            yield from ((name, seed, self.multi_task) for name in METHODS)
            yield from ((f"dedicated {name}", seed, self.dedicated) for name in TRAINED)
            yield from ((f"in turn {name}", seed, self.in_turn) for name in TURNS)

    def untouched(self, name: str, seed: int) -> Cell:
        again = Proxy.load(self.base.name)
        found = text_change(self.base, again, self.neutral)
        if found.divergence or found.before != found.after:
            raise SystemExit("the base predicts something else when it is loaded again")
        return {"tasks": self.measured(self.base, list(self.tasks.asked))}

    def multi_task(self, name: str, seed: int) -> Cell:
        tuned, cell = self.training.run(self.base, METHODS[name], self.tasks.trained, name, seed)
        return {**cell, "tasks": self.measured(tuned, list(self.tasks.asked)), **self.text(tuned)}

    def dedicated(self, name: str, seed: int) -> Cell:
        """One task alone, as zero-shot sequences, with as many tokens as the others have for all tasks."""
        own = name.removeprefix("dedicated ")
        tasks = [task for task in self.tasks.trained if task.name == own]
        tuned, cell = self.training.run(self.base, METHODS["zero_shot"], tasks, name, seed)
        return {**cell, "tasks": self.measured(tuned, [own, *UNSEEN_KINDS]), **self.text(tuned)}

    def in_turn(self, name: str, seed: int) -> Cell:
        """One task after the other, the steps shared out: right after each, and all at the end."""
        method = METHODS[name.removeprefix("in turn ")]
        order = np.roll(np.arange(len(TRAINED)), -seed).tolist()
        after_each = {str(shots): np.full((len(order),) * 2, np.nan) for shots in IN_TURN}
        model = self.base
        for turn, at in enumerate(order):
            task = self.tasks.trained[at]
            model, _ = self.training.run(model, method, [task], f"{name} {turn}", seed, len(order))
            asked = range(turn, turn + 1) if turn + 1 < len(order) else range(len(order))
            for place in asked:
                found = self.answers(model, TRAINED[order[place]], IN_TURN)
                for shots, right in zip(found.shots, found.right or (), strict=True):
                    after_each[str(shots)][turn, place] = right.mean()
        kept = {
            shots: [[None if np.isnan(one) else one for one in row] for row in values.tolist()]
            for shots, values in after_each.items()
        }
        return {"order": [TRAINED[at] for at in order], "after_each": kept, **self.text(model)}

    def text(self, tuned: Proxy) -> Cell:
        return {"text": vars(text_change(self.base, tuned, self.neutral))}

    def answers(self, proxy: Proxy, name: str, shots: Sequence[int]) -> Answered:
        return answered(proxy, self.tasks.asked[name], shots, items=ITEMS, draws=DRAWS)

    def measured(self, proxy: Proxy, names: Sequence[str]) -> Cell:
        found = [self.answers(proxy, name, SHOTS + MORE * (name in LONG)) for name in names]
        return {one.task: as_json(one) for one in found}


def as_json(found: Answered) -> Cell:
    """right: for each number of shots and draw a text of 0 and 1; nats: the means over draws, by item."""
    right = [["".join(map(str, draw.astype(int))) for draw in one] for one in found.right or ()]
    nats = [np.round(one.mean(axis=0), 3).tolist() for one in found.nats]
    about = {"chance": found.chance, "majority": found.majority, "asked": found.asked}
    return {**about, "shots": list(found.shots), "right": right or None, "nats": nats}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--text", type=Path, required=True, help="folder of books_nonfiction.txt, to replay, "
                        "and wikipedia_snippets.txt, to measure on")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--base", default="micro")
    args = parser.parse_args()
    stage = Stage(steps=args.steps, rows=4, context=512)
    neutral = documents(args.text / "wikipedia_snippets.txt")[:WINDOWS]
    replay = documents(args.text / "books_nonfiction.txt")
    training = Training(stage, replay, neutral[:2], args.out)
    bench = Bench(Proxy.load(args.base), load(args.data), training, neutral)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "cells.jsonl"
    path.touch()
    rates = [one["learning_rate"] for one in (FULL, ADAPTER)]
    settings = {
        "base": args.base,
        "steps": args.steps,
        "rows": stage.rows,
        "context": stage.context,
        "rates": rates,
    }
    cells = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    if any(cell["settings"] != settings for cell in cells):
        raise SystemExit(f"{path} holds a run with other settings: choose another --out")
    done = {(cell["method"], cell["seed"]) for cell in cells}
    for name, seed, make in bench.cells(args.seeds):
        if (name, seed) in done:
            continue
        cell = {"method": name, "seed": seed, "settings": settings, **make(name, seed)}
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(cell) + "\n")
        print(name, "seed", seed, time.strftime("%H:%M:%S"), flush=True)


if __name__ == "__main__":
    main()
