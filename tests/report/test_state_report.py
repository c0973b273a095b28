"""The report of a state: curves with what was chosen, norms with their artefact, and what is not there."""

import json
from pathlib import Path

import pytest

from icl_plugins import ContextTuning, DeepThinking, ManyShotPrompt, Pool, Proxy, Template
from icl_plugins.cli import run
from icl_plugins.errors import ArtefactError
from icl_plugins.report import state_report
from icl_plugins.thinking.saving import describe

TEMPLATE = Template("Query: {text}\nIntent:", " {label}")


@pytest.fixture(scope="module")
def reader(make_model, tokenizer):
    return Proxy.from_model(make_model(max_position_embeddings=512), tokenizer, name="tiny <b>")


@pytest.fixture
def make(reader, tmp_path):
    """Make six demonstrations a state with some settings -> its folder."""

    def make(labels=("card", "rate"), way=DeepThinking, **settings):
        rows = [{"text": f"question {i} <b>", "label": labels[i % len(labels)]} for i in range(6)]
        pool = Pool.from_records(rows, TEMPLATE)
        shots = tuple(zip(pool.questions, pool.answers, strict=True))
        folder = tmp_path / "state"
        way(reader, **settings).fit(ManyShotPrompt(TEMPLATE, shots, pool.examples)).save(folder)
        return folder

    return make


def plot(report, name):
    return next(one for one in report.plots if one.name == name)


@pytest.mark.parametrize(
    "settings",
    [
        {"step_size": (0.01, 0.5), "positions": "overlap"},
        {"way": ContextTuning, "learning_rate": (0.01, 0.5)},
    ],
)
def test_the_curves_and_their_errors_are_those_of_the_state_and_the_chosen_is_marked(make, settings):
    folder = make(max_steps=3, folds=2, **settings)
    thinking, report = describe(folder)["thinking"], state_report(folder)
    curves = thinking["held_out"]
    rows = plot(report, "held-out-loss").table.rows
    assert [row[2] for row in rows] == [f"{loss:.4g}" for one in curves for loss in one["loss"]]
    assert [row[3] for row in rows] == [f"{e:.3g}" for one in curves for e in one["standard_error"]]
    marked = [row[:2] for row in rows if row[4]]
    assert marked == [(thinking["recipe"], str(thinking["steps"]))]
    assert [row[0] for row in rows[::3]] == [one["recipe"] for one in curves]
    assert thinking["reason"] in report.html()


def test_the_error_of_an_accuracy_is_binomial(make):
    folder = make(max_steps=1, folds=2)
    (row,) = plot(state_report(folder), "held-out-accuracy").table.rows
    (share,) = describe(folder)["thinking"]["held_out"][0]["accuracy"]
    assert row[2:4] == (f"{100 * share:.4g}", f"{100 * (share * (1 - share) / 6) ** 0.5:.3g}")


def test_answers_that_do_not_recur_have_no_accuracy_and_the_page_says_so(make):
    report = state_report(make(labels=tuple("abcdef"), max_steps=2, folds=2))
    assert "held-out-accuracy" not in [one.name for one in report.plots]
    assert "Accuracy: none" in report.html()


def test_curves_are_told_apart_in_the_plot_by_what_they_do_not_share(make):
    folder = make(max_steps=2, folds=2, step_size=(0.01, 0.5), positions="overlap")
    drawn = plot(state_report(folder), "held-out-loss").file("svg").decode()
    assert ">step size 0.01<" in drawn and ">step size 0.5<" in drawn and "momentum" not in drawn


def test_context_tuning_shows_the_training_loss_and_no_norms_nor_positions(make):
    folder = make(way=ContextTuning, steps=4, learning_rate=0.1)
    report, losses = state_report(folder), describe(folder)["thinking"]["losses"]
    assert [one.name for one in report.plots] == ["training-loss"]
    rows = plot(report, "training-loss").table.rows
    assert rows == tuple((str(at + 1), f"{loss:.4g}") for at, loss in enumerate(losses)) and len(rows) == 3
    page = report.html()
    assert "4 steps of context tuning" in page and "learning rate 0.1" in page
    assert "ositions" not in page and "dropout, behind" not in page


def test_dropout_is_told_beside_the_training_loss(make):
    assert "dropout, behind" in state_report(make(way=ContextTuning, steps=2, dropout=0.1)).html()


@pytest.mark.parametrize("part", ["keys", "values"])
def test_norms_are_shown_by_layer_and_reading(make, part):
    folder = make(steps=4, step_size=0.1)
    norms = describe(folder)["thinking"]["norms"]
    table = plot(state_report(folder), f"norms-{part}").table
    assert table.columns == ("layer", "reading 2", "reading 3", "reading 4")
    which = ("keys", "values").index(part)
    for layer, row in enumerate(table.rows):
        assert row == (str(layer + 1), *(f"{step[layer][which]:.4g}" for step in norms))


@pytest.mark.parametrize(
    ("positions", "says"),
    [("reference", "not a finding"), ("overlap", "exactly 0"), ("relative", "0 but for rounding")],
)
def test_the_artefact_of_positions_is_explained_as_it_is(make, positions, says):
    folder = make(steps=2, positions=positions)
    first = describe(folder)["thinking"]["norms"][0][0]
    assert (first[0] > 1e-3) == (positions == "reference") and first[1] == pytest.approx(0, abs=1e-4)
    assert says in state_report(folder).html()


@pytest.mark.parametrize(("way", "says"), [(DeepThinking, "was moved"), (ContextTuning, "was trained")])
def test_fixed_steps_have_no_curves_and_one_step_no_more_and_the_page_says_so(make, way, says):
    page = state_report(make(way=way, steps=1)).html()
    assert "None were held out, so there are no curves" in page and f"nothing {says}" in page
    assert "<svg" not in page


def test_equal_states_give_equal_pages_that_escape_what_they_show(make):
    pages = [state_report(make(steps=2)).html() for _ in range(2)]
    assert pages[0] == pages[1] and "tiny &lt;b&gt;" in pages[0] and "tiny <b>" not in pages[0]


def test_a_folder_of_another_prompt_is_damaged(make):
    folder = make(steps=1)
    prompt = ManyShotPrompt.load(folder / "prompt.json")
    ManyShotPrompt(TEMPLATE, prompt.demonstrations, prompt.examples, "Other.").save(folder / "prompt.json")
    with pytest.raises(ArtefactError, match="its prompt is another"):
        state_report(folder)


def test_the_command_makes_the_page_and_the_plots(make, tmp_path, monkeypatch, capsys):
    folder = make(steps=3)
    monkeypatch.chdir(tmp_path)
    assert run(["report", "state", "--out", "page.html", "--plots", "plots", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": "page.html", "plots": "plots"}
    assert Path("page.html").read_text("utf-8") == state_report(folder).html()
    assert {path.stem for path in Path("plots").iterdir()} == {"norms-keys", "norms-values"}
    assert run(["report", str(tmp_path), "--out", "other.html"]) == 3
    assert "holds no state" in capsys.readouterr().err
