"""The tasks of `many_icl`: what is trained on, and what is asked, apart from it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from icl_plugins import Pool, Template
from icl_plugins.duplicates import plain_text
from icl_plugins.readers import read_jsonl
from icl_plugins.tuning import Task

HELD_OUT = 400  # rows of train that are not trained on: demonstrations and items, beside all of test
SHINGLE = 7  # words in a row that two texts may not share
LONGEST = 900  # characters; longer examples would leave no room for many shots
_INTENT = ("Query: {text}\nIntent:", " {label}")
_REVIEW = ("Review: {text}\nSentiment:", " {label}")
TEMPLATES = {
    "agnews": ("Article: {text}\nCategory:", " {label}"),
    "trec": ("Question: {text}\nType:", " {label}"),
    "sst2": _REVIEW,
    "hwu64": _INTENT,
    "snli": ("Premise: {premise}\nHypothesis: {hypothesis}\nRelation:", " {label}"),
    "snips": _INTENT,
    "mr": _REVIEW,
    "openbookqa": ("Question: {question} {choices}\nAnswer:", " {answer:letter}"),
    "geoquery": ("Question: {question}\nMeaning:", " {answer}"),
    "nl2bash": ("Task: {question}\nCommand:", " {answer}"),
}
TRAINED = ("agnews", "trec", "sst2", "hwu64", "snli")
SEEN_KINDS = ("snips", "mr")  # never trained on; the kind is
UNSEEN_KINDS = ("openbookqa", "geoquery", "nl2bash")


@dataclass(frozen=True)
class Tasks:
    """trained: to learn. asked: to be measured on, all tasks, no row of which is trained on."""

    trained: tuple[Task, ...]
    asked: dict[str, Task]


def load(folder: Path) -> Tasks:
    trained, asked = [], {}
    for name in TRAINED:
        test, train = _read(folder, name)
        trained.append(Task(name, _pool(name, train[HELD_OUT:]), classes=True))
        asked[name] = Task(name, _pool(name, [*test, *train[:HELD_OUT]]))
    learnt = {shingle for task in trained for text in _texts(task) for shingle in _shingles(text)}
    for name in (*SEEN_KINDS, *UNSEEN_KINDS):
        test, train = _read(folder, name)
        rows = [row for row in (*test, *train) if learnt.isdisjoint(_shingles(str(row.get("text", ""))))]
        asked[name] = Task(name, _pool(name, rows[: len(test) + HELD_OUT]))
    return Tasks(tuple(trained), asked)


def documents(path: Path, size: int = 4000) -> list[str]:
    """Pieces of a text of about so many characters, cut between paragraphs."""
    found, piece = [], ""
    for paragraph in path.read_text("utf-8").split("\n\n"):
        piece += paragraph + "\n\n"
        if len(piece) >= size:
            found.append(piece.strip())
            piece = ""
    return found


def _read(folder: Path, name: str) -> tuple[list[dict], list[dict]]:
    """Rows of test, and rows of train in an order of their own."""
    test, train = (list(read_jsonl(folder / name / f"{part}.jsonl")) for part in ("test", "train"))
    short = [row for row in train if len(str(row)) <= LONGEST]
    order = np.random.default_rng(0).permutation(len(short))
    return [row for row in test if len(str(row)) <= LONGEST], [short[at] for at in order]


def _pool(name: str, rows: Iterable[dict]) -> Pool:
    return Pool.from_records(rows, Template(*TEMPLATES[name]))


def _texts(task: Task) -> list[str]:
    return [str(example.get("text", "")) for example in task.pool]


def _shingles(text: str) -> set[str]:
    """Runs of words, letters and digits only; of a shorter text all of it."""
    words = [word for word in (plain_text(one) for one in text.split()) if word]
    runs = (words[at : at + SHINGLE] for at in range(max(1, len(words) - SHINGLE + 1)))
    return {" ".join(run) for run in runs} - {""}
