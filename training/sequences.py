"""Many-shot sequences that can only be answered from their own context.

A sequence draws a task (classes of texts), a fresh name for every class, a template and a separator,
then shows examples until it is full. The loss is on every answer and on the token that ends it.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from corpus import Source, WordTable, sentences

PREFIXES = (
    "",
    "",
    "",
    "Text:",
    "Query:",
    "Input:",
    "Review:",
    "Question:",
    "Q:",
    "Sentence:",
    "Message:",
    "User:",
)
CUES = ("\nLabel:",) * 4 + ("\nAnswer:", "\nTopic:", "\nType:", "\nIntent:", "\nSentiment:", "\nCategory:",
        "\nClass:", "\nOutput:", "\nA:", ":", " =", "\n>")  # fmt: skip
SEPARATORS = ("\n\n", "\n\n", "\n\n", "\n", "\n", "</s>\n", "</s>\n", "\n###\n", "\n---\n", " ;", " |")
SYMBOLS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
JOINED = (" ".join, "_".join, lambda words: "".join(w.capitalize() for w in words))  # styles of longer names
UNSEEN_WEIGHT = 0.1  # an invented name cannot be known before it has been shown once

Draw = Callable[[], tuple[np.ndarray, int]]


@dataclass(frozen=True)
class Stage:
    """How hard the sequences of a stage are, and when the next begins."""

    name: str
    steps: int  # at most
    length: int  # tokens of a sequence
    tokens: int  # tokens of a batch
    window: tuple[int, int]  # words of a text shown, from..to
    distinct: int  # texts per class before they repeat
    classes: int  # at most
    vocabulary: int  # words of the one-word tasks
    mix: dict[str, float]  # weight of each kind of task
    fixed_template: bool = False
    capitals: bool = False  # half of the names as labels are written: Business, Get Weather
    enough: float = 2.0  # recall at which the stage ends early


@dataclass(frozen=True)
class Task:
    """Texts by class, with the names the classes really have."""

    texts: list[list[np.ndarray]]
    names: list[str]


class Sampler:
    """Draws sequences; all randomness comes from ``rng``."""

    def __init__(
        self, sources: list[Source], documents: list[str], table: WordTable, rng: np.random.Generator
    ) -> None:
        self.table, self.rng = table, rng
        self._pieces: dict[str, list[int]] = {}
        self.labelled: dict[str, list[Task]] = defaultdict(list)
        self.answered: dict[str, list[list[tuple[np.ndarray, list[int]]]]] = defaultdict(list)
        lines: list[np.ndarray] = []
        for source in sources:
            questions = [table.encode(q) for q, _ in source.rows]
            if source.language == "en":
                lines += [q for q in questions if len(q) >= 4]
            if source.kind in ("classification", "pair"):
                self.labelled[source.source].append(_by_class(questions, [a for _, a in source.rows]))
            else:
                rows = [(q, self.piece(" " + a)) for q, (_, a) in zip(questions, source.rows, strict=True)]
                short = [row for row in rows if len(row[1]) <= 24]
                if len(short) >= 20:
                    self.answered[source.source].append(short)
        self.topics: dict[int, list[np.ndarray]] = defaultdict(list)
        for number, sentence in sentences(documents):
            self.topics[number].append(table.encode(sentence))
        self.topics = {n: s for n, s in self.topics.items() if len(s) >= 8}
        self.lines = lines + [s for group in self.topics.values() for s in group]
        self.documents = [np.concatenate(s) for s in self.topics.values()]
        self._index_words()
        self.clusters: list[list[np.ndarray]] = []

    def _index_words(self) -> None:
        where: dict[int, list[int]] = defaultdict(list)
        for i, line in enumerate(self.lines):
            for w in set(line.tolist()):
                where[w].append(i)
        ranked = sorted(where, key=lambda w: -len(where[w]))
        self.common = np.array([w for w in ranked if self.table.words[w].isalpha()][:6000])
        self.keywords = {
            w: where[w] for w in ranked if 8 <= len(where[w]) <= 3000 and self.table.words[w].isalpha()
        }
        self._keyword_list = np.array(list(self.keywords))
        self.label_words = [w for w in self.table.single_token_words if len(where.get(w, ())) >= 3]

    def set_clusters(self, assignment: np.ndarray) -> None:
        """Group ``lines`` by an unsupervised clustering of their mean word vectors."""
        groups: dict[int, list[np.ndarray]] = defaultdict(list)
        for line, c in zip(self.lines, assignment.tolist(), strict=True):
            groups[c].append(line)
        self.clusters = [g for g in groups.values() if len(g) >= 20]

    def piece(self, text: str) -> list[int]:
        """Token ids of a short text, remembered."""
        if text not in self._pieces:
            self._pieces[text] = self.table.tokenizer.encode(text, add_special_tokens=False).ids
        return self._pieces[text]

    # Tasks: each returns a draw() of (words, class) and the real class names, or None where there are none.

    def _cut(self, words: np.ndarray, stage: Stage, around: int | None = None) -> np.ndarray:
        size = int(self.rng.integers(stage.window[0], stage.window[1] + 1))
        if len(words) <= size:
            return words
        last = len(words) - size
        if around is not None:
            at = int(np.flatnonzero(words == around)[0])
            start = int(self.rng.integers(max(0, at - size + 1), min(at, last) + 1))
        else:
            start = 0 if self.rng.random() < 0.3 else int(self.rng.integers(0, last + 1))
        return words[start : start + size]

    def _from_groups(
        self, groups: list[list[np.ndarray]], stage: Stage, keys: list[int] | None = None
    ) -> Draw:
        shown = []
        for g, group in enumerate(groups):
            take = self.rng.choice(len(group), min(stage.distinct, len(group)), replace=False)
            shown.append([self._cut(group[i], stage, keys[g] if keys else None) for i in take])
        share = np.full(len(groups), 1 / len(groups))
        if self.rng.random() < 0.3:
            share = self.rng.dirichlet(np.full(len(groups), 2.0))
        edges = share.cumsum()
        last: list[list[np.ndarray]] = [[] for _ in groups]

        def draw() -> tuple[np.ndarray, int]:
            c = min(int(np.searchsorted(edges, self.rng.random())), len(groups) - 1)
            if not last[c]:  # each distinct text once before any comes again
                last[c] = [shown[c][i] for i in self.rng.permutation(len(shown[c]))]
            return last[c].pop(), c

        return draw

    def words(self, stage: Stage) -> tuple[Draw, None]:
        """One word is one class."""
        chosen = self.rng.choice(self.common[: stage.vocabulary], self._class_count(stage), replace=False)
        return self._from_groups([[np.array([w])] for w in chosen], stage), None

    def keyword(self, stage: Stage) -> tuple[Draw, None]:
        """The sentences of a class share one word."""
        chosen = self.rng.choice(self._keyword_list, self._class_count(stage), replace=False).tolist()
        groups = [[self.lines[i] for i in self.rng.choice(self.keywords[w], 24)] for w in chosen]
        return self._from_groups(groups, stage, chosen), None

    def opening(self, stage: Stage) -> tuple[Draw, None]:
        """The sentences of a class begin alike."""
        first = self.rng.choice(len(self._openings), self._class_count(stage), replace=False)
        groups = [self._openings[i] for i in first]
        return self._from_groups([[g[j] for j in self.rng.choice(len(g), 24)] for g in groups], stage), None

    def topic(self, stage: Stage) -> tuple[Draw, None]:
        """The sentences of a class come from one document."""
        keys = list(self.topics)
        chosen = self.rng.choice(len(keys), self._class_count(stage, 8), replace=False)
        return self._from_groups([self.topics[keys[i]] for i in chosen], stage), None

    def cluster(self, stage: Stage) -> tuple[Draw, None]:
        """The sentences of a class have near mean word vectors."""
        chosen = self.rng.choice(len(self.clusters), self._class_count(stage), replace=False)
        return self._from_groups([self.clusters[i] for i in chosen], stage), None

    def real(self, stage: Stage) -> tuple[Draw, list[str]]:
        """A labelled task, sampled by source and not by task, with a fresh subset of its classes."""
        group = self.labelled[
            self._real_sources[self.rng.choice(len(self._real_sources), p=self._real_weights)]
        ]
        task = group[self.rng.integers(len(group))]
        count = min(self._class_count(stage), len(task.names))
        chosen = self.rng.choice(len(task.names), count, replace=False)
        return self._from_groups([task.texts[i] for i in chosen], stage), [task.names[i] for i in chosen]

    def prepare(self) -> None:
        """Weigh the sources by the square root of their rows; collect sentence openings."""
        self._real_sources = list(self.labelled)
        rows = [sum(len(texts) for task in group for texts in task.texts) for group in self.labelled.values()]
        self._real_weights = np.sqrt(rows) / np.sqrt(rows).sum()
        self._answer_sources = list(self.answered)
        starts: dict[tuple[int, ...], list[np.ndarray]] = defaultdict(list)
        for line in self.lines:
            for n in (1, 2):
                starts[tuple(line[:n].tolist())].append(line)
        self._openings = [g for g in starts.values() if len(g) >= 24]

    def _class_count(self, stage: Stage, most: int = 16) -> int:
        return int(self.rng.integers(2, min(stage.classes, most) + 1))

    # Names, templates, assembly.

    def _names(self, count: int, real: list[str] | None, stage: Stage) -> tuple[list[list[int]], bool]:
        """Token ids of each class's name, and whether the names were invented."""
        rng, way = self.rng, self.rng.random()
        if real is not None and not stage.fixed_template and way < 0.35:
            names = [n.replace("_", " ") for n in real] if rng.random() < 0.5 else list(real)
            if way < 0.12:
                names = [names[i] for i in rng.permutation(count)]
            return [self.piece(" " + n) for n in names], False
        if not stage.fixed_template and way < 0.45:
            return [
                self.piece(" " + SYMBOLS[i]) for i in rng.choice(len(SYMBOLS), count, replace=False)
            ], True
        size, style = 1, 0
        if not stage.fixed_template and way > 0.7:
            size, style = int(rng.integers(2, 4)), int(rng.integers(3))
        chosen = [
            self.table.words[i] for i in rng.choice(self.label_words, (count, size), replace=False).flat
        ]
        if stage.capitals and rng.random() < 0.5:
            chosen = [word.capitalize() for word in chosen]
        names = [chosen[i : i + size] for i in range(0, count * size, size)]
        return [self.piece(" " + JOINED[style](name)) for name in names], True

    def _template(self, stage: Stage) -> tuple[list[int], list[int], list[int]]:
        if stage.fixed_template:
            return [], self.piece("\nLabel:"), self.piece("\n\n")
        pick = lambda options: self.piece(options[self.rng.integers(len(options))])  # noqa: E731
        return pick(PREFIXES), pick(CUES), pick(SEPARATORS)

    def sequence(self, stage: Stage) -> dict[str, np.ndarray]:
        """One sequence: ids, positions, weight of the prediction of each *next* token, recall mask."""
        kinds = list(stage.mix)
        weights = np.array([stage.mix[k] for k in kinds])
        kind = kinds[self.rng.choice(len(kinds), p=weights / weights.sum())]
        if kind == "text":
            return self._text(stage)
        prefix, cue, separator = self._template(stage)
        if kind == "answers":
            group = self.answered[self._answer_sources[self.rng.integers(len(self._answer_sources))]]
            rows = group[self.rng.integers(len(group))]
            names: list[list[int]] = []
            invented = False
        else:
            draw, real = getattr(self, kind)(stage)
            names, invented = (
                self._names(stage.classes, real, stage)
                if real is None
                else self._names(len(real), real, stage)
            )
        ids, weight, recall, ends = [0], [0.0], [False], []
        seen: set[int] = set()
        while True:
            if kind == "answers":
                words, answer = rows[self.rng.integers(len(rows))]
                known, scale = False, 1.0 / max(1, len(answer) // 2)
            else:
                words, c = draw()
                answer, known = names[c], c in seen
                scale = 1.0 if known or not invented else UNSEEN_WEIGHT
                seen.add(c)
            text = self._words(words, bare=not prefix)
            size = len(prefix) + len(text) + len(cue) + len(answer) + len(separator)
            if len(ids) + size > stage.length:
                break
            ids += prefix + text + cue + answer + separator
            blank = len(prefix) + len(text) + len(cue)
            weight += [0.0] * blank + [scale] * (len(answer) + 1) + [0.0] * (len(separator) - 1)
            recall += [False] * blank + [known] + [False] * (len(answer) - 1 + len(separator))
            ends.append(len(ids))
        return self._pack(ids, weight, recall, ends)

    def _words(self, words: np.ndarray, bare: bool) -> list[int]:
        if not bare:
            return self.table.tokens(words)
        return self.piece(self.table.words[words[0]]) + self.table.tokens(words[1:])

    def _text(self, stage: Stage) -> dict[str, np.ndarray]:
        document = self.documents[self.rng.integers(len(self.documents))]
        start = int(self.rng.integers(0, max(1, len(document) - stage.length // 2)))
        ids = [0, *self.table.tokens(document[start : start + stage.length])][: stage.length]
        return self._pack(ids, [0.0] + [0.1] * (len(ids) - 1), [False] * len(ids), [len(ids)])

    def _pack(
        self, ids: list[int], weight: list[float], recall: list[bool], ends: list[int]
    ) -> dict[str, np.ndarray]:
        """Positions run on, in half of the sequences with jumps between examples up to the full context,
        so that distance does not matter to what is compared."""
        positions = np.arange(len(ids))
        if len(ends) > 1 and self.rng.random() < 0.5:
            spare = int(self.rng.integers(0, 8192 - len(ids)))
            jumps = self.rng.multinomial(spare, np.full(len(ends), 1 / len(ends)))
            for end, jump in zip(ends, jumps, strict=True):
                positions[end:] += jump
        return {
            "ids": np.array(ids),
            "positions": positions,
            "weight": np.array(weight, dtype=np.float32),
            "recall": np.array(recall),
        }

    def batch(self, stage: Stage, processes: int = 1) -> dict[str, np.ndarray]:
        """Right-padded arrays (B, L): this process's share of the sequences of a batch."""
        rows = [self.sequence(stage) for _ in range(stage.tokens // stage.length // processes)]
        return {k: np.stack([np.pad(r[k], (0, stage.length - len(r[k]))) for r in rows]) for k in rows[0]}


def _by_class(questions: list[np.ndarray], answers: list[str]) -> Task:
    groups: dict[str, list[np.ndarray]] = defaultdict(list)
    for q, a in zip(questions, answers, strict=True):
        if len(q):
            groups[a].append(q)
    names = [n for n, g in groups.items() if len(g) >= 2]
    return Task([groups[n] for n in names], names)
