"""Deep thinking (arXiv 2305.13016) on its ten tasks: fixed T, held-out T, and the paper's T side by side.

    python benchmarks/deep_thinking.py DATA --out runs/deep_thinking.jsonl --markdown deep_thinking.md

Every draw of demonstrations is read 1 to 15 times, once with the positions of the published code and once as
the library does it, and the evaluation items are scored after every step. Beside it: T chosen on held-out
demonstrations, the doubled prompt (the demonstrations twice), and calibrated in-context learning. A line of
JSON for each task, number of shots and draw; a run that was interrupted goes on where it was. Tasks,
templates and numbers: deep_thinking.yaml.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from deep_thinking_table import markdown
from scipy.special import log_softmax

from icl_plugins import Pool, Proxy, Random, Template
from icl_plugins.duplicates import plain_text
from icl_plugins.evaluation.answers import item_choices, label_choices
from icl_plugins.evaluation.evaluate import evaluate
from icl_plugins.evaluation.local import LocalTarget
from icl_plugins.prompt import ManyShotPrompt
from icl_plugins.readers import read_jsonl
from icl_plugins.thinking.choosing import choose, hold_out, scores_by_step
from icl_plugins.thinking.positions import resolve
from icl_plugins.thinking.prefix import prefix_tokens
from icl_plugins.thinking.reading import Pace

CONFIG = Path(__file__).parent / "deep_thinking.yaml"
LEAVE_ONE_OUT = 8  # demonstrations; more are held out in FOLDS parts
FOLDS = 4
Record = Mapping[str, object]


def copa(row: Record) -> Record:
    link = "because" if row["question"] == "What was the cause?" else "therefore"
    return {**row, "question": f"{str(row['context']).removesuffix('.')} {link}"}


def winogrande(row: Record) -> Record:
    before, after = (part.strip() for part in str(row["question"]).split("_"))
    return {**row, "question": before, "choices": [f"{option} {after}" for option in row["choices"]]}


def hellaswag(row: Record) -> Record:
    return {**row, "question": str(row["question"]).partition(": ")[2]}


RECORDS: dict[str | None, Callable[[Record], Record]] = {
    None: lambda row: row,
    "copa": copa,
    "winogrande": winogrande,
    "hellaswag": hellaswag,
}


@dataclass(frozen=True)
class Task:
    """pool: rows of train that ask nothing that test asks. choices: those of each item."""

    name: str
    pool: Pool
    items: Pool
    choices: Sequence[tuple[str, ...]]
    shots: int

    @classmethod
    def load(cls, name: str, folder: Path, config: dict, shots: int) -> "Task":
        template = Template(config["question"], config["answer"])
        labelled = "{label}" in config["answer"]

        def read(part: str) -> Pool:
            rows = map(RECORDS[config.get("record")], read_jsonl(folder / name / f"{part}.jsonl"))
            return Pool.from_records(rows, template, label_field="label" if labelled else None)

        train, test = read("train"), read("test")
        asked = {plain_text(question) for question in test.questions}
        pool = train.subset(
            [row for row, question in enumerate(train.questions) if plain_text(question) not in asked]
        )
        order = np.random.default_rng(0).permutation(len(test))
        items = test.subset(sorted(order[: config["shots"][shots]].tolist()))
        choices = [label_choices(pool)] * len(items) if labelled else item_choices(items)
        return cls(name, pool, items, choices, shots)

    def prompt(self, seed: int) -> ManyShotPrompt:
        quotas = self.shots // len(set(self.pool.labels)) if self.pool.label_field else None
        return Random(seed=seed).select(self.pool, self.shots, quotas=quotas).to_prompt()


def bits(right: np.ndarray) -> str:
    return "".join("01"[int(one)] for one in right)


def thought(target: LocalTarget, task: Task, prompt: ManyShotPrompt, asked: str, config: dict) -> dict:
    """What T readings give.

    right: for each step a text of 0 and 1, one for each item. loss: for each step the mean nats of the right
    answer among the choices. held_out_steps: the T that held-out demonstrations choose.
    """
    proxy, texts = target.proxy, target.texts
    mode, move, _ = resolve(proxy, asked, len(prefix_tokens(texts, prompt)))
    pace = Pace(config["step_size"], config["momentum"], mode, move)
    queries = list(zip(task.items.examples, task.choices, strict=True))
    gold = [own.index(answer) for own, answer in zip(task.choices, task.items.answers, strict=True)]
    right, loss = [], []
    for scores in scores_by_step(proxy, prompt, queries, texts, pace, config["steps"]):
        pairs = list(zip(scores, gold, strict=True))
        right.append(bits(np.array([one.argmax() == best for one, best in pairs])))
        loss.append(float(np.mean([-log_softmax(one)[best] for one, best in pairs])))
    steps = 1  # one demonstration cannot be held out of itself
    if task.shots > 1:
        folds = task.shots if task.shots <= LEAVE_ONE_OUT else FOLDS
        held_out = hold_out(proxy, prompt, texts, pace, steps=config["steps"], folds=folds, seed=0)
        steps = choose([held_out]).steps
    return {"mode": mode, "right": right, "loss": loss, "held_out_steps": steps}


def measure(target: LocalTarget, task: Task, draw: int, config: dict) -> dict:
    prompt = task.prompt(draw)
    doubled = replace(prompt, demonstrations=prompt.demonstrations * 2, examples=prompt.examples * 2)

    def controlled(one: ManyShotPrompt, calibrate: bool) -> str:
        found = evaluate(one, task.items, target, choices=task.choices, calibrate=calibrate)
        return bits(np.array(found.values))

    return {
        "task": task.name,
        "shots": task.shots,
        "draw": draw,
        "chance": float(np.mean([1 / len(own) for own in task.choices])),
        "tokens": len(prefix_tokens(target.texts, prompt)),
        "doubled": controlled(doubled, False),
        "calibrated": controlled(prompt, True),
        "thought": {asked: thought(target, task, prompt, asked, config) for asked in config["positions"]},
    }


def planned(names: Sequence[str], folder: Path, config: dict) -> Iterator[tuple[Task, int]]:
    """The paper's number of shots first; a draw of every task before the next draw."""
    for place in (0, 1):
        tasks = [
            Task.load(name, folder, own, list(own["shots"])[place])
            for name, own in config["tasks"].items()
            if name in names and place < len(own["shots"])
        ]
        yield from ((task, draw) for draw in range(config["draws"]) for task in tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, added to")
    parser.add_argument("--markdown", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--tasks", nargs="+", help="only these")
    args = parser.parse_args()
    config = yaml.safe_load(args.config.read_text("utf-8"))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.touch()
    cells = [json.loads(line) for line in args.out.read_text("utf-8").splitlines()]
    done = {(cell["task"], cell["shots"], cell["draw"]) for cell in cells}
    target = LocalTarget(Proxy.load(config["model"]))
    for task, draw in planned(args.tasks or list(config["tasks"]), args.data, config):
        if (task.name, task.shots, draw) in done:
            continue
        cells.append(measure(target, task, draw, config))
        with args.out.open("a", encoding="utf-8") as out:
            out.write(json.dumps(cells[-1]) + "\n")
        print(task.name, task.shots, "shots, draw", draw, flush=True)
    args.markdown.write_text(markdown(cells), "utf-8")


if __name__ == "__main__":
    main()
