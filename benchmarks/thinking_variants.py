"""Variants of a state, built from the library's parts; each returns keys and values of a prompt."""

from dataclasses import replace

import numpy as np
import torch
from scipy.special import logsumexp, softmax

from icl_plugins.evaluation.answers import continued
from icl_plugins.proxy.prefix_state import PrefixState, read
from icl_plugins.thinking.choosing import _folds, _without, hold_out
from icl_plugins.thinking.positions import resolve
from icl_plugins.thinking.prefix import begin_with, demonstration_starts, prefix_tokens
from icl_plugins.thinking.reading import Pace, think

FREE = ("N/A", "", "[MASK]")


class Task:
    """Queries behind prompts of one data set: log-probabilities of its labels."""

    def __init__(self, proxy, texts, items, labels, golds):
        self.proxy, self.texts, self.items, self.labels, self.golds = proxy, texts, items, labels, golds

    def scores(self, prompt, state, items=None, behind=None):
        """(items, labels) behind a state; behind: of how many tokens of the prompt, where not all."""
        items = self.items if items is None else items
        messages = [prompt.messages(item, "single") for item in items]
        choices = [continued(self.labels, prompt.template, "single")] * len(items)
        ids = prefix_tokens(self.texts, prompt)
        requests = [one.behind(len(ids)) for one in begin_with(ids, self.texts.requests(messages, choices))]
        found = np.empty((len(items), len(self.labels)))
        for rows, values in self.proxy.shared_prefix.score(state, requests):
            found[rows] = values
        return found

    def right(self, scores):
        return (scores.argmax(1) == self.golds).tolist()


def of(proxy, ids, layers):
    """Keys and values as a state."""
    return PrefixState(ids, tuple((k.to(proxy.dtype), v.to(proxy.dtype)) for k, v in layers), len(ids))


def calibrated(task, prompt, state):
    """Scores above those of content-free inputs (arXiv 2102.09690)."""
    fields = prompt.template.question_fields
    free = task.scores(prompt, state, [dict.fromkeys(fields, text) for text in FREE])
    prior = logsumexp(np.log(softmax(free, 1)), axis=0)
    return task.scores(prompt, state) - prior


def doubled(task, prompt):
    """The prompt twice, read plainly."""
    ids = prefix_tokens(task.texts, prompt)
    return read(task.proxy, ids[task.proxy.encoder.leading :], read(task.proxy, ids, PrefixState()))


def shuffled(prompt, seed):
    order = np.random.default_rng(seed).permutation(len(prompt.demonstrations)).tolist()
    return order, replace(
        prompt,
        demonstrations=tuple(prompt.demonstrations[row] for row in order),
        examples=tuple(prompt.examples[row] for row in order),
    )


def order_ensemble(task, prompt, orders):
    """Probabilities averaged over orders, each of which is read and asked."""
    total = 0
    for seed in range(orders):
        other = shuffled(prompt, seed)[1]
        ids = prefix_tokens(task.texts, other)
        total = total + softmax(task.scores(other, read(task.proxy, ids, PrefixState())), 1)
    return total


def averaged_orders(task, prompt, orders):
    """One state: each demonstration's keys and values averaged over orders, keys moved to one place."""
    proxy, ids = task.proxy, prefix_tokens(task.texts, prompt)
    move = resolve(proxy, "relative", len(ids))[1]
    layers = [[part.clone() for part in layer] for layer in read(proxy, ids, PrefixState()).layers]
    places = [*demonstration_starts(task.texts, prompt, ids), len(ids)]
    for seed in range(orders - 1):
        order, other = shuffled(prompt, seed)
        own = prefix_tokens(task.texts, other)
        state = read(proxy, own, PrefixState())
        starts = [*demonstration_starts(task.texts, other, own), len(own)]
        for at, row in enumerate(order):
            length = starts[at + 1] - starts[at]
            if length != places[row + 1] - places[row]:
                raise ValueError("a demonstration has other tokens in another order")
            here, there = slice(places[row], places[row] + length), slice(starts[at], starts[at] + length)
            for layer, (keys, values) in enumerate(state.layers):
                layers[layer][0][:, :, here] += move(keys[:, :, there], layer, places[row] - starts[at])
                layers[layer][1][:, :, here] += values[:, :, there]
    first = places[0]
    for layer in layers:
        for part in layer:
            part[:, :, first:] /= orders
    return of(proxy, ids, layers)


