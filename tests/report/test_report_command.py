"""`icl-plugins report` and `select --report`: the same pages, made where the data are."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from report_samples import make_comparison, make_selection

from icl_plugins import GradientMatching, Pool, Template
from icl_plugins.cli import run
from icl_plugins.errors import NonFiniteError
from icl_plugins.report import comparison_report, prompt_report, selection_report

TEMPLATE = Template("Query: {text}\nIntent:", " {label}")


@pytest.fixture(scope="module")
def model(tmp_path_factory, make_model, tokenizer):
    """The folder of a tiny random proxy."""
    folder = tmp_path_factory.mktemp("model")
    make_model(max_position_embeddings=512).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty folder to work in, with train.jsonl."""
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"question {i} <b>", "label": ("card", "rate")[i % 2]} for i in range(12)]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return tmp_path


COMMAND = ["select", "train.jsonl", "-q", TEMPLATE.question, "-a", TEMPLATE.answer, "-n", "4", "-o", "p.json"]


def select(model, *options):
    return run([*COMMAND, "--proxy", model, "--set", "epochs=1", "--json", *options])


def test_a_comparison_becomes_the_page_that_python_makes(work, capsys):
    comparison = make_comparison(datasets=("one",))
    comparison.save("comparison.json")
    assert run(["report", "comparison.json", "--out", "page.html", "--plots", "plots", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": "page.html", "plots": "plots"}
    assert Path("page.html").read_text("utf-8") == comparison_report(comparison).html()
    assert {path.suffix for path in Path("plots").iterdir()} == {".svg", ".png"}


def test_a_prompt_becomes_the_page_that_python_makes(work, capsys):
    prompt = make_selection(40, 4)[0].to_prompt()
    prompt.save("prompt.json")
    assert run(["report", "prompt.json", "--out", "page.html"]) == 0
    assert "page.html" in capsys.readouterr().out
    assert Path("page.html").read_text("utf-8") == prompt_report(prompt).html()


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"kind": "other"}', '{"kind": "icl_plugins.Comparison"}']
)
def test_what_is_no_report_is_refused(work, capsys, content):
    if content is not None:
        Path("saved.json").write_text(content, "utf-8")
    assert run(["report", "saved.json", "--out", "page.html"]) == 3
    assert "saved.json" in capsys.readouterr().err
    assert not Path("page.html").exists()


def test_a_page_that_could_not_be_written_is_refused_before_the_work(work, model, capsys):
    assert select(model, "--report", "missing/page.html") == 3
    assert (
        "--report 'missing/page.html'" in json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["got"]
    )
    assert not Path("p.json").exists()


def test_plots_that_could_not_be_written_are_refused_before_the_work(work, model, capsys):
    assert select(model, "--plots", "train.jsonl") == 3
    assert "train.jsonl" in json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["got"]
    assert not Path("p.json").exists()


@pytest.mark.parametrize(
    "options", [("-o", "train.jsonl"), ("--report", "./p.json"), ("--report", "train.jsonl")]
)
def test_no_file_of_the_command_is_replaced_by_another(work, model, capsys, options):
    before = Path("train.jsonl").read_bytes()
    assert select(model, *options) == 3
    assert "another file" in json.loads(capsys.readouterr().err.splitlines()[-1])["error"]["got"]
    assert Path("train.jsonl").read_bytes() == before and not Path("p.json").exists()


def test_a_report_does_not_replace_what_it_is_made_from(work, capsys):
    make_selection(40, 4)[0].to_prompt().save("prompt.json")
    before = Path("prompt.json").read_bytes()
    assert run(["report", "prompt.json", "--out", str(work / "prompt.json")]) == 3
    assert Path("prompt.json").read_bytes() == before


def test_plots_of_a_prompt_are_refused_since_it_has_none(work, capsys):
    make_selection(40, 4)[0].to_prompt().save("prompt.json")
    assert run(["report", "prompt.json", "--out", "page.html", "--plots", "plots"]) == 2
    assert not Path("plots").exists() and not Path("page.html").exists()


def test_what_was_chosen_is_shown_where_the_page_fails(work, model, capsys, monkeypatch):
    def fail(*args, **settings):
        raise NonFiniteError("NaN", expected="numbers", fix="look")

    monkeypatch.setattr("icl_plugins.report.selection_report", fail)
    assert select(model, "--report", "page.html") == 4
    told = json.loads(capsys.readouterr().out)
    assert (told["out"], told["shots"]) == ("p.json", 4)
    assert Path("p.json").exists() and not Path("page.html").exists()


def test_select_writes_the_page_from_the_features_that_it_matched(work, model, capsys, monkeypatch):
    from icl_plugins.proxy import gradients

    computed = []
    batches = gradients.gradient_batches

    def counting(proxy, examples, prefix, rows, *others, **named):
        computed.append(len(rows))
        return batches(proxy, examples, prefix, rows, *others, **named)

    monkeypatch.setattr("icl_plugins.proxy.pool_gradients.gradient_batches", counting)
    assert select(model, "--report", "page.html", "--plots", "plots") == 0
    assert sum(computed) == 12 * 2  # each example once at each of two checkpoints
    told = json.loads(capsys.readouterr().out)
    page = Path("page.html").read_text("utf-8")
    pool = Pool.from_jsonl("train.jsonl", TEMPLATE)
    selector = GradientMatching(proxy=model, epochs=1)
    selection = selector.select(pool, 4)
    expected = selection_report(selection, features=selector.features(pool))
    assert told["fingerprints"]["selection"] == selection.fingerprint
    mine = {plot.name: plot for plot in expected.plots}
    for name in ("labels", "objective", "map"):
        assert mine[name].markup() in page
        assert (work / "plots" / f"{name}.svg").read_bytes() == mine[name].file("svg")


def test_an_order_keeps_the_features_too(work, model, capsys):
    assert select(model, "--order", "shuffle", "--report", "page.html") == 0
    assert "Principal components of the features" in Path("page.html").read_text("utf-8")


def test_other_methods_show_embeddings_of_their_proxy(work, model, capsys):
    assert select(model, "--method", "kmeans", "--report", "page.html") != 0  # it has no epochs
    assert run([*COMMAND, "-m", "kmeans", "--proxy", model, "--report", "page.html"]) == 0
    assert f"embeddings of the proxy {Path(model).name}" in Path("page.html").read_text("utf-8")


def test_the_command_line_loads_matplotlib_for_reports_only():
    code = "import sys, icl_plugins.cli, icl_plugins.report.plot; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
