"""What the tables of `many_icl` read from its JSON: samples, intervals, and how they are written."""

from collections.abc import Callable, Sequence

import numpy as np

from icl_plugins.errors import SettingError
from icl_plugins.evaluation.statistics import Interval, average_interval

DEDICATED = "dedicated, one model a task"
Cells = dict[str, list[dict]]  # by method, one of each seed
Value = Callable[[dict], np.ndarray]  # of a cell's task: (N,), or (draws, N)


def hits(shots: int) -> Value:
    def read(task: dict) -> np.ndarray:
        draws = task["right"][task["shots"].index(shots)]
        return np.array([list(draw) for draw in draws]) == "1"

    return read


def nats(shots: int) -> Value:
    return lambda task: np.array(task["nats"][task["shots"].index(shots)])


def sample(cells: Cells, method: str, task: str, value: Value, base: str | None = None) -> np.ndarray:
    """(S, N): a row for each seed, the mean over draws; of the base, which has no seeds, for each draw."""
    own = cells[f"dedicated {task}"] if method == DEDICATED else cells[method]
    found = [np.atleast_2d(value(cell["tasks"][task])).astype(float) for cell in own]
    if base is None and method == "base":
        return found[0]
    if base is None:
        return np.array([one.mean(axis=0) for one in found])
    before = sample(cells, base, task, value).mean(axis=0) if base == "base" else None
    others = [before] * len(found) if before is not None else sample(cells, base, task, value)
    return np.array([one.mean(axis=0) - other for one, other in zip(found, others, strict=False)])


def average(
    cells: Cells, method: str, names: Sequence[str], value: Value, base: str | None = None
) -> Interval | None:
    """The mean over tasks, None where one was not measured so."""
    try:
        return average_interval([sample(cells, method, name, value, base) for name in names])
    except (KeyError, ValueError, TypeError, SettingError):
        return None


def percent(found: Interval | None, signed: bool = False) -> str:
    """In points; bold where a difference's interval does not hold 0."""
    if found is None:
        return ""
    ends = (found.low, found.high) if signed else (max(0.0, found.low), min(1.0, found.high))
    form = "{:+.1f}" if signed else "{:.1f}"
    mean, low, high = (form.format(round(100 * one, 1) + 0.0) for one in (found.mean, *ends))
    text = f"{mean} ({low} to {high})"
    return f"**{text}**" if signed and (found.low > 0 or found.high < 0) else text


def plain(found: Interval | None) -> str:
    if found is None:
        return ""
    text = f"{found.mean:+.1f} ({found.low:+.1f} to {found.high:+.1f})"
    return f"**{text}**" if found.low > 0 or found.high < 0 else text


def lines(headers: Sequence[str], content: Sequence[Sequence[str]]) -> list[str]:
    kept = [at for at in range(len(headers)) if at == 0 or any(row[at] for row in content)]
    rule = ["---" if at == 0 else "---:" for at in kept]
    rows = [[row[at] for at in kept] for row in (headers, *content) if any(row[1:])]
    return ["", *(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))]
