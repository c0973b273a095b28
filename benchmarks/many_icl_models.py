"""How the models of `many_icl` are trained, each as much as the others."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from icl_plugins import Proxy
from icl_plugins.tuning import ManyICL, Stage, Task, Weighting
from icl_plugins.tuning.drawing import Drawer
from icl_plugins.tuning.fitting import count_tokens
from icl_plugins.tuning.plain_text import text_change
from icl_plugins.tuning.tuned import Tuned

SMALL = 400  # examples of a task by which it is counted how full rows are
# On rows that are not asked, 1e-3 learnt the trained tasks best and 1e-4 forgot least: between the two.
FULL = {"lora_rank": None, "learning_rate": 5e-4}


@dataclass(frozen=True)
class Method:
    """How a model is trained: what differs from ManyICL."""

    stage: dict = field(default_factory=dict)
    targets: str = "all"
    settings: dict = field(default_factory=dict)


ADAPTER = {"lora_rank": 64, "learning_rate": 3e-4}
METHODS = {
    "many_icl": Method(),
    "zero_shot": Method({"zero_shot": 1.0}),
    "mask_last": Method(targets="last"),
    "full_lm": Method(targets="text"),
    "other_names": Method({"other_names": 0.5}),
    "adapter": Method(settings=ADAPTER),
    "adapter_kl_replay": Method({"plain": 0.2}, settings={**ADAPTER, "kl": 1.0}),
}
TURNS = ("many_icl", "zero_shot")


@dataclass(frozen=True)
class Training:
    """stage: how much. replay: documents. check: a few, on which a saved model is read again. out: folder."""

    stage: Stage
    replay: list[str]
    check: list[str]
    out: Path

    def run(
        self, base: Proxy, method: Method, tasks: Sequence[Task], name: str, seed: int, turns: int = 1
    ) -> tuple[Proxy, dict]:
        """Train, check that what was saved is what was trained, and remove it -> the model, and about it.

        turns: the steps are shared out among so many.
        """
        begun, folder = time.perf_counter(), self.out / f"{name} {seed}".replace(" ", "_")
        stage = replace(self.stage, **method.stage, steps=self.stage.steps // turns)
        settings = {"checkpoint_every": 50, "evaluate_every": 10**9, **FULL, **method.settings}
        run = ManyICL(base, (stage,), Weighting(targets=method.targets), seed=seed, **settings)
        tuned = run.fit(tasks, folder, text=self.replay if stage.plain else ())
        seconds = time.perf_counter() - begun
        self.read_again(tuned, folder / "model")
        shutil.rmtree(folder)
        losses = tuned.record["losses"]
        return tuned.proxy, {
            "seconds": round(seconds, 1),
            "loss": [round(float(np.mean(part)), 4) for part in (losses[:10], losses[-10:])],
            "tokens": self.tokens(base, stage, tasks),
        }

    def read_again(self, tuned: Tuned, folder: Path) -> None:
        found = text_change(tuned.proxy, Proxy.load(folder), self.check)
        if found.divergence > 1e-3:  # micro is kept in float16
            raise SystemExit(f"{folder} predicts something else than the model that was trained")

    def tokens(self, base: Proxy, stage: Stage, tasks: Sequence[Task]) -> int:
        """Tokens of the run, by how full some of its rows are."""
        some = [replace(task, pool=task.pool.subset(range(SMALL))) for task in tasks]
        counts = [count_tokens(task, base.encoder) for task in some]
        drawer = Drawer(stage, some, self.replay, (), base.encoder, counts)
        rows = [drawer.row(np.random.default_rng(row)) for row in range(40)]
        mean = np.mean([sum(len(one.ids) for one in row) for row in rows])
        return round(float(mean) * stage.rows * stage.steps)
