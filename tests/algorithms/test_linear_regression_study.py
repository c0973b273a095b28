"""The linear-regression study of GradE (arXiv 2508.19999): what estimates are worth, in means over seeds.

Where slots are products, estimates rank sets, and choose far better ones than chance; where they are pairs,
they say nothing of sets that share few demonstrations with the anchor. Where inference is paid for, forward
selection by inference is better than by estimates, save in noise.
"""

from functools import cache

import numpy as np
import pytest
import torch
from linear_regression import CANDIDATES, SLOTS, WEIGHTS, WIDTH, Task, loss, predict, tabulate
from scipy.stats import spearmanr

from icl_plugins.algorithms.slots import SlotTable

SEEDS = range(100, 124)
CORRUPTED, NOISY = (0.1, 20), (1.0, 0)  # the noise of y, and how many candidates are of another regression


def heaviest(scores):
    """The SLOTS candidates of least score, the least in the heaviest slot, which is the last."""
    return np.argsort(scores)[:SLOTS][::-1].copy()


def agreement_of(estimates, real):
    """Rank correlation, and the paper's relative error and the mean of its square."""
    ours, theirs = np.abs(estimates), np.abs(real)
    errors = np.abs(ours - theirs) / np.maximum(ours, theirs)
    rank = spearmanr(estimates, real)[0] if np.ptp(estimates) else 0.0
    return np.array([rank, errors.mean(), (errors**2).mean()])


@cache
def averaged(measure, form, setting):
    found = [measure(Task(seed, form, *setting)) for seed in SEEDS]
    return {name: np.mean([figures[name] for figures in found], axis=0) for name in found[0]}


def agreement(task):
    """What the estimates of 200 ordered subsets around some anchors have to do with their real losses."""
    sets = task.embeddings[task.subsets]
    real = task.loss(sets).numpy()
    rows = np.array([task.generator.permutation(CANDIDATES) for _ in range(8)])
    several = task.embeddings[rows[:, :SLOTS]]
    anchors = {"mean": task.mean[None], "eight": several, "one": several[:1]}
    found = {}
    for name, starts in anchors.items():
        estimates = np.mean([task.table(start).outcomes(task.subsets) for start in starts], axis=0)
        found[name] = agreement_of(estimates, real)
        found[f"constant of {name}"] = agreement_of(np.full(200, task.loss(starts).mean()), real)
    table, outcome = task.table(several[0]), task.loss(several[0]).item()
    permuted = SlotTable(table.table[::-1], table.constant)
    found["one, slots reversed"] = agreement_of(permuted.outcomes(task.subsets), real)
    moved = task.loss(several[0] + 0.1 * (sets - several[0])).numpy()
    estimates = outcome + 0.1 * (table.outcomes(task.subsets) - outcome)
    found["a tenth of the way"] = agreement_of(estimates, moved)
    found["constant a tenth of the way"] = agreement_of(np.full(200, outcome), moved)
    near = np.tile(rows[0, :SLOTS], (200, 1))
    near[range(200), task.generator.integers(SLOTS, size=200)] = task.generator.choice(rows[0, SLOTS:], 200)
    found["one swap"] = agreement_of(table.outcomes(near), task.loss(task.embeddings[near]).numpy())
    return found


def residuals(task):
    """Logarithms of the squared error on fresh queries, by how the slots were filled."""
    sets = task.embeddings[task.subsets]
    real = task.loss(sets)
    unlabelled = task.embeddings.clone()
    unlabelled[:, :, WIDTH] = 0
    scores = {
        "mean scores": task.table(task.mean).mean_scores(),
        "mean scores without y": tabulate(task.loss, task.mean, unlabelled).mean_scores(),
        "own labels": (predict(task.mean, task.pool[:, :WIDTH]) - task.pool[:, WIDTH]).square().numpy(),
    }
    filled = {name: task.embeddings[heaviest(score)] for name, score in scores.items()} | {
        "forward": task.forward(task.estimates),
        "forward by inference": task.forward(task.inference),
        "reanchored": task.reanchored(),
        "best of 24": sets[real[:24].argmin()],
    }
    tested = {name: loss(slots, task.test).log().item() for name, slots in filled.items()}
    return tested | {"random": loss(sets, task.test).log().mean().item()}


def geometric(form, setting):
    """Geometric means of the errors: a set that makes gradient descent diverge is one of many."""
    return {name: np.exp(mean) for name, mean in averaged(residuals, form, setting).items()}


