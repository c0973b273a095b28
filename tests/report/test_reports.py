"""What the reports say, and that they say it in equal bytes, in little space, without a network."""

import json
import re
from dataclasses import replace
from html import unescape

import pytest
from matplotlib.figure import Figure
from report_samples import make_comparison, make_selection

from icl_plugins.cli import run
from icl_plugins.errors import SettingError
from icl_plugins.evaluation.error_table import error_tables
from icl_plugins.evaluation.results import Comparison
from icl_plugins.evaluation.table import averages, gain_text, gains
from icl_plugins.examples import Pool, Template
from icl_plugins.prompt import ManyShotPrompt
from icl_plugins.report import comparison_report, prompt_report, selection_report
from icl_plugins.selection import Selection


def headings(page):
    return re.findall("<h2[^>]*>(.*?)</h2>", page)


def test_equal_selections_give_equal_pages():
    pages = []
    for _ in range(2):
        selection, features = make_selection(60, 8)
        pages.append(selection_report(selection, features=features).html())
    assert pages[0] == pages[1]


def test_the_page_names_no_address_and_no_other_file(pages):
    for path in pages.values():
        page = path.read_text("utf-8")
        own = re.sub(r"http://example\.com/x\.png|&lt;img src=", "", page)  # of a demonstration
        assert not re.search(r"https?:|\bsrc=|url\((?!#)|@import|<link|<base|xmlns", own)
        assert "default-src 'none'" in unescape(page)


def test_a_page_of_1024_demonstrations_and_3000_points_is_below_a_megabyte():
    selection, features = make_selection(3500, 1024)
    page = selection_report(selection, features=features, tokens=[30] * 1024).html()
    assert len(page.encode("utf-8")) < 1_000_000
    assert page.count('class="shot"') == 1024
    assert "1,976 of the 2,476 others, drawn at random" in page


def test_the_page_of_a_selection_has_all_parts(chosen, pages):
    page = pages["selection"].read_text("utf-8")
    assert headings(page) == ["Beside the pool", "Demonstrations", "Cost", "How it was made"]
    assert re.findall("<h3[^>]*>(.*?)</h3>", page) == [
        "Label balance",
        "Objective against shots",
        "Map of the pool",
    ]
    selection, _ = chosen
    for score, row in zip(selection.scores, selection.indices, strict=True):
        assert f"<span>score {score:.4g}</span><span>row {row}</span>" in page
    assert "17.5 on average, 10 to 25" in page
    assert selection.fingerprint in page


def test_the_rows_of_the_file_are_shown_where_they_are_given(chosen):
    selection, features = chosen
    page = selection_report(selection, features=features, rows=range(1000, 1200)).html()
    assert f"<span>row {1000 + selection.indices[0]}</span>" in page


@pytest.mark.parametrize("given", [{"tokens": [1]}, {"rows": range(199)}])
def test_numbers_that_are_not_one_for_each_are_refused(chosen, given):
    selection, features = chosen
    with pytest.raises(SettingError, match=f"{len(next(iter(given.values())))} {next(iter(given))}"):
        selection_report(selection, features=features, **given)
    with pytest.raises(SettingError, match="3 tokens"):
        prompt_report(selection.to_prompt(), tokens=[1, 2, 3])


def test_what_cannot_be_shown_is_said(chosen):
    selection, features = chosen
    pool = Pool.from_records([{"q": str(i), "a": str(i)} for i in range(200)], Template("{q}=", "{a}"))
    bare = Selection(pool, (1, 2), (0.0, 0.0), details={"skipped": {"too long": [5, 6, 7]}})
    report = selection_report(bare, features=features)
    page = report.html()
    assert [plot.name for plot in report.plots] == ["map"]
    assert "Label balance: none, since most of the 200 labels occur only once." in page
    assert "Objective: none, since the method has none." in page
    assert "3 examples were left out: too long." in page


def test_in_another_order_the_objective_of_the_set_is_told_and_its_trace_is_missed(chosen):
    selection, features = chosen
    report = selection_report(selection.reordered(range(15, -1, -1), {"name": "own"}), features=features)
    assert "Objective against shots: none, since it is not known in this order." in report.html()
    assert f"{selection.objective[-1]:.4g}" in report.facts["Distance of mean features"]
    assert [plot.name for plot in report.plots] == ["labels", "map"]


def test_a_saved_prompt_is_shown_with_its_scores_and_rows(chosen, tmp_path):
    selection, _ = chosen
    selection.to_prompt("Answer <b>yes</b>.").save(tmp_path / "prompt.json")
    prompt = ManyShotPrompt.load(tmp_path / "prompt.json")
    page = prompt_report(prompt, tokens=[7] * 16).html()
    assert headings(page) == ["Demonstrations", "How it was made"]
    assert page.count('class="shot"') == 16
    told = f"score {selection.scores[0]:.4g}", f"row {selection.indices[0]}", "tokens 7"
    assert "".join(f"<span>{text}</span>" for text in told) in page
    assert "Answer &lt;b&gt;yes&lt;/b&gt;." in page and prompt.fingerprint in page


