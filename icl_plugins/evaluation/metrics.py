"""Metrics: how good predictions are, one by one and together."""

import math
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icl_plugins.duplicates import folded
from icl_plugins.errors import NonFiniteError, SettingError
from icl_plugins.evaluation.answers import read_number, read_text

Predictions = Sequence[str | None]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """How good predictions are: values of single items, and the value of a set of items.

    name: for people and results. item: (prediction, gold) -> higher is better, 1 is right. read: what of an
    answer, or of a gold, is compared; None where nothing can be read. of_labels: it compares labels, so the
    choices must be known.

    `counts` (N, K) add up over items and `total` turns their sums (..., K) into values (...), so that any
    weighted set of items, as a bootstrap draws it, is one matrix product away. Here both make the mean.
    """

    name: str
    item: Callable[[str, str], float]
    read: Callable[[str], str | None] = read_text
    of_labels: bool = False

    def values(self, predictions: Predictions, golds: Sequence[str]) -> tuple[float, ...]:
        """Return the value of each item, 0 without a prediction; raises NonFiniteError for NaN and others."""
        return tuple(
            0.0 if prediction is None else _finite(self.item(prediction, gold), self.name, row)
            for row, (prediction, gold) in enumerate(zip(predictions, golds, strict=True))
        )

    def counts(self, predictions: Predictions, golds: Sequence[str]) -> Array:
        """Return what adds up over items (N, K); here the value and 1."""
        return np.array([(value, 1.0) for value in self.values(predictions, golds)]).reshape(-1, 2)

    def total(self, sums: Array) -> Array:
        """Return the value (...) of sets of items from the sums (..., K) of their counts."""
        return np.asarray(sums[..., 0] / sums[..., 1])

    def value(self, predictions: Predictions, golds: Sequence[str]) -> float:
        """Return the value of all items together."""
        return float(self.total(self.counts(predictions, golds).sum(axis=0)))


class MacroF1(Metric):
    """Mean of the labels' F1, over the labels that occur in the golds."""

    def counts(self, predictions: Predictions, golds: Sequence[str]) -> Array:
        """Return, for each of L labels, whether it was hit, predicted and gold: (N, 3 L)."""
        labels = np.array(sorted(set(golds)), dtype=object)
        gold = np.array([*golds], dtype=object)[:, None] == labels
        predicted = np.array([*predictions], dtype=object)[:, None] == labels
        return np.concatenate([gold & predicted, predicted, gold], axis=1).astype(np.float64)

    def total(self, sums: Array) -> Array:
        """Return macro-F1; a label that is no gold of the set does not count."""
        hit, predicted, gold = np.split(sums, 3, axis=-1)
        occurs = gold > 0
        f1 = 2 * hit / np.where(occurs, predicted + gold, 1)
        return np.asarray((f1 * occurs).sum(axis=-1) / occurs.sum(axis=-1))


class CharacterBleu(Metric):
    """BLEU over characters (sacrebleu), from 0 to 1; of a set of items the corpus BLEU, no mean."""

    def counts(self, predictions: Predictions, golds: Sequence[str]) -> Array:
        """Return the lengths of prediction and gold, matching n-grams and n-grams: (N, 10)."""
        scores = [_bleu().sentence_score(p or "", [gold]) for p, gold in zip(predictions, golds, strict=True)]
        return np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scores], dtype=np.float64)

    def total(self, sums: Array) -> Array:
        """Return corpus BLEU as sacrebleu smooths it ("exp", orders that occur), for many sums at once."""
        length, gold_length, same, all_ = np.split(sums, [1, 2, 6], axis=-1)
        occurs, missed = all_ > 0, (all_ > 0) & (same == 0)
        smoothed = np.where(missed, 0.5 ** np.cumsum(missed, axis=-1), same)
        logs = np.log(np.where(occurs, smoothed / np.where(occurs, all_, 1), 1))
        mean_log = logs.sum(axis=-1) / np.maximum(occurs.sum(axis=-1), 1)
        brevity = np.minimum(0, 1 - gold_length / np.maximum(length, 1e-9))[..., 0]
        return np.asarray(np.exp(mean_log + brevity) * (same.sum(axis=-1) > 0))


@cache
def _bleu() -> Any:
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize="char", effective_order=True)


def normalised(text: str) -> str:
    """Return the text as SQuAD compares answers: one case, no punctuation, no articles, single spaces.

    Text of nothing else ("The", "?") keeps it.
    """
    one_case = folded(text)
    bare = "".join(c for c in one_case if c not in string.punctuation and unicodedata.category(c)[0] != "P")
    words = [word for word in bare.split() if word not in ("a", "an", "the")]
    return unicodedata.normalize("NFKC", " ".join(words or one_case.split()))


def _equal(prediction: str, gold: str) -> float:
    return float(prediction == gold)


def _equal_normalised(prediction: str, gold: str) -> float:
    return float(normalised(prediction) == normalised(gold))


def _sentence_bleu(prediction: str, gold: str) -> float:
    return float(_bleu().sentence_score(prediction, [gold]).score) / 100


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("accuracy", _equal, of_labels=True),
            MacroF1("macro_f1", _equal, of_labels=True),
            Metric("exact_match", _equal),
            Metric("normalised_exact_match", _equal_normalised),
            CharacterBleu("character_bleu", _sentence_bleu),
            Metric("final_number", _equal, read=read_number),
        )
    }
)


def as_metric(metric: str | Metric | Callable[[str, str], float]) -> Metric:
    """Return a metric by name, as it is, or of a function (prediction, gold) -> float.

    The mean over items stands for all items of a function. Raises SettingError for an unknown name, and for
    a function that has the name of another metric.
    """
    if isinstance(metric, str) and metric in METRICS:
        return METRICS[metric]
    name = metric.name if isinstance(metric, Metric) else getattr(metric, "__name__", type(metric).__name__)
    if isinstance(metric, Metric) and METRICS.get(name, metric) is metric:
        return metric
    if isinstance(metric, str) or not callable(metric) or name in METRICS:
        raise SettingError(
            f"metric={metric!r:.80}",
            expected=f"one of {', '.join(METRICS)}, or a function of another name",
            fix="correct the name, or pass (prediction, gold) -> float",
        )
    return Metric(name, metric)


def _finite(value: object, name: str, row: int) -> float:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise NonFiniteError(
            f"{name} of item {row} is {value!r:.80}", expected="a finite number", fix="correct the metric"
        )
    return number
