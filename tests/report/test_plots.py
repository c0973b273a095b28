"""A plot is drawn once: the same bytes each time, text as text, colours that the page can change."""

import re
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from report_samples import LABELS, make_selection

from icl_plugins.errors import ArtefactError, OptionalDependencyError
from icl_plugins.report import comparison_report, selection_report
from icl_plugins.report.drawing import spread
from icl_plugins.report.markup import readable
from icl_plugins.report.plot import short
from icl_plugins.report.selection_plots import balance_plot, objective_plot


def parse(svg):
    return ElementTree.fromstring(svg)  # noqa: S314


def drawn(plot):
    from matplotlib.figure import Figure

    figure = Figure(figsize=plot.size, layout="constrained")
    plot.draw(figure)
    figure.draw_without_rendering()
    return figure


@pytest.fixture(scope="module")
def plot():
    """The balance of labels that are hostile."""
    return balance_plot({label: 5 + at for at, label in enumerate(LABELS)}, {LABELS[0]: 3, LABELS[2]: 2})


def test_equal_plots_give_equal_files(plot):
    again = balance_plot({label: 5 + at for at, label in enumerate(LABELS)}, {LABELS[0]: 3, LABELS[2]: 2})
    for kind in ("svg", "png"):
        assert plot.file(kind) == again.file(kind)
    assert plot.markup() == again.markup()


def test_the_files_are_svg_with_text_and_png(plot, tmp_path):
    plot.save(tmp_path)
    svg = parse((tmp_path / "labels.svg").read_bytes())
    assert {short(label) for label in LABELS} <= {
        node.text for node in svg.iter() if node.tag.endswith("}text")
    }
    assert (tmp_path / "labels.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["labels.png", "labels.svg"]


def test_a_folder_that_is_not_there_is_an_error(plot, tmp_path):
    with pytest.raises(ArtefactError):
        plot.save(tmp_path / "missing")


def test_in_the_page_the_page_decides_on_colours_and_labels_stay_what_they_are(plot):
    svg = parse(re.search("<svg.*</svg>", plot.markup(), re.DOTALL)[0])
    for node in svg.iter():
        values = " ".join(node.attrib[key] for key in node.attrib if key in ("style", "fill", "stroke"))
        assert not re.search(r"#[0-9a-f]{3,6}\b|rgb|'", values)
    assert {short(label) for label in LABELS} <= {node.text for node in svg.iter("text")}


def test_drawing_leaves_the_settings_of_the_caller_and_is_not_changed_by_them(plot):
    import matplotlib

    before = plot.file("svg")
    with matplotlib.rc_context({"font.size": 31, "axes.facecolor": "red", "text.usetex": True}):
        settings = dict(matplotlib.rcParams)
        assert plot.file("svg") == before
        assert dict(matplotlib.rcParams) == settings


def test_the_labels_of_the_table_are_those_of_pool_and_selection(plot):
    rows = {row[0]: row[1:] for row in plot.table.rows}
    assert list(rows) == list(reversed(LABELS))
    total = sum(range(5, 5 + len(LABELS)))
    assert rows[LABELS[2]][:4] == ("7", f"{100 * 7 / total:.1f}", "2", "40.0")
    assert rows[LABELS[1]][2:4] == ("0", "0.0")


def test_many_labels_are_drawn_in_part_and_the_table_has_all():
    pool = {f"label {at}": 2 for at in range(60)}
    plot = balance_plot(pool, {"label 1": 4})
    assert len(plot.table.rows) == 60
    assert "the 20 most frequent of 60 labels" in plot.description
    svg = parse(plot.file("svg"))
    assert sum((node.text or "").startswith("label ") for node in svg.iter()) == 20


def test_the_objective_has_the_trace_and_the_random_sets_of_each_size(chosen):
    selection, _ = chosen
    plot = objective_plot(selection, (0.5, 2.0))
    assert [row[0] for row in plot.table.rows] == ["1", "2", "4", "8", "16"]
    shots, value, mean, low, high = plot.table.rows[-1]
    assert value == f"{selection.objective[-1]:.4g}"
    assert mean == f"{selection.details['random_objective']:.4g}"
    assert float(low) == pytest.approx(float(mean) / 2, rel=1e-3)
    assert float(high) == pytest.approx(float(mean) * 2, rel=1e-3)
    assert selection.head(4).details["random_objective"] == pytest.approx(
        float(plot.table.rows[2][2]), rel=1e-3
    )


@pytest.mark.parametrize("size", [1, 2])
def test_one_shot_and_the_whole_pool_can_be_drawn(size):
    selection, features = make_selection(2, size, labels=("a",))
    report = selection_report(selection, features=features)
    assert all(plot.markup() for plot in report.plots)


def test_numbers_on_axes_are_written_plainly(chosen, comparison):
    selection, features = chosen
    for plot in (*selection_report(selection, features=features).plots, *comparison_report(comparison).plots):
        if plot.name not in ("labels", "map"):  # whose labels hold dollars of their own
            assert "$" not in plot.file("svg").decode("utf-8")


@pytest.mark.parametrize("trace", [(90, 80, 70, 61), (90, 70, 50, 14.4), (3e3, 50, 1, 0.02)], ids=str)
def test_the_axis_of_the_objective_can_be_read_however_narrow_it_is(chosen, trace):
    plot = objective_plot(replace(chosen[0].head(4), objective=trace, details={}))
    axes = drawn(plot).axes[0]
    low, high = axes.get_ylim()
    seen = [tick for tick in axes.yaxis.get_majorticklabels() if low <= tick.get_position()[1] <= high]
    assert 2 <= len(seen) <= 8 and all(float(tick.get_text()) for tick in seen)


def test_labels_on_axes_are_short_and_on_one_line():
    assert short("a\nb\t c") == "a b c"
    assert (
        short("first_label_that_is_long_and_ends_so")
        == "first_label_…_and_ends_so"[:12] + "…and_ends_so"[-12:]
    )
    assert len(short("x" * 90)) == 24
    assert short("\x1b[31m") == readable("\x1b[31m")


def test_names_at_the_ends_of_lines_are_apart_near_their_lines_and_in_order():
    generator = np.random.default_rng(0)
    for count in (1, 2, 7):
        wanted = sorted(generator.uniform(0, 1, count))
        places = spread(wanted, 0.1)
        assert all(after - before > 0.1 - 1e-9 for before, after in zip(places, places[1:], strict=False))
        assert max(places) <= 1
    assert spread([0.1, 0.5, 0.9], 0.1) == [0.1, 0.5, 0.9]


def test_without_matplotlib_the_pip_line_is_told_before_any_work(chosen, monkeypatch):
    selection, _ = chosen
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OptionalDependencyError, match=r'pip install "icl-plugins\[report\]"'):
        selection_report(selection)
