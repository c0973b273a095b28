"""Write the tasks that micro is trained on: real ones, and ones that are made of nothing but text.

    python training/micro_tasks.py DATA_OPEN --out runs/tasks

DATA_OPEN is the folder of openly licensed tasks (`tasks.json`, `tasks/`, `text/`). A made task has many
classes, of which a sequence shows a few under names of its own: texts that share a word, an opening, a
document or a cluster. Each kind of task is a folder of JSON Lines, {"text", "label"}.
"""

import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from corpus import load_documents, load_sources, sentences
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

MOST_WORDS, LEAST_WORDS = 60, 4  # of a text
OF_A_CLASS, OF_A_CLUSTER = 24, 120  # texts, at least; at most
KEYWORDS, CLUSTERS = 3000, 400
ANSWER_WORDS = 12  # of a free answer, at most

Rows = list[tuple[str, str]]


def cut(words: list[str], rng: np.random.Generator, most: int, around: int | None = None) -> str:
    """A run of 4 to ``most`` of the words, which holds the word ``around``, or begins anywhere."""
    size = min(len(words), int(rng.integers(LEAST_WORDS, most + 1)))
    last = len(words) - size
    first = 0 if around is None else max(0, around - size + 1)
    until = last if around is None else min(around, last)
    start = int(rng.integers(first, until + 1))
    return " ".join(words[start : start + size])


def by_keyword(lines: list[list[str]], rng: np.random.Generator, most: int) -> Rows:
    """Texts that share one word, which is their class."""
    where = defaultdict(list)
    for at, words in enumerate(lines):
        for word in set(words):
            where[word].append(at)
    usable = sorted(w for w, found in where.items() if w.isalpha() and OF_A_CLASS <= len(found) <= 3000)
    rows = []
    for word in rng.choice(usable, min(KEYWORDS, len(usable)), replace=False).tolist():
        for at in rng.choice(where[word], OF_A_CLASS, replace=False):
            words = lines[at]
            rows.append((cut(words, rng, most, words.index(word)), word))
    return rows


def by_opening(lines: list[list[str]], rng: np.random.Generator, most: int) -> Rows:
    """Texts that begin with the same one or two words."""
    groups = defaultdict(list)
    for words in lines:
        for size in (1, 2):
            groups[" ".join(words[:size])].append(words)
    rows = []
    for opening, group in sorted(groups.items()):
        if len(group) >= OF_A_CLASS:
            for at in rng.choice(len(group), OF_A_CLASS, replace=False):
                size = int(rng.integers(LEAST_WORDS, most + 1))
                rows.append((" ".join(group[at][:size]), opening))
    return rows


def by_document(documents: list[str], rng: np.random.Generator, most: int) -> Rows:
    """Sentences of one document."""
    groups = defaultdict(list)
    for number, sentence in sentences(documents):
        groups[number].append(sentence.split())
    return [
        (cut(words, rng, most), f"document {number}")
        for number, group in groups.items()
        if len(group) >= 8
        for words in group
    ]


def by_cluster(lines: list[list[str]], rng: np.random.Generator, most: int, seed: int) -> Rows:
    """Texts of near tf-idf vectors, in a hundred dimensions; at most so many of a cluster."""
    vectors = TfidfVectorizer(sublinear_tf=True, min_df=3).fit_transform(" ".join(words) for words in lines)
    near = TruncatedSVD(100, random_state=seed).fit_transform(vectors)
    near /= np.linalg.norm(near, axis=1, keepdims=True) + 1e-9
    found = MiniBatchKMeans(CLUSTERS, random_state=seed, n_init=1, batch_size=4096).fit_predict(near)
    rows = []
    for number in range(CLUSTERS):
        of_it = rng.permutation(np.flatnonzero(found == number))[:OF_A_CLUSTER]
        if len(of_it) >= OF_A_CLASS:
            rows += [(cut(lines[at], rng, most), f"cluster {number}") for at in of_it.tolist()]
    return rows


def named(rows: Rows, lines: list[list[str]], rng: np.random.Generator) -> Rows:
    """Give every class a name of two common words that say nothing of it."""
    counts = Counter(word for words in lines for word in words if word.islower() and word.isalpha())
    words = [word for word, _ in counts.most_common(6000) if len(word) > 2]
    classes = sorted({label for _, label in rows})
    pairs = rng.choice(len(words) ** 2, len(classes), replace=False)
    names = {
        c: f"{words[at // len(words)]} {words[at % len(words)]}" for c, at in zip(classes, pairs, strict=True)
    }
    return [(text, names[label]) for text, label in rows]


def write(folder: Path, kind: str, name: str, rows: Rows) -> None:
    """Write one task."""
    path = folder / kind / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for text, label in rows:
            file.write(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n")


def read(path: Path) -> Rows:
    """Return the rows of a task that was written."""
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return [(row["text"], row["label"]) for row in rows]


def main() -> None:
    """Read the data, make the tasks, write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--words", type=int, default=MOST_WORDS, help="of a text, at most")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, most = np.random.default_rng(args.seed), args.words
    sources, documents = load_sources(args.data), load_documents(args.data)
    lines = []
    for source in sources:
        rows = [(" ".join(question.split()[:most]), answer) for question, answer in source.rows]
        if source.kind in ("classification", "pair"):
            counts = Counter(answer for _, answer in rows)
            write(args.out, "real", source.name, [row for row in rows if counts[row[1]] > 1])
        elif len(short := [row for row in rows if len(row[1].split()) <= ANSWER_WORDS]) >= 20:
            write(args.out, "answers", source.name, short)
        if source.language == "en":
            lines += [words for text, _ in rows if len(words := text.split()) >= LEAST_WORDS]
    lines += [sentence.split()[:most] for _, sentence in sentences(documents)]
    made = {
        "keyword": by_keyword(lines, rng, most),
        "opening": by_opening(lines, rng, most),
        "document": by_document(documents, rng, most),
        "cluster": by_cluster(lines, rng, most, args.seed),
    }
    for name, rows in made.items():
        write(args.out, name, name, named(rows, lines, rng))
    (args.out / "text.txt").write_text("\n\n".join(documents), encoding="utf-8")


if __name__ == "__main__":
    main()
