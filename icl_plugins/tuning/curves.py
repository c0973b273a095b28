"""Accuracy against shots: how well a model answers a task behind more and more random demonstrations."""

from dataclasses import dataclass

import numpy as np

from icl_plugins.tuning.answered import Answered


@dataclass(frozen=True)
class Point:
    """At one number of shots: accuracy with its 95 % interval, None for free answers; nats of an answer."""

    shots: int
    accuracy: float | None
    low: float | None
    high: float | None
    nats: float


@dataclass(frozen=True)
class Curve:
    """A task's points; chance, majority: accuracy of guessing, and of the commonest answer of the items."""

    task: str
    points: tuple[Point, ...]
    chance: float | None
    majority: float | None
    items: int
    draws: int


def curve_of(found: Answered) -> Curve:
    """Return the means of what was measured, with intervals over draws and items."""
    right = found.right or (None,) * len(found.shots)
    points = tuple(_point(*one) for one in zip(found.shots, right, found.nats, strict=True))
    return Curve(found.task, points, found.chance, found.majority, found.items, found.draws)


def _point(shots: int, right: np.ndarray | None, nats: np.ndarray) -> Point:
    from icl_plugins.evaluation.statistics import mean_interval

    mean = float(nats.mean())
    if right is None:
        return Point(shots, None, None, None, mean)
    interval = mean_interval(right.astype(float))
    return Point(shots, interval.mean, max(0.0, interval.low), min(1.0, interval.high), mean)