def test_layers_of_linear_attention_are_steps_of_gradient_descent():
    task = Task(0, "pairs", *CORRUPTED)
    demonstrations, x = task.embeddings[task.subsets[0], 0], task.queries[:, :WIDTH]
    tokens = torch.cat([demonstrations, torch.cat([x, torch.zeros(len(x), 1)], dim=1)])
    for _ in range(10):
        scores = tokens[:, :WIDTH] @ tokens[:SLOTS, :WIDTH].T * WEIGHTS
        tokens[:, WIDTH] = tokens[:, WIDTH] - 0.3 * scores @ tokens[:SLOTS, WIDTH]
    for form in ("pairs", "products"):
        embeddings = Task(0, form, *CORRUPTED).embeddings
        torch.testing.assert_close(-tokens[SLOTS:, WIDTH], predict(embeddings[task.subsets[0]], x))


def test_the_predictions_of_one_layer_over_products_are_exact_for_every_set():
    task = Task(1, "products", *CORRUPTED)
    real = predict(task.embeddings[task.subsets], task.queries[:, :WIDTH], layers=1)
    for anchor in (task.mean, task.embeddings[task.subsets[0]]):
        for query, x in enumerate(task.queries[:, :WIDTH]):
            table = tabulate(lambda slots, x=x: predict(slots, x[None], layers=1)[0], anchor, task.embeddings)
            np.testing.assert_allclose(table.outcomes(task.subsets), real[:, query], atol=1e-10)


def test_estimates_rank_sets_of_products_though_a_constant_may_be_as_near():
    """The paper's measure of the error, the last, is no sign of it either way, and far from its 1 %."""
    found = averaged(agreement, "products", CORRUPTED)
    rank = {name: figures[0] for name, figures in found.items()}
    assert rank["mean"] > 0.7 and rank["eight"] > 0.55 and rank["one"] > 0.4
    assert rank["one"] - rank["one, slots reversed"] > 0.15
    assert (found["mean"] < found["constant of mean"])[1:].all() and found["mean"][2] > 0.1
    assert (found["eight"] > found["constant of eight"])[1:].all()


def test_estimates_say_nothing_of_other_sets_of_pairs_and_something_of_single_swaps():
    rank = {name: figures[0] for name, figures in averaged(agreement, "pairs", CORRUPTED).items()}
    assert max(abs(rank["one"]), abs(rank["eight"])) < 0.15
    assert rank["one swap"] > 0.25


@pytest.mark.parametrize("form", ["products", "pairs"])
def test_estimates_hold_a_tenth_of_the_way_to_other_sets(form):
    found = averaged(agreement, form, CORRUPTED)
    assert found["a tenth of the way"][0] > 0.85
    assert found["a tenth of the way"][1] < 0.7 * found["constant a tenth of the way"][1]


def test_sets_of_products_chosen_by_estimate_beat_random_ones_and_inference_beats_estimates():
    found = geometric("products", CORRUPTED)
    assert max(found["mean scores"], found["forward"], found["reanchored"]) < found["random"] / 3
    assert found["reanchored"] < found["best of 24"]
    assert found["forward by inference"] < found["reanchored"]


def test_scores_by_the_candidates_own_labels_or_without_labels_are_no_substitute():
    """The faults of the paper's lr.py in kind: the loss of the queries, of tokens with y, has to choose."""
    found = geometric("products", CORRUPTED)
    assert min(found["own labels"], found["mean scores without y"]) > 5 * found["mean scores"]


def test_reanchoring_near_the_last_set_beats_random_sets_even_of_pairs():
    found = geometric("pairs", CORRUPTED)
    assert found["reanchored"] < found["random"] / 4
    assert found["forward by inference"] < found["reanchored"]


def test_in_noise_forward_selection_beats_random_sets_and_mean_scores_do_not():
    """No label is wrong; noise has standard deviation 1, answers about 2. The paper found no gain here.

    The squared error of the truth is 1. Forward selection by estimates came to 1.12, by inference to 1.21,
    the best of 24 random sets to 1.20, reanchored ones to 1.34, random ones to 1.61, mean scores to 1.95.
    """
    found = geometric("products", NOISY)
    assert found["forward"] < 0.85 * found["random"]
    assert found["mean scores"] > 0.9 * found["random"]
