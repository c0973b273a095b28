"""The table of a comparison against its definition, and the comparison as a file."""

import json
from dataclasses import replace

import numpy as np
import pytest

from icl_plugins.errors import ArtefactError
from icl_plugins.evaluation.markdown import markdown
from icl_plugins.evaluation.results import Comparison, Evaluation, Run
from icl_plugins.evaluation.statistics import average_difference, mean_interval, paired_difference
from icl_plugins.evaluation.table import HEADERS, averages, gains, rows

ITEMS = 12


def _run(data, method, asked, seed, **changes):
    rng = np.random.default_rng([*map(ord, data + method), asked or 0, seed])
    golds = tuple("ab"[i % 2] for i in range(ITEMS))
    predictions = tuple(str(label) for label in rng.choice(["a", "b"], ITEMS))
    evaluation = Evaluation(
        "target",
        f"{data} {method} {asked} {seed}",
        "accuracy",
        golds,
        predictions,
        tuple(float(a == b) for a, b in zip(golds, predictions, strict=True)),
        seconds=float(seed + 1),
        cost=0.25,
    )
    made = Run(data, method, asked or 9, seed, evaluation, 100 + seed, 0.1 * seed, 2.0 * seed, asked=asked)
    return replace(made, **changes)


@pytest.fixture
def comparison():
    """Two data sets, two methods, 4 shots and as many as fit; random with three seeds, the other with two."""
    seeds = {"random": 3, "best": 2}
    runs = [
        _run(data, method, asked, seed)
        for data in ("one", "two")
        for method in seeds
        for asked in (4, None)
        for seed in range(seeds[method])
    ]
    return Comparison(tuple(runs), {"shots": [4, "max"]}, ("one: 3 rows are left out",))


def _cell(comparison, data, method, asked):
    return [r for r in comparison.runs if (r.data, r.method, r.asked) == (data, method, asked)]


def test_a_row_holds_the_statistics_and_means_of_its_runs(comparison):
    found = {(row.datasets, row.asked, row.method): row for row in rows(comparison)}
    assert len(found) == 8
    row = found[("two",), None, "best"]
    cell, random = (_cell(comparison, "two", method, None) for method in ("best", "random"))
    samples = [[run.evaluation for run in runs] for runs in (cell, random)]
    assert row.mean == mean_interval(samples[0])
    assert row.gain == paired_difference(*samples)
    assert row.mean.mean == pytest.approx(np.mean([run.evaluation.values for run in cell]))
    assert (row.shots, row.tokens, row.select_seconds, row.target_seconds) == (9, 100.5, 1.0, 1.5)
    assert (row.label_kl, row.cost, row.unparsable) == (0.05, 0.25, 0.0)
    assert found[("two",), None, "random"].gain is None


def test_an_average_weighs_data_sets_equally_and_pairs_each_with_its_random(comparison):
    row = next(row for row in averages(comparison) if (row.asked, row.method) == (4, "best"))
    by_data = [
        [_cell(comparison, data, method, 4) for method in ("best", "random")] for data in ("one", "two")
    ]
    pairs = [tuple([run.evaluation for run in runs] for runs in both) for both in by_data]
    assert row.gain == average_difference(pairs)
    assert row.mean.mean == pytest.approx(np.mean([[e.value for e in best] for best, _ in pairs]))
    assert row.datasets == ("one", "two")


def test_gains_over_each_control_are_paired_on_the_data_sets_of_both(comparison):
    control = [
        replace(r, method="kmeans") for r in comparison.runs if (r.method, r.data) == ("random", "two")
    ]
    changed = replace(comparison, runs=(*comparison.runs, *control))
    found = gains(changed)
    assert list(found) == [(4, "best"), (None, "best")]
    assert list(found[4, "best"]) == ["random", "kmeans"]
    best, random = (
        [run.evaluation for run in _cell(comparison, "two", method, 4)] for method in ("best", "random")
    )
    assert found[4, "best"]["kmeans"] == paired_difference(best, random)
    line = next(line for line in markdown(changed).splitlines() if line.startswith("| 4 | best | "))
    assert markdown(changed).index("## Gain over each control") and line


def test_data_sets_that_a_method_lacks_are_told(comparison):
    kept = tuple(r for r in comparison.runs if (r.data, r.method) != ("one", "best"))
    text = markdown(replace(comparison, runs=kept))
    assert "best (1 of 2 data sets)" in text and "random (" not in text.replace("gain over random (", "")


def test_a_cost_that_one_run_does_not_know_is_not_known(comparison):
    first = comparison.runs[0]
    unknown = replace(first, evaluation=replace(first.evaluation, cost=None))
    changed = replace(comparison, runs=(unknown, *comparison.runs[1:]))
    costs = {(row.datasets, row.asked, row.method): row.cost for row in rows(changed)}
    assert costs.pop((("one",), 4, "random")) is None and set(costs.values()) == {0.25}


def test_shares_of_unparsable_and_failed_answers_are_shown(comparison):
    changed = tuple(
        replace(run, evaluation=replace(run.evaluation, unparsable=3, errors={0: "gone"}))
        for run in comparison.runs
    )
    row = rows(replace(comparison, runs=changed))[0]
    assert (row.unparsable, row.failed) == (3 / ITEMS, 1 / ITEMS)
    assert "25.0%, 8.3% failed" in markdown(replace(comparison, runs=changed))


def test_the_markdown_has_a_line_for_every_row_and_the_notes(comparison):
    text = markdown(comparison)
    lines = [line for line in text.split("## Errors")[0].splitlines() if line.startswith("|")]
    assert len(lines) == (2 + 4) + (2 + 2) + 2 * (2 + 4)
    assert {line.count("|") for line in lines} == {len(HEADERS) + 1, 2 + 4 + 1}
    assert "- one: 3 rows are left out" in text
    assert "| max (9) | best |" in text


def test_one_data_set_has_no_average(comparison):
    alone = tuple(run for run in comparison.runs if run.data == "one")
    assert "Average" not in markdown(replace(comparison, runs=alone))


# --- the file -----------------------------------------------------------------------------------------------


def test_what_was_saved_is_loaded_and_equal_comparisons_are_equal_bytes(comparison, tmp_path):
    failed = replace(
        comparison.runs[0].evaluation, predictions=(None,) * ITEMS, errors={3: "x"}, dropped_rows=(1,)
    )
    comparison = replace(
        comparison, runs=(replace(comparison.runs[0], evaluation=failed), *comparison.runs[1:])
    )
    comparison.save(tmp_path / "a.json")
    loaded = Comparison.load(tmp_path / "a.json")
    assert loaded == comparison
    loaded.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda body: body["runs"][0].update(label_kl=0.5), "checksum"),
        (lambda body: body.update(extra=1), "checksum"),
        (lambda body: body.pop("checksum"), "damaged"),
        (lambda body: body.update(kind="icl_plugins.ManyShotPrompt"), "ManyShotPrompt"),
        (lambda body: body.update(schema=99), "upgrade"),
    ],
)
def test_a_changed_file_is_refused(comparison, tmp_path, change, says):
    path = tmp_path / "comparison.json"
    comparison.save(path)
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))
    with pytest.raises(ArtefactError, match=says):
        Comparison.load(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"kind": 1}'])
def test_what_is_no_comparison_is_refused(tmp_path, content):
    path = tmp_path / "comparison.json"
    path.write_bytes(content)
    with pytest.raises(ArtefactError):
        Comparison.load(path)
    with pytest.raises(ArtefactError, match="cannot be read"):
        Comparison.load(tmp_path / "none.json")
