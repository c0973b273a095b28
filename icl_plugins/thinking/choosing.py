"""How many steps to take: chosen on demonstrations that are held out of the prompt, never on other data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from icl_plugins.errors import NonFiniteError
from icl_plugins.evaluation.answers import continued
from icl_plugins.evaluation.local_texts import LocalTexts
from icl_plugins.progress import tell_progress
from icl_plugins.prompt import ManyShotPrompt
from icl_plugins.thinking.prefix import begin_with, prefix_tokens
from icl_plugins.thinking.reading import Thought

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

_ROUNDING = 1e-9  # nats; ties go to fewer steps


class Recipe(Protocol):
    """How the states of a prompt come one after the other, the first of them plain in-context learning."""

    def states(
        self, proxy: "Proxy", prompt: ManyShotPrompt, texts: LocalTexts, ids: tuple[int, ...], steps: int
    ) -> Iterator[Thought]:
        """Yield the state of the prompt, whose tokens are ids, after 1, 2, ... steps."""
        ...

    def told(self) -> dict[str, Any]:
        """Return its settings, as JSON holds them."""
        ...

    def reasons(self) -> dict[str, str]:
        """Return why things are as they are that were not asked for."""
        ...


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What was measured on held-out demonstrations with one recipe.

    losses: (n, T) nats of each demonstration's answer, when it is held out and the state is that of the
    others after 1..T steps. right: (n, T) bool, whether its answer was the likeliest of all answers of the
    prompt; None where answers are texts of their own.
    """

    recipe: Recipe
    losses: np.ndarray
    right: np.ndarray | None


@dataclass(frozen=True)
class Choice:
    """The recipe and the number of steps that were chosen, and why."""

    recipe: Recipe
    steps: int
    reason: str


def hold_out(
    proxy: "Proxy",
    prompt: ManyShotPrompt,
    texts: LocalTexts,
    recipe: Recipe,
    *,
    steps: int,
    folds: int,
    seed: int,
) -> HeldOut:
    """Measure every demonstration behind a state of those in the other folds (methods page A6.1).

    A demonstration is never scored behind itself: it would only be copied. The folds hold equal shares of
    each answer.
    """
    answers = [answer for _, answer in prompt.demonstrations]
    labels = sorted(set(answers)) if 2 * len(set(answers)) <= len(answers) else None
    losses = np.empty((len(answers), steps))
    right = None if labels is None else np.empty((len(answers), steps), dtype=bool)
    parts = list(_folds(answers, folds, seed))
    for done, rows in enumerate(parts):
        own = [labels or [answers[row]] for row in rows]
        shown = _without(prompt, rows)
        queries = [(prompt.examples[row], choices) for row, choices in zip(rows, own, strict=True)]
        for step, scores in enumerate(scores_by_step(proxy, shown, queries, texts, recipe, steps)):
            for row, choices, values in zip(rows, own, scores, strict=True):
                losses[row, step] = -values[choices.index(answers[row])]
                if right is not None:
                    right[row, step] = choices[int(values.argmax())] == answers[row]
        tell_progress("held-out demonstrations", done + 1, len(parts))
    if not np.isfinite(losses).all():
        raise NonFiniteError(
            f"held-out losses that are no numbers, with {recipe.told()['recipe']}",
            expected="finite losses after every step",
            fix='lower step_size, learning_rate or steps, or load the model with dtype="float32"',
        )
    return HeldOut(recipe, losses, right)


def choose(held_out: Sequence[HeldOut], standard_errors: float = 1.0) -> Choice:
    """Choose the fewest steps whose mean loss is within so many standard errors of the least.

    The error is that of the paired differences to the least: what makes one demonstration harder than
    another is in both. One step, plain in-context learning, is always among the candidates.
    """
    candidates = [(at, step) for at, one in enumerate(held_out) for step in range(one.losses.shape[1])]
    mean = {(at, step): float(held_out[at].losses[:, step].mean()) for at, step in candidates}
    least = min(candidates, key=lambda one: (mean[one], one[1]))

    def near(one: tuple[int, int]) -> bool:
        difference = held_out[one[0]].losses[:, one[1]] - held_out[least[0]].losses[:, least[1]]
        error = standard_errors and difference.std(ddof=1) / len(difference) ** 0.5
        return bool(difference.mean() <= standard_errors * error + _ROUNDING)

    at, step = min((one for one in candidates if near(one)), key=lambda one: (one[1], mean[one]))
    once, best, most = mean[(0, 0)], mean[least], held_out[0].losses.shape[1]
    rule = f"the fewest within {standard_errors:g} standard error of it" if standard_errors else "the least"
    reason = (
        f"held-out loss {mean[(at, step)]:.3f} nats; {once:.3f} at one step, {best:.3f} at the least"
        f" ({least[1] + 1} of {most} steps); {rule}"
    )
    return Choice(held_out[at].recipe, step + 1, reason)


def summary(one: HeldOut) -> Mapping[str, Any]:
    """Return what is kept of a measurement: the curves over steps, not each demonstration."""
    losses = one.losses
    error = losses.std(0, ddof=1) / len(losses) ** 0.5 if len(losses) > 1 else np.zeros(losses.shape[1])
    return {
        **one.recipe.told(),
        "loss": losses.mean(0).tolist(),
        "standard_error": error.tolist(),
        "accuracy": None if one.right is None else one.right.mean(0).tolist(),
        "demonstrations": len(losses),
    }


def scores_by_step(
    proxy: "Proxy",
    shown: ManyShotPrompt,
    queries: Sequence[tuple[Mapping[str, object], Sequence[str]]],
    texts: LocalTexts,
    recipe: Recipe,
    steps: int,
) -> Iterator[list[np.ndarray]]:
    """Yield, after each step, the scores of the choices of each query behind the prompt that is shown."""
    ids = prefix_tokens(texts, shown)
    requests = texts.requests(
        [shown.messages(fields, texts.layout) for fields, _ in queries],
        [continued(choices, shown.template, texts.layout) for _, choices in queries],
    )
    behind = [request.behind(len(ids)) for request in begin_with(ids, requests)]
    for thought in recipe.states(proxy, shown, texts, ids, steps):
        found: dict[int, np.ndarray] = {}
        for rows, values in proxy.shared_prefix.score(thought.state, behind):
            found.update(zip(rows, values, strict=True))
        yield [found[row] for row in range(len(queries))]


def _folds(answers: Sequence[str], folds: int, seed: int) -> Iterator[list[int]]:
    order = np.random.default_rng(seed).permutation(len(answers)).tolist()
    order.sort(key=lambda row: answers[row])
    count = min(folds, len(answers))
    for fold in range(count):
        yield sorted(order[fold::count])


def _without(prompt: ManyShotPrompt, rows: Sequence[int]) -> ManyShotPrompt:
    kept = [row for row in range(len(prompt.demonstrations)) if row not in set(rows)]
    return replace(
        prompt,
        demonstrations=tuple(prompt.demonstrations[row] for row in kept),
        examples=tuple(prompt.examples[row] for row in kept),
    )
