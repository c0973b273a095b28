"""What is told of estimates: how they agree with real losses, what came of it, and nothing without them."""

from dataclasses import asdict, replace

import numpy as np
import pytest

from icl_plugins.algorithms.honesty import Measured, estimate_quality
from icl_plugins.report import selection_report
from icl_plugins.report.estimates import estimates_of

REAL = np.linspace(2.0, 3.0, 40)
RANKS = {"good": REAL + 1, "bad": np.sin(np.arange(40.0))}
BASE = {"selector": "SlotAssignment", "check": 40}


def details(kind="good", *, fell_back=False, **more):
    """What a method of influence tells whose estimates rank well, or not at all."""
    quality = estimate_quality([Measured(RANKS[kind], REAL, 2.25)])
    estimate = {**asdict(quality), "fell_back": fell_back}
    return {"queries": 16, "estimate": estimate, "loss": 2.125, "random_loss": 2.5, **more}


def told(given, **config):
    return estimates_of({"details": given, "config": {**BASE, **config}})


def test_the_table_compares_estimates_with_a_constant():
    table = told(details()).table
    assert table.columns == ("on 40 real subsets", "estimate", "constant")
    quality = details()["estimate"]
    rows = {name: cells for name, *cells in table.rows}
    assert rows["relative error, mean"] == [
        f"{quality[name]:.3g}" for name in ("relative_error", "constant_relative_error")
    ]
    assert rows["rank correlation, 95 % interval"] == ["+1.00 (+1.00 to +1.00)", "0"]
    assert rows["regret of the tenth estimated best"] == ["0 nats", f"{quality['constant_regret']:.3g} nats"]
    assert rows["squared error explained"][1] == "0 %"


RANK = "The estimates rank real subsets (as values they are worse than a constant)"
CHANCE = "The estimates do not rank real subsets beyond chance"


@pytest.mark.parametrize(
    ("given", "config", "says"),
    [
        (details(), {}, f"{RANK}; chosen by them."),
        (details(trace=[2.5]), {}, f"{RANK}; chosen by them and by real losses."),
        (
            details("bad", fell_back=True),
            {"check": 1200},
            f"{CHANCE}: the best of 1,200 random sets by real losses was taken instead.",
        ),
        (details("bad"), {}, f"{CHANCE}; chosen by them all the same."),
    ],
)
def test_the_verdict_says_what_was_done(given, config, says):
    assert told(given, **config).verdict == says


def test_estimates_that_rank_without_less_regret_are_not_said_to_be_chance():
    given = details()
    given["estimate"]["regret"] = given["estimate"]["constant_regret"]
    assert told(given).verdict == (
        "The estimates rank real subsets, but the tenth they put first is no better than the mean; "
        "chosen by them all the same."
    )


def test_the_real_loss_stands_beside_that_of_random_sets():
    found = told(details())
    assert found.loss == "2.125 nats; random 2.5"
    lose = "The 16 queries lose 2.125 nats on average behind the set chosen for them"
    assert found.notes == {"loss": f"{lose}; 2.5 behind random sets, which were not."}
    reordered = told(details(), order={"name": "reversed"}).notes["loss"]
    assert reordered == f"{lose}, in its first order; 2.5 behind random sets, which were not."
    alone = {name: value for name, value in details().items() if name != "random_loss"}
    assert (told(alone).loss, told(alone).notes["loss"]) == ("2.125 nats", f"{lose}.")
    del alone["loss"]
    assert (told(alone).loss, told(alone).notes) == ("", {})


def test_the_regret_of_error_rates_is_in_points():
    found = told(details(), outcome="accuracy")
    regret = 100 * details()["estimate"]["constant_regret"]
    assert found.table.rows[3][1:] == ("0.0 points", f"{regret:.1f} points")
    assert "answered wrong" in found.table.caption


def test_what_was_cut_and_what_rounds_brought_is_told():
    notes = told(details(cut=12, trace=[2.5, 2.25, 2.125])).notes
    assert notes["rounds"] == "Real losses proved one set better after the other: 2.5, 2.25, 2.125."
    assert notes["cut"] == "12 examples are longer than a slot; the estimates saw the end of them only."


@pytest.mark.parametrize("estimate", [None, 3, "<b>", {}, {**details()["estimate"], "low": "<b>"}])
def test_what_others_keep_under_the_same_name_is_left_alone(chosen, estimate):
    selection, features = chosen
    other = replace(selection, details={**selection.details, "estimate": estimate, "loss": 2.0})
    pages = [selection_report(one, features=features).html() for one in (selection, other)]
    assert pages[0] == pages[1]


def test_the_page_has_a_section_of_its_own(chosen):
    selection, features = chosen
    given = {**selection.details, **details("bad", fell_back=True)}
    report = selection_report(replace(selection, details=given), features=features)
    assert [section.name for section in report.sections] == [
        "pool",
        "estimates",
        "demonstrations",
        "cost",
        "made",
    ]
    assert report.facts["Loss of the queries"] == "2.125 nats; random 2.5"
    page = report.html()
    assert '<a href="#estimates">Estimates</a>' in page
    assert f"<p>{CHANCE}: the best of 40 random sets by real losses was taken instead.</p>" in page
    assert '<th scope="col" class="number">constant</th>' in page
    assert "; 2.5 behind random sets, which were not.</p>" in page
