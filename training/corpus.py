"""Load the openly licensed tasks and text that micro is trained on, tokenised once.

Left out: tasks marked share-alike or sensitive, texts whose documents are share-alike (Wikipedia
snippets, Schema-Guided Dialogue), and the lines that overlap an evaluation set (`overlap_lines`).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

SHARE_ALIKE_TEXT = {"text/wikipedia_snippets.txt", "text/dialogues_sgd.txt"}
MAX_WORDS = 60


@dataclass(frozen=True)
class Source:
    """One task as its index describes it, with the (question, answer) rows that may be trained on."""

    name: str
    source: str
    kind: str
    language: str
    licence: str
    rows: list[tuple[str, str]]


def render(kind: str, row: dict) -> tuple[str, str]:
    """Turn a record of any of the four kinds into a question and an answer."""
    if kind == "classification":
        return row["text"], row["label"]
    if kind == "pair":
        return f"{row['premise']} / {row['hypothesis']}", row["label"]
    if kind == "multiple_choice":
        options = " ".join(f"({chr(65 + i)}) {c}" for i, c in enumerate(row["choices"]))
        return f"{row['question']} {options}", chr(65 + row["answer"])
    return row["question"], row["answer"]


def load_sources(folder: Path) -> list[Source]:
    """Read every permitted task of the index, less the rows that overlap an evaluation set."""
    index = json.loads((folder / "tasks.json").read_text())
    sources = []
    for task in index["tasks"] + index["references"]:
        if task["share_alike"] or task.get("sensitive"):
            continue
        left_out = set(task.get("overlap_lines", ()))
        lines = (folder / task["file"]).read_text().splitlines()
        rows = [render(task["kind"], json.loads(x)) for i, x in enumerate(lines) if i not in left_out]
        name = task["source"] if "source" in task else task["name"]
        sources.append(Source(task["name"], name, task["kind"], task["language"], task["licence"], rows))
    return sources


def load_documents(folder: Path) -> list[str]:
    """Return the plain-text documents, one string each."""
    index = json.loads((folder / "tasks.json").read_text())
    files = [entry["file"] for entry in index["text"] if entry["file"] not in SHARE_ALIKE_TEXT]
    return [d for file in files for d in (folder / file).read_text().split("\n\n") if d.strip()]


class WordTable:
    """Token ids of texts, word by word, so that windows of words can be cut without tokenising again."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._index: dict[str, int] = {}
        self.words: list[str] = []
        self._ids: list[list[int]] = []

    def encode(self, text: str) -> np.ndarray:
        """Return indices into the table, one per whitespace-separated word."""
        return np.array([self._lookup(w) for w in text.split()[:MAX_WORDS]], dtype=np.int32)

    def _lookup(self, word: str) -> int:
        if word not in self._index:
            self._index[word] = len(self.words)
            self.words.append(word)
            self._ids.append(self.tokenizer.encode(" " + word, add_special_tokens=False).ids)
        return self._index[word]

    def tokens(self, words: np.ndarray) -> list[int]:
        """Return the token ids of ``words`` with a space in front of each."""
        ids = self._ids
        return [t for w in words for t in ids[w]]

    @cached_property
    def single_token_words(self) -> list[int]:
        """Words of one token made of letters: material for label words."""
        return [
            i
            for i, (w, t) in enumerate(zip(self.words, self._ids, strict=True))
            if len(t) == 1 and w.isalpha()
        ]


def sentences(documents: list[str], least: int = 5) -> Iterator[tuple[int, str]]:
    """Yield (document number, sentence), cut at full stops, of at least ``least`` words."""
    for number, document in enumerate(documents):
        for part in document.replace("\n", " ").replace("! ", ". ").replace("? ", ". ").split(". "):
            if len(part.split()) >= least:
                yield number, part.strip()
