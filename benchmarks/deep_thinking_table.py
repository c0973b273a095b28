"""The tables of `deep_thinking`: gains over one step, and what the paper's choice of T gains by luck."""

from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np

from icl_plugins.evaluation.statistics import Interval, average_interval
from icl_plugins.thinking.replication import best_steps_on_evaluation_set, null_of_best

FIXED = (5, 10, 15)
MANY = 16  # shots
Cells = list[dict]
Groups = dict[str, Cells]  # by task
Values = Callable[[dict], np.ndarray]  # of a draw: (N,) bool


def correct(text: str) -> np.ndarray:
    return np.array(list(text)) == "1"


def by_step(cell: dict, asked: str) -> np.ndarray:
    """(N, T) bool."""
    return np.stack([correct(text) for text in cell["thought"][asked]["right"]], axis=1)


def once(cell: dict) -> np.ndarray:
    return by_step(cell, next(iter(cell["thought"])))[:, 0]


def interval(groups: Sequence[Cells], value: Values, base: Values | None = None) -> Interval:
    """The mean over draws and items, averaged over tasks; a base is read of the same draws and items."""
    samples = []
    for cells in groups:
        found = np.array([value(cell) for cell in cells], dtype=float)
        samples.append(found - [base(cell) for cell in cells] if base else found)
    return average_interval(samples)


def points(difference: float) -> str:
    return f"{round(100 * difference, 1) + 0.0:+.1f}"  # no -0.0


def gain(groups: Sequence[Cells], value: Values) -> str:
    """In points, bold where the interval lies on one side of 0 as shown."""
    found = interval(groups, value, once)
    text = f"{points(found.mean)} ({points(found.low)} to {points(found.high)})"
    return f"**{text}**" if found.low > 0.0005 or found.high < -0.0005 else text


def rows(groups: Groups) -> list[tuple[str, list[Cells]]]:
    """Each task, and the mean over all."""
    each = [(name, [cells]) for name, cells in groups.items()]
    return [*each, ("mean", list(groups.values()))] if len(each) > 1 else each


def lines(headers: Sequence[str], content: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *["---:"] * (len(headers) - 1)]
    return ["", *(f"| {' | '.join(row)} |" for row in (headers, rule, *content))]


def controls(groups: Groups) -> list[str]:
    content = []
    for name, members in rows(groups):
        plain = interval(members, once)
        shots = sorted({cell["shots"] for own in members for cell in own})
        content.append(
            (
                name,
                str(shots[0]) if len(shots) == 1 else f"{shots[0]}-{shots[-1]}",
                f"{100 * fmean(own[0]['chance'] for own in members):.1f}",
                f"{100 * plain.mean:.1f} ({100 * plain.low:.1f} to {100 * plain.high:.1f})",
                gain(members, lambda cell: correct(cell["doubled"])),
                gain(members, lambda cell: correct(cell["calibrated"])),
            )
        )
    return lines(("task", "shots", "chance", "T = 1 (plain)", "prompt doubled", "calibrated"), content)


def thinking(groups: Groups, asked: str) -> list[str]:
    """Gains over one step with T fixed, T held out, and T chosen on the items, beside luck."""

    def fixed(steps: int) -> Values:
        return lambda cell: by_step(cell, asked)[:, steps - 1]

    def held_out(cell: dict) -> np.ndarray:
        return by_step(cell, asked)[:, cell["thought"][asked]["held_out_steps"] - 1]

    content = []
    for name, members in rows(groups):
        cells = [cell for own in members for cell in own]
        found = [by_step(cell, asked) for cell in cells]
        best = [best_steps_on_evaluation_set(right) for right in found]
        together = [null_of_best(right) for right in found]
        apart = [null_of_best(right, steps="apart") for right in found]
        losses = np.mean([cell["thought"][asked]["loss"] for cell in cells], axis=0)
        chosen = sorted(cell["thought"][asked]["held_out_steps"] for cell in cells)
        content.append(
            (
                name,
                *(gain(members, fixed(steps)) for steps in FIXED),
                gain(members, held_out),
                f"{chosen[0]}-{chosen[-1]}",
                points(fmean(one.gain for one in best)),
                points(fmean(one.gain for one in together)),
                points(fmean(one.gain for one in apart)),
                f"{sum(one.p <= 0.05 for one in together)} of {len(cells)}",
                "" if name == "mean" else f"{losses[0]:.3f}, {losses[-1]:.3f}",
            )
        )
    headers = ("task", *(f"T = {steps}" for steps in FIXED), "held-out T", "which", "best T on the items")
    luck = ("luck", "luck, steps apart", "p ≤ 0.05", "loss at 1, 15")
    return lines((*headers, *luck), content)


def markdown(cells: Cells) -> str:
    text = [
        "# Deep thinking on its ten tasks",
        "",
        f"`micro`, {len({cell['draw'] for cell in cells})} draws of demonstrations, see"
        " `benchmarks/deep_thinking.py`. Accuracy in points. Gains over T = 1 with the same demonstrations;"
        " 95 % intervals over draws and items, bold beyond 0. Best T on the items: the paper's protocol, T of"
        " 1 to 15 chosen on the evaluation items. Luck: what that choice gains on average where no step helps"
        " and steps are as alike as measured; apart: as if steps were independent. p: of the best gain under"
        " luck. Loss: nats of the right answer among the choices.",
    ]
    for heading, many in (("The paper's number of shots", False), ("Many shots", True)):
        groups: Groups = {}
        for cell in cells:
            if (cell["shots"] >= MANY) == many:
                groups.setdefault(cell["task"], []).append(cell)
        if not groups:
            continue
        text += ["", f"## {heading}", *controls(groups)]
        for asked in cells[0]["thought"]:
            modes = sorted({cell["thought"][asked]["mode"] for own in groups.values() for cell in own})
            text += ["", f'Gains of deep thinking, positions "{", ".join(modes)}":', *thinking(groups, asked)]
    return "\n".join(text) + "\n"