def displacement(proxy, ids, steps):
    """First keys and values, and how far deep thinking moved them."""
    mode, move, _ = resolve(proxy, "auto", len(ids))
    states = think(proxy, ids, Pace(0.01, 0.9, mode, move), steps)
    first = [tuple(part.clone() for part in layer) for layer in next(states).precise]
    *_, last = states
    moved = [
        tuple(b - a for a, b in zip(*pair, strict=True)) for pair in zip(first, last.precise, strict=True)
    ]
    return first, moved


def scaled(first, moved, scales):
    """scales: (layers, 2) factors of the displacements of keys and values."""
    return [
        tuple(part + float(scale) * way for part, way, scale in zip(layer, ways, own, strict=True))
        for layer, ways, own in zip(first, moved, scales, strict=True)
    ]


def held_out_loss(task, prompt, steps, choose_scales, candidates):
    """(candidates,) mean loss of held-out demonstrations, for scales made of first and moved."""
    answers = [answer for _, answer in prompt.demonstrations]
    losses = np.zeros(len(candidates))
    for rows in _folds(answers, 5, 0):
        shown = _without(prompt, rows)
        ids = prefix_tokens(task.texts, shown)
        first, moved = displacement(task.proxy, ids, steps)
        golds = [task.labels.index(answers[row]) for row in rows]
        for at, candidate in enumerate(candidates):
            state = of(task.proxy, ids, scaled(first, moved, choose_scales(first, moved, candidate)))
            scores = task.scores(shown, state, [prompt.examples[row] for row in rows])
            losses[at] -= scores[np.arange(len(rows)), golds].sum()
    return losses


def trust(first, moved, radius):
    """Scales that keep each layer's displacement within radius of its norm."""
    return [
        [min(1.0, radius * float(a.norm()) / max(float(b.norm()), 1e-12)) for a, b in zip(*pair, strict=True)]
        for pair in zip(first, moved, strict=True)
    ]


def trust_region(task, prompt, radii=(0.0, 0.02, 0.05, 0.1, 0.2)):
    """Fifteen steps, cut to the radius with the least held-out loss; 0 is plain in-context learning."""
    losses = held_out_loss(task, prompt, 15, trust, radii)
    ids = prefix_tokens(task.texts, prompt)
    first, moved = displacement(task.proxy, ids, 15)
    return of(task.proxy, ids, scaled(first, moved, trust(first, moved, radii[int(losses.argmin())])))


def layer_groups(task, prompt, factors=(0.0, 0.5, 1.0, 2.0)):
    """Five steps, the displacement of lower and upper layers scaled; searched one group after the other."""
    layers = len(read(task.proxy, prefix_tokens(task.texts, prompt), PrefixState()).layers)

    def expand(first, moved, pair):
        return [[pair[2 * layer // layers]] * 2 for layer in range(layers)]

    best = [1.0, 1.0]
    for group in range(2):
        tried = [[*best[:group], factor, *best[group + 1 :]] for factor in factors]
        best = tried[int(held_out_loss(task, prompt, 5, expand, tried).argmin())]
    ids = prefix_tokens(task.texts, prompt)
    first, moved = displacement(task.proxy, ids, 5)
    return of(task.proxy, ids, scaled(first, moved, expand(first, moved, best)))


def steps_of(task, prompt, recipe, most):
    """The held-out measurement of a recipe."""
    return hold_out(task.proxy, prompt, task.texts, recipe, steps=most, folds=5, seed=0)


def after(task, prompt, recipe, steps):
    """The state after so many steps."""
    ids = prefix_tokens(task.texts, prompt)
    *_, last = recipe.states(task.proxy, prompt, task.texts, ids, steps)
    return PrefixState(ids, tuple((k.clone(), v.clone()) for k, v in last.state.layers), len(ids))


torch.set_num_threads(1)
