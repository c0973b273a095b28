from dataclasses import replace

import pytest

from icl_plugins.evaluation.error_table import error_tables
from icl_plugins.evaluation.markdown import markdown
from icl_plugins.evaluation.results import Comparison, Evaluation, Run

GOLDS = ("a", "a", "b", "b")


def a_run(method, predictions, asked=4, seed=0, golds=GOLDS):
    values = tuple(float(gold == answer) for gold, answer in zip(golds, predictions, strict=True))
    evaluation = Evaluation("target", "prompt", "accuracy", golds, tuple(predictions), values)
    return Run("one", method, asked or 9, seed, evaluation, 100, 0.0, 0.0, asked=asked)


@pytest.fixture
def comparison():
    return Comparison(
        (
            a_run("random", "aaaa"),
            a_run("random", "bbbb", asked=None),
            a_run("random", "aabb", asked=None, seed=1),
            a_run("best", ["a", "b", "b", None], asked=None),
        )
    )


def test_errors_are_those_with_the_most_shots_and_flips_are_against_random(comparison):
    (found,) = error_tables(comparison)
    assert (found.data, found.shots, found.methods) == ("one", "max", ("random", "best"))
    # against the first seed: a is fixed, b broken, one right, one wrong; against the second: two broken
    assert found.flips == (("best", "0.5", "1.5", "1.5", "0.5"),)


def test_mistakes_are_means_over_seeds_the_most_frequent_of_all_methods_first(comparison):
    (found,) = error_tables(comparison)
    assert found.mistakes == (("a", "b", "1.0", "1.0"), ("b", "(none)", "0.0", "1.0"))


def test_texts_of_their_own_have_flips_but_no_confusion(comparison):
    runs = [
        replace(run, evaluation=replace(run.evaluation, golds=("a", "b", "c", "d")))
        for run in comparison.runs
    ]
    (found,) = error_tables(Comparison(tuple(runs)))
    assert found.flips and not found.mistakes


def test_answers_cannot_break_the_markdown_table():
    answers = ("a | b\n| c |", "x" * 200)
    lines = markdown(Comparison((a_run("random", ["z"] * 4, golds=(*answers, *answers)),))).splitlines()
    rows = [line for line in lines if "| z |" in line]
    assert len(rows) == 2 and all(len(line) < 100 for line in rows)
    assert any(line.startswith(r"| a \| b \| c \| | z |") for line in rows)
