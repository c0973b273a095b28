"""The plots of a state: held-out loss and accuracy against steps, norms by layer, or the training loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from icl_plugins.report.colours import LIGHT, SERIES
from icl_plugins.report.drawing import name_ends, plain_axes
from icl_plugins.report.markup import Table
from icl_plugins.report.plot import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False)
class _Curve:
    """A value after 1, 2, ... steps with its standard error; chosen: the steps that were chosen on it.

    recipe: the settings; name: what of them the other curves do not share.
    """

    recipe: str
    name: str
    mean: np.ndarray
    error: np.ndarray
    chosen: int | None


def loss_plot(held_out: Curves, thinking: Mapping[str, Any]) -> Plot:
    """Plot the loss of held-out demonstrations against steps, with standard errors."""
    errors = [np.array(one["standard_error"]) for one in held_out]
    curves = _curves(held_out, "loss", errors, thinking)
    description = (
        "Nats of the answer of a held-out demonstration, lower is better: mean, and a band of one standard "
        "error to both sides. The ring is what was chosen. Steps are paired, so differences between them "
        "are surer than the bands look."
    )
    return _plot("loss", "Held-out loss against steps", "loss (nats)", description, curves, 1)


def accuracy_plot(held_out: Curves, thinking: Mapping[str, Any]) -> Plot:
    """Plot the share of held-out demonstrations whose answer was likeliest, with standard errors."""
    shares = [np.array(one["accuracy"]) for one in held_out]
    errors = [
        np.sqrt(share * (1 - share) / one["demonstrations"])
        for share, one in zip(shares, held_out, strict=True)
    ]
    curves = _curves(held_out, "accuracy", errors, thinking)
    description = (
        "Share of held-out demonstrations whose own answer is the likeliest of all answers of the prompt: "
        "mean, and a band of one standard error (binomial). The ring is what was chosen, by the loss."
    )
    return _plot("accuracy", "Held-out accuracy against steps", "accuracy (points)", description, curves, 100)


def norms_plot(part: str, norms: Sequence[Sequence[Sequence[float]]]) -> Plot:
    """Plot the norms of the keys or the values of each layer at readings 2, 3, ....

    part: "keys" or "values". norms: (steps - 1, layers, 2).
    """
    values = np.array(norms)[:, :, ("keys", "values").index(part)]
    readings, layers = np.arange(2, len(values) + 2), values.shape[1]

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for layer in range(layers):
            strength = 0.25 + 0.75 * (layer + 1) / layers
            axes.plot(readings, values[:, layer], color=SERIES[0], alpha=strength, marker="o", ms=3)
        axes.set_ylim(bottom=0)
        axes.set_ylabel(f"norm of new minus kept {part}")
        _number_axis(axes, readings, "readings")
        named = sorted({0, layers // 2, layers - 1})
        name_ends(axes, [(float(values[-1, at]), f"layer {at + 1}", SERIES[0]) for at in named])

    table = Table(
        f"Norms of {part} by layer and reading",
        ("layer", *(f"reading {at}" for at in readings)),
        tuple((str(at + 1), *(f"{value:.4g}" for value in values[:, at])) for at in range(layers)),
    )
    description = (
        f"A line for each of the {layers} layers, the first the palest: Frobenius norm of the difference, "
        "over all heads and tokens."
    )
    return Plot(f"norms-{part}", f"Norms of {part}", description, table, draw)


def training_plot(losses: Sequence[float]) -> Plot:
    """Plot the loss of a state on its own demonstrations after 1, 2, ... steps; losses: (steps - 1,) nats."""
    steps = np.arange(1, len(losses) + 1)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.plot(steps, losses, color=SERIES[0], marker="o", ms=3)
        axes.set_ylabel("loss (nats)")
        _number_axis(axes, steps, "steps")

    rows = tuple((str(step), f"{loss:.4g}") for step, loss in zip(steps, losses, strict=True))
    table = Table("Training loss against steps", ("steps", "loss (nats)"), rows)
    description = "Nats of the answer of a demonstration behind the others, mean over all of them."
    return Plot("training-loss", "Training loss against steps", description, table, draw)


def _curves(
    held_out: Curves, value: str, errors: Sequence[np.ndarray], thinking: Mapping[str, Any]
) -> list[_Curve]:
    recipes = [one["recipe"] for one in held_out]
    shared = set.intersection(*(set(recipe.split(", ")) for recipe in recipes))
    names = [", ".join(part for part in recipe.split(", ") if part not in shared) for recipe in recipes]
    chosen = [thinking["steps"] if recipe == thinking["recipe"] else None for recipe in recipes]
    means = [np.array(one[value]) for one in held_out]
    return [_Curve(*parts) for parts in zip(recipes, names, means, errors, chosen, strict=True)]


def _plot(
    name: str, title: str, label: str, description: str, curves: Sequence[_Curve], scale: float
) -> Plot:
    """Plot curves in units of 1 / scale; several are named by the settings that they do not share."""

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        ends = []
        for curve, colour in zip(curves, cycle(SERIES), strict=False):
            mean, error = scale * curve.mean, scale * curve.error
            steps = np.arange(1, len(mean) + 1)
            axes.fill_between(steps, mean - error, mean + error, color=colour, alpha=0.15, lw=0)
            axes.plot(steps, mean, color=colour, marker="o", ms=3)
            ends.append((float(mean[-1]), curve.name, colour))
            if curve.chosen is not None:
                place = (curve.chosen, mean[curve.chosen - 1])
                axes.plot(*place, "o", ms=11, mew=1.8, mfc="none", mec=LIGHT["ink"])
        axes.set_ylabel(label)
        _number_axis(axes, np.arange(1, max(len(curve.mean) for curve in curves) + 1), "steps")
        name_ends(axes, ends if len(curves) > 1 else [])

    rows = tuple(
        (curve.recipe, str(at + 1), f"{scale * mean:.4g}", f"{scale * error:.3g}", _mark(curve, at + 1))
        for curve in curves
        for at, (mean, error) in enumerate(zip(curve.mean, curve.error, strict=True))
    )
    table = Table(title, ("settings", "steps", label, "standard error", "chosen"), rows)
    return Plot(f"held-out-{name}", title, description, table, draw)


def _mark(curve: _Curve, steps: int) -> str:
    return "chosen" if steps == curve.chosen else ""


def _number_axis(axes: "Axes", numbers: np.ndarray, name: str) -> None:
    apart = -(-len(numbers) // 8)
    axes.set_xticks(numbers[::apart].tolist())
    axes.set_xlabel(name)
    plain_axes(axes)