def test_a_prompt_made_by_hand_is_shown_too():
    prompt = ManyShotPrompt(Template("{q}", "{a}"), (("q", "a"),), ({"q": "q", "a": "a"},))
    page = prompt_report(prompt).html()
    assert page.count('class="shot"') == 1 and "score" not in re.sub("<style>.*?</style>", "", page)


def test_a_prompt_that_was_cut_by_hand_is_shown_without_rows_and_scores(chosen, tmp_path, capsys):
    prompt = chosen[0].to_prompt()
    for provenance in (
        prompt.provenance,
        {"scores": ["x"] * 3, "rows": "abc", "config": [], "fingerprints": 1},
    ):
        shots = {"demonstrations": prompt.demonstrations[:3], "examples": prompt.examples[:3]}
        cut = replace(prompt, **shots, provenance=provenance)
        page = re.sub("<style>.*?</style>", "", prompt_report(cut).html())
        assert page.count('class="shot"') == 3 and "<span>row" not in page and "<span>score" not in page
        cut.save(tmp_path / "cut.json")
        assert run(["show", str(tmp_path / "cut.json"), "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)
        assert [(shot["row"], shot["score"]) for shot in shown["demonstrations"]] == [(None, None)] * 3
        assert shown["provenance"] == provenance


def test_the_page_of_a_comparison_has_the_average_each_data_set_and_the_notes(comparison, pages):
    page = pages["comparison"].read_text("utf-8")
    data = ["first &lt;b&gt;", "second"]
    rest = [*(f"Errors on {name}, max shots" for name in data), "Labels and time", "Notes", "How it was made"]
    assert headings(page) == ["Average of 2 data sets", "Gain over each control", *data, *rest]
    assert "<li>first &lt;b&gt;: 2 rows were left out</li>" in page
    for row in averages(comparison):
        if row.gain is not None:
            gain = gain_text(row.gain)
            assert page.count(gain) >= 2  # in the table and in the data of the plot
    for over in gains(comparison).values():
        assert all(gain_text(gain) in page for gain in over.values())
    for found in error_tables(comparison):
        for line in (*found.flips, *found.mistakes):
            assert all(f">{cell}<" in page for cell in line)


def test_each_plot_of_a_comparison_has_the_rows_of_every_method(comparison):
    plots = {plot.name: plot for plot in comparison_report(comparison).plots}
    assert list(plots) == [
        *("average-value", "average-gain", "data-1-first-b-value", "data-1-first-b-gain"),
        *("data-2-second-value", "data-2-second-gain", "label-kl", "time"),
    ]
    cells = [(method, shots) for method in ("random", "kmeans", "gradient_matching") for shots in ("4", "16")]
    for name, plot in plots.items():
        methods = [tuple(row[:2]) for row in plot.table.rows]
        expected = [cell for cell in cells if not (name.endswith("gain") and cell[0] == "random")]
        assert [cell for cell in methods if cell[1] in ("4", "16")] == expected
        assert sum(shots == "max (20)" for _, shots in methods) == len(expected) // 2


def test_a_method_looks_the_same_where_another_is_missing(comparison):
    runs = tuple(run for run in comparison.runs if (run.data, run.method) != ("second", "kmeans"))
    plots = {plot.name: plot for plot in comparison_report(replace(comparison, runs=runs)).plots}
    colours = []
    for name in ("data-1-first-b-gain", "data-2-second-gain"):
        figure = Figure()
        plots[name].draw(figure)
        points = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", "")]
        colours.append({line.get_color(): line.get_marker() for line in points})
    assert len(colours[0]) == 2 and len(colours[1]) == 1
    assert colours[1].items() <= colours[0].items()
    assert list(colours[1]) == [list(colours[0])[1]]  # gradient_matching comes behind kmeans


def test_one_data_set_has_no_average_and_many_methods_keep_their_names():
    methods = ["random", *(f"method {number}" for number in range(11))]
    report = comparison_report(make_comparison(datasets=("only",), methods=methods))
    assert [section.heading for section in report.sections][:3] == [
        *("Gain over each control", "only", "Errors on only, max shots")
    ]
    svg = report.plots[0].file("svg").decode("utf-8")
    assert all(f">{method}<" in svg for method in methods)


def test_without_random_there_is_no_gain_and_without_runs_no_report():
    report = comparison_report(make_comparison(methods=("kmeans",)))
    assert not [plot for plot in report.plots if plot.name.endswith("gain")]
    with pytest.raises(SettingError, match="without runs"):
        comparison_report(Comparison((), {}, ()))


def test_plots_are_written_as_files(chosen, tmp_path):
    selection, features = chosen
    selection_report(selection, features=features).save_plots(tmp_path / "new" / "plots")
    names = {path.name for path in (tmp_path / "new" / "plots").iterdir()}
    assert names == {f"{plot}.{kind}" for plot in ("labels", "objective", "map") for kind in ("svg", "png")}
