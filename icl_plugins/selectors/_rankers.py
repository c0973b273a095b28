"""Rankers: which rows of a pool are nearest to a question, built once and asked from any thread."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from threading import Lock, RLock
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np

from icl_plugins.errors import NonFiniteError
from icl_plugins.examples import Pool
from icl_plugins.selectors._common import by_score
from icl_plugins.selectors._embeddings import TooLong, encode_texts, sentence_encoder
from icl_plugins.selectors._kept import kept
from icl_plugins.selectors._settings import load_proxy, settings
from icl_plugins.selectors.bm25 import words

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

Ranker: TypeAlias = Callable[[str], Sequence[int] | np.ndarray]
Reader = Callable[[list[str]], np.ndarray]

_K1, _B = 1.5, 0.75


@runtime_checkable
class RankerMaker(Protocol):
    """Something that ranks the rows of a pool for a question, such as GradCE."""

    def ranker(self, pool: Pool, rows: Sequence[int]) -> Ranker:
        """Return the function from a rendered question to some or all of these rows, best first.

        The function is asked from several threads at once, and for equal questions answers the same.
        """
        ...


def build_ranker(
    nearest: "str | RankerMaker", pool: Pool, rows: Sequence[int], proxy: "str | Proxy", on_too_long: TooLong
) -> tuple[Ranker, dict[str, object]]:
    """Return the ranker of these rows by their questions, and what identifies it.

    nearest: as `Hybrid` takes it; a mapping `about` that a made ranker has is a part of what identifies it.
    Raises what loading and reading the model raises (ProxyError, OptionalDependencyError, TooLongError,
    NonFiniteError).
    """
    if not isinstance(nearest, str):
        named = settings(nearest) if hasattr(nearest, "__dataclass_fields__") else type(nearest).__name__
        ranker = nearest.ranker(pool, rows)
        found = getattr(ranker, "about", None)
        return ranker, {**(found if isinstance(found, Mapping) else {}), "nearest": named}
    if nearest == "bm25":
        return Words.of(pool, rows), {"nearest": nearest}
    model: Any = load_proxy(proxy) if nearest == "proxy" else sentence_encoder(nearest)
    about = {"fingerprints": model.fingerprint} if nearest == "proxy" else {}
    return Vectors.of(pool, rows, VectorReader(model, nearest, on_too_long)), {"nearest": nearest, **about}


@dataclass(frozen=True, eq=False)
class Words:
    """Ranks by the BM25 score of a row's question for the words of another one, as `BM25` splits and weighs.

    rows: in increasing order; ties go to the lowest. The weights of words are those of the whole pool.
    """

    index: Any
    vocabulary: dict[str, int]
    rows: np.ndarray

    @classmethod
    def of(cls, pool: Pool, rows: Sequence[int]) -> "Words":
        """Index the questions of a pool."""
        import bm25s

        ids, vocabulary = words(pool.questions)
        index = bm25s.BM25(k1=_K1, b=_B, method="lucene", dtype="float64", backend="numpy")
        if vocabulary:
            index.index((ids, vocabulary), create_empty_token=False, show_progress=False)
        return cls(index, vocabulary, np.sort(np.asarray(rows, dtype=np.int64)))

    def __call__(self, question: str) -> np.ndarray:
        """Return the rows, best first."""
        (ids,), own = words([question])
        names = list(own)
        known = [self.vocabulary[names[i]] for i in sorted(ids) if names[i] in self.vocabulary]
        if not known:
            return self.rows
        scores = self.index.get_scores_from_ids(known)[self.rows]
        ranked: np.ndarray = self.rows[by_score(scores)]
        return ranked


@dataclass(frozen=True, eq=False)
class VectorReader:
    """A proxy or a sentence-transformers model that embeds texts, one caller at a time."""

    model: Any
    nearest: str
    on_too_long: TooLong

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Embed texts -> (N, h)."""
        with using(self.model):
            if self.nearest != "proxy":
                return encode_texts(self.model, texts, self.on_too_long)
            vectors: np.ndarray = self.model.embed(texts, on_too_long=self.on_too_long).numpy()
            return vectors

    @property
    def key(self) -> tuple[str, ...]:
        """What the vectors depend on: the key under which `embed` keeps them too."""
        made = self.model.fingerprint.values() if self.nearest == "proxy" else (self.nearest,)
        return (*made, self.on_too_long)


@dataclass(frozen=True, eq=False)
class Vectors:
    """Ranks by the cosine of a row's question with another one; a zero vector is similar to nothing (0).

    units: (n, h), of the rows (n,), which are in increasing order; ties go to the lowest.
    """

    units: np.ndarray
    rows: np.ndarray
    read: VectorReader

    @classmethod
    def of(cls, pool: Pool, rows: Sequence[int], read: VectorReader) -> "Vectors":
        """Embed the questions of these rows; those that `keeping` holds are not read again."""
        ordered = np.sort(np.asarray(rows, dtype=np.int64))
        vectors = kept(read.key, [pool.questions[row] for row in ordered], read)
        return cls(_units(np.asarray(vectors, dtype=np.float64), ordered), ordered, read)

    def __call__(self, question: str) -> np.ndarray:
        """Return the rows, best first."""
        unit = _units(np.asarray(self.read([question]), dtype=np.float64), [question])[0]
        # the last bits depend on where a row stands; without them ties are ties
        ranked: np.ndarray = self.rows[by_score(np.round(self.units @ unit, 12))]
        return ranked


def _units(vectors: np.ndarray, names: Sequence[object] | np.ndarray) -> np.ndarray:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise NonFiniteError(
            f"{bad.size} vectors with NaN or infinity: {[f'{names[i]!s:.40}' for i in bad[:5]]}",
            expected="finite vectors",
            fix='look at these questions, or load the proxy with dtype="float32"',
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: np.ndarray = np.divide(vectors, lengths, out=np.zeros(vectors.shape), where=lengths > 0)
    return units


_locks: "WeakKeyDictionary[object, RLock]" = WeakKeyDictionary()
_locks_lock = Lock()


@contextmanager
def using(*models: object) -> Iterator[None]:
    """Hold loaded models for this thread: their passes hook into the model, so two at once would mix.

    Names, which are loaded anew by each who uses them, are ignored.
    """
    loaded = {id(model): model for model in models if model is not None and not isinstance(model, str)}
    with ExitStack() as held:
        for _, model in sorted(loaded.items()):  # one order for all, or two callers could wait for each other
            with _locks_lock:
                lock = _locks.setdefault(model, RLock())
            held.enter_context(lock)
        yield
