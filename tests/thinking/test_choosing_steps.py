"""How many steps: measured on demonstrations that are held out, and on nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from thinking_tools import LABELS, make_prompt, plain_score

from icl_plugins import DeepThinking, Proxy
from icl_plugins.evaluation.local_texts import LocalTexts
from icl_plugins.progress import progress_to
from icl_plugins.thinking import choosing
from icl_plugins.thinking.choosing import HeldOut, choose, hold_out
from icl_plugins.thinking.reading import Pace

PACE = Pace(0.1, 0.9, "overlap")


def measured(losses, pace=PACE):
    return HeldOut(pace, np.asarray(losses, dtype=float), None)


def folds_of(prompt, folds=3, seed=0):
    return list(choosing._folds([answer for _, answer in prompt.demonstrations], folds, seed))


def test_held_out_losses_are_those_of_states_made_without_the_fold(proxy_of):
    """The slow way: a state for every fold and number of steps, asked about what it has not read."""
    proxy, prompt = proxy_of(), make_prompt(7)
    found = hold_out(proxy, prompt, LocalTexts(proxy, "single"), PACE, steps=3, folds=3, seed=0)
    for rows in folds_of(prompt):
        for steps in (1, 2, 3):
            thinking = DeepThinking(proxy, steps=steps, step_size=0.1, positions="overlap")
            state = thinking.fit(choosing._without(prompt, rows))
            for row in rows:
                scores = state.score([prompt.examples[row]], LABELS)[0]
                right = LABELS.index(prompt.examples[row]["label"])
                assert found.losses[row, steps - 1] == pytest.approx(-float(scores[right]), rel=1e-3)
                assert found.right[row, steps - 1] == (int(scores.argmax()) == right)


def test_one_step_is_the_loss_of_plain_in_context_learning(proxy_of):
    proxy, prompt = proxy_of("gpt2"), make_prompt(6)
    found = hold_out(proxy, prompt, LocalTexts(proxy, "single"), PACE, steps=1, folds=6, seed=0)
    for row in range(6):
        others = choosing._without(prompt, [row])
        expected = -plain_score(proxy, others.text(prompt.examples[row]), prompt.demonstrations[row][1])
        assert found.losses[row, 0] == pytest.approx(expected, rel=1e-3)


@given(
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=2, max_size=30), st.integers(2, 6), st.integers(0, 5)
)
def test_folds_hold_everything_once_and_answers_in_equal_shares(answers, folds, seed):
    parts = list(choosing._folds(answers, folds, seed))
    assert sorted(row for part in parts for row in part) == list(range(len(answers)))
    for answer in set(answers):
        counts = [sum(answers[row] == answer for row in part) for part in parts]
        assert max(counts) - min(counts) <= 1


LOSSES = st.lists(st.lists(st.floats(0, 9, allow_nan=False), min_size=4, max_size=4), min_size=2, max_size=8)


@given(LOSSES)
def test_no_fewer_steps_are_within_one_standard_error(losses):
    losses = np.array(losses)
    steps = choose([measured(losses)]).steps
    best = int(losses.mean(0).argmin())

    def near(step):
        difference = losses[:, step] - losses[:, best]
        return difference.mean() <= difference.std(ddof=1) / len(losses) ** 0.5 + 1e-9

    assert [near(step) for step in range(steps)] == [False] * (steps - 1) + [True]


@given(LOSSES, st.floats(-3, 3))
def test_what_is_hard_for_all_steps_alike_changes_nothing(losses, shift):
    losses = np.round(np.array(losses), 2)
    harder = losses + np.linspace(shift, -shift, len(losses))[:, None].round(2)
    assert choose([measured(losses)]).steps == choose([measured(harder)]).steps


def test_steps_that_help_everywhere_are_taken():
    losses = np.array([[3.0, 2.0, 1.0], [2.5, 1.4, 0.5], [4.0, 3.1, 2.0]])
    assert choose([measured(losses)]).steps == 3
    assert choose([measured(losses[:, ::-1])]).steps == 1


@given(LOSSES)
def test_without_standard_errors_the_least_loss_is_taken(losses):
    losses = np.array(losses)
    steps = choose([measured(losses)], standard_errors=0).steps
    assert losses[:, steps - 1].mean() <= losses.mean(0).min() + 1e-9
    assert (losses[:, : steps - 1].mean(0) > losses.mean(0).min()).all()


def test_the_pace_with_the_least_loss_is_taken():
    slow, fast = (Pace(size, 0.9, "overlap") for size in (0.01, 0.1))
    base = np.array([[3.0, 2.9], [2.0, 1.9]])
    found = choose([measured(base, slow), measured(base - [[0.0, 1.0]], fast)])
    assert (found.recipe, found.steps) == (fast, 2)


def test_automatic_steps_read_what_was_chosen(proxy_of, monkeypatch):
    """A larger step size makes the random model better on its own demonstrations: the losses are given."""
    proxy, prompt = proxy_of(), make_prompt(6)

    def given(proxy, prompt, texts, pace, *, steps, folds, seed):
        return measured(np.tile(np.arange(steps, 0, -1.0), (6, 1)) * (2 - pace.step_size), pace)

    monkeypatch.setattr(choosing, "hold_out", given)
    state = DeepThinking(proxy, step_size=(0.1, 0.5), positions=("overlap", "relative"), max_steps=4).fit(
        prompt
    )
    told = state.thinking
    assert (told["steps"], told["step_size"], len(told["held_out"])) == (4, 0.5, 4)
    plain = DeepThinking(proxy, steps=4, step_size=0.5, positions=told["positions"]).fit(prompt)
    assert plain.fingerprint == state.fingerprint


def test_a_random_model_does_not_think(proxy_of):
    """It learns nothing in context, so that reading more is noise: plain in-context learning stays."""
    state = DeepThinking(proxy_of(), max_steps=4).fit(make_prompt(9))
    assert state.thinking["steps"] == 1
    assert "within 1 standard error" in state.thinking["reason"]


def test_one_demonstration_is_not_held_out_of_itself(proxy_of):
    state = DeepThinking(proxy_of()).fit(make_prompt(1))
    assert (state.thinking["steps"], state.thinking["held_out"]) == (1, [])


def test_work_is_told_and_can_be_interrupted(proxy_of):
    told = []

    def listen(stage, done, total):
        told.append((stage, done, total))
        if stage == "held-out demonstrations" and done == 2:
            raise KeyboardInterrupt

    with progress_to(listen), pytest.raises(KeyboardInterrupt):
        DeepThinking(proxy_of(), max_steps=3).fit(make_prompt(6))
    assert ("held-out demonstrations", 2, 5) in told
    assert not proxy_of().model.training
    assert DeepThinking(proxy_of(), steps=2).fit(make_prompt(6)).thinking["steps"] == 2


def test_micro_is_measured_on_its_labels():
    state = DeepThinking(Proxy.load("micro"), max_steps=2).fit(make_prompt(12))
    (curve,) = state.thinking["held_out"]
    assert len(curve["loss"]) == len(curve["accuracy"]) == len(curve["standard_error"]) == 2
    assert all(0 <= value <= 1 for value in curve["accuracy"])
