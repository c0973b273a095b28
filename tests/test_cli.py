"""The command line: what it writes and where, what it refuses and how, and that it says what Python says."""

import json
import os
import runpy
import signal
import subprocess
import sys
import warnings
from dataclasses import fields
from pathlib import Path

import pytest

import icl_plugins
from icl_plugins import ManyShotPrompt, Pool, Template
from icl_plugins.cli import run
from icl_plugins.cli.inputs import parse_quotas, read_source, unescape
from icl_plugins.cli.methods import CLASSES, SETTINGS, describe, make_selector
from icl_plugins.cli.outcome import exit_code, write_result
from icl_plugins.cli.report import one_line
from icl_plugins.errors import (
    ArtefactError,
    BudgetError,
    CorruptStoreError,
    DataError,
    EstimateWarning,
    NonFiniteError,
    ProxyError,
    SettingError,
    TargetError,
)

ROOT = Path(__file__).parents[1]
QUESTION, ANSWER = r"Query: {text}\nIntent:", " {label}"
TEMPLATE = Template(question="Query: {text}\nIntent:", answer=" {label}")
ROWS = [{"text": f"question {i} [bold]x[/bold]", "label": ("card", "rate")[i % 2]} for i in range(12)]


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
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), "utf-8")
    return tmp_path


@pytest.fixture
def select(work, model, capsys):
    """Run `select` by the random method -> exit code, stdout, stderr."""

    def call(*options, pool="train.jsonl", method="random", shots="4"):
        given = ["select", pool, "-q", QUESTION, "-a", ANSWER, "-o", "prompt.json", "--tokenizer", model]
        given += ["-m", method] if method else []
        given += ["-n", shots] if shots else []
        code = run([*given, *options])
        return code, *capsys.readouterr()

    return call


# --- the main job ---------------------------------------------------------------------------------------


def test_select_writes_the_prompt_that_python_makes(select):
    code, out, err = select("--seed", "3", "--instruction", r"Name it.\nShortly.")
    assert (code, err) == (0, "")
    pool = Pool.from_records(ROWS, TEMPLATE)
    expected = icl_plugins.Random(seed=3).select(pool, 4).to_prompt("Name it.\nShortly.")
    written = ManyShotPrompt.load("prompt.json")
    assert written.fingerprint == expected.fingerprint
    assert "4 of 12 examples by random" in out and "prompt.json" in out


def test_the_same_command_writes_the_same_bytes(select):
    select()
    first = Path("prompt.json").read_bytes()
    select()
    assert Path("prompt.json").read_bytes() == first


@pytest.mark.parametrize("method", ["bm25", "kmeans", "similarity", "best_of_n", "latent_bayesian"])
def test_every_method_is_reached_by_name(select, model, method):
    options = [] if method == "bm25" else ["--proxy", model]
    code, out, err = select("--json", *options, method=method)
    assert code == 0, err
    assert json.loads(out)["config"]["selector"] == CLASSES[method]


@pytest.mark.parametrize("mode", ["online", "exact"])
def test_gradient_matching_is_the_default_and_takes_its_settings(select, model, mode):
    settings = ["--set", f"mode={mode}", "--set", "epochs=2", "--set", "prefix_length=2"]
    code, out, err = select("--json", "--proxy", model, *settings, method=None)
    assert code == 0, err
    report = json.loads(out)
    config = report["config"]
    assert (config["selector"], config["mode"], config["epochs"]) == ("GradientMatching", mode, 2)
    assert report["objective"]["final"] > 0 and report["objective"]["random"] > 0


def test_a_store_is_made_and_used_again(select, model, work):
    options = ["--proxy", model, "--store", "gradients", "--set", "epochs=1"]
    assert select(*options, method=None)[0] == 0
    first = Path("prompt.json").read_bytes()
    assert Path("gradients").is_dir()
    assert select(*options, method=None)[0] == 0
    assert Path("prompt.json").read_bytes() == first


def test_json_reports_every_demonstration_and_nothing_else_is_on_stdout(select):
    code, out, _ = select("--json")
    report = json.loads(out)
    assert [shot["position"] for shot in report["demonstrations"]] == [1, 2, 3, 4]
    for shot in report["demonstrations"]:
        row = ROWS[shot["row"]]
        assert (shot["question"] + shot["answer"], shot["label"]) == (TEMPLATE.render(row), row["label"])
    counted = sum(shot["tokens"] for shot in report["demonstrations"])
    assert 0 < counted == report["tokens"]
    assert report["out"] == "prompt.json" and report["label_kl"] >= 0


def test_shipped_data_brings_its_template_and_takes_another(work, model, capsys):
    command = ["select", "sample:banking77", "-n", "2", "-m", "random", "--tokenizer", model, "-o", "p.json"]
    assert run(command) == 0
    assert ManyShotPrompt.load("p.json").template.question == "Query: {text}\nIntent:"
    assert run([*command, "-q", "{text} =>"]) == 0
    assert ManyShotPrompt.load("p.json").template.question == "{text} =>"


def test_limits_are_those_of_python(select):
    code, out, _ = select("--json", "--include", "7,2", "--exclude", "0", "--quotas", "card=1,rate=3")
    rows = [shot["row"] for shot in json.loads(out)["demonstrations"]]
    assert rows[:2] == [7, 2] and 0 not in rows
    assert [ROWS[row]["label"] for row in rows].count("rate") == 3
    code, out, _ = select("--json", "--max-tokens", "60", shots=None)
    assert json.loads(out)["tokens"] <= 60


def test_rows_stay_those_of_the_file_when_duplicates_are_removed(select):
    with Path("train.jsonl").open("r+") as file:
        lines = file.readlines()
        file.seek(0)
        file.writelines([lines[0], lines[0], *lines[1:]])
    _, out, _ = select("--json", "--dedupe", "exact", "--include", "3", "--exclude", "2", shots="11")
    report = json.loads(out)
    rows = [shot["row"] for shot in report["demonstrations"]]
    assert rows[0] == 3 and report["demonstrations"][0]["question"] == TEMPLATE.render_question(ROWS[2])
    assert sorted(rows) == [0, *range(3, 13)] and report["removed_duplicates"] == 1
    code, _, err = select("--dedupe", "exact", "--include", "1")
    assert code == 2 and "row 1" in err


@pytest.mark.parametrize("dedupe", ["exact", "normalised"])
def test_dedupe_is_what_python_does(dedupe, work):
    rows = [*ROWS, ROWS[0], {**ROWS[1], "text": ROWS[1]["text"].upper()}]
    Path("twice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    pool = read_source("twice.jsonl", QUESTION, ANSWER, dedupe=dedupe).pool
    assert pool.fingerprint == Pool.from_records(rows, TEMPLATE).without_duplicates(dedupe).fingerprint


def test_conflicting_labels_can_be_dropped(select):
    rows = [*ROWS, {**ROWS[1], "label": "card"}]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    _, out, _ = select()
    assert "1 with labels that contradict each other (see --drop-conflicting)" in " ".join(out.split())
    _, out, _ = select("--json", "--drop-conflicting", shots="11")
    assert sorted(shot["row"] for shot in json.loads(out)["demonstrations"]) == [0, *range(2, 12)]
    code, _, err = select("--drop-conflicting", "--include", "12")
    assert code == 2 and "row 12" in err


@pytest.mark.parametrize("budget", range(58, 98, 8))
def test_the_instruction_is_part_of_the_budget(select, proxy, budget):
    instruction = "Name the intent of the query."
    options = ["--max-tokens", str(budget), "--instruction", instruction]
    code, out, err = select("--json", *options, shots=None)
    assert code == 0, err
    report, prompt = json.loads(out), ManyShotPrompt.load("prompt.json")
    (counted,) = proxy.count_tokens([prompt.prefix])
    assert prompt.instruction and report["prompt_tokens"] == counted <= budget
    (alone,) = proxy.count_tokens([instruction])
    assert alone < report["instruction_tokens"] <= alone + 4
    _, out, _ = select(*options, shots=None)
    assert f"{report['instruction_tokens']} of them for the instruction" in " ".join(out.split())


def test_a_json_array_is_a_pool(select, model, capsys):
    written("array.json", json.dumps(ROWS))
    assert select()[0] == 0
    expected = Path("prompt.json").read_bytes()
    assert select(pool="array.json")[0] == 0
    assert Path("prompt.json").read_bytes() == expected
    assert run(["count", "array.json", "-q", QUESTION, "-a", ANSWER, "--tokenizer", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 12


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(("error", "exits"), [("full", 3), ("interrupt", 130)])
def test_a_selection_that_cannot_be_saved_is_shown(select, monkeypatch, error, exits, as_json):
    def fail(*_):
        raise KeyboardInterrupt if error == "interrupt" else ArtefactError("full", expected="", fix="")

    monkeypatch.setattr(ManyShotPrompt, "save", fail)
    code, out, err = select(*(["--json"] if as_json else []))
    assert code == exits and err
    if as_json:
        report = json.loads(out)
        assert len(report["demonstrations"]) == 4 and report["out"] is None
    else:
        assert "4 of 12 examples by random" in out and "written" not in out


# --- show and count -------------------------------------------------------------------------------------


def test_show_prints_the_prompt_for_a_query_byte_for_byte(select, capsys):
    select("--instruction", "é")
    prompt = ManyShotPrompt.load("prompt.json")
    query = {"text": "100% {sure} [x]"}
    assert run(["show", "prompt.json", "--query", "text=100% {sure} [x]"]) == 0
    assert capsys.readouterr().out == prompt.text(query)
    for layout in ("turns", "single"):
        assert run(["show", "prompt.json", "--query", f"text={query['text']}", "--as", layout]) == 0
        assert json.loads(capsys.readouterr().out) == prompt.messages(query, layout=layout)


def test_show_lists_what_select_reported(select, model, capsys):
    _, out, _ = select("--json")
    assert run(["show", "prompt.json", "--tokenizer", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["demonstrations"] == json.loads(out)["demonstrations"]
    assert run(["show", "prompt.json", "--tokenizer", model]) == 0
    assert "question" in capsys.readouterr().out


def test_show_speaks_of_the_rows_of_the_file_when_duplicates_were_removed(select, model, capsys):
    with Path("train.jsonl").open("r+") as file:
        lines = file.readlines()
        file.seek(0)
        file.writelines([lines[0], *lines])
    _, out, _ = select("--json", "--dedupe", "exact", shots="12")
    assert run(["show", "prompt.json", "--tokenizer", model, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["demonstrations"]
    assert shown == json.loads(out)["demonstrations"]
    assert sorted(shot["row"] for shot in shown) == [0, *range(2, 13)]


def test_show_without_the_field_of_a_query_names_it(select, capsys):
    select()
    assert run(["show", "prompt.json", "--query", "txt=x"]) == 3
    assert "'text'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["p", "p.jsonl", "p.txt"])
def test_count_knows_a_prompt_by_its_content(select, model, capsys, name):
    assert select("-o", name)[0] == 0
    assert run(["count", name, "--tokenizer", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shots"] == 4


def test_count_counts_the_prompt_and_the_pool(select, model, capsys, proxy):
    select()
    prompt = ManyShotPrompt.load("prompt.json")
    assert run(["count", "prompt.json", "--tokenizer", model, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == proxy.count_tokens([prompt.prefix])[0]
    command = ["count", "train.jsonl", "-q", QUESTION, "-a", ANSWER, "--tokenizer", model]
    assert run([*command, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert counts["labels"] == {"card": 6, "rate": 6} and counts["examples"] == 12
    assert run(command) == 0
    assert "card 6, rate 6" in capsys.readouterr().out


# --- help -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], ["select"], ["show"], ["count"]])
def test_help_teaches_by_examples(command, capsys):
    assert run([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"icl-plugins {command[0] if command else 'select'}" in out
    assert command or "Exit codes" in out


def test_select_tells_among_how_many_typical_examples_it_chose(work, model, capsys):
    rows = [{"text": f"question {row} word", "label": ("card", "rate")[row % 2]} for row in range(40)]
    Path("many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = [
        "select",
        "many.jsonl",
        "-q",
        QUESTION,
        "-a",
        ANSWER,
        "-n",
        "2",
        "-o",
        "p.json",
        "--proxy",
        model,
    ]
    told = "2 of 40 examples by gradient_matching"
    assert run([*command, "--set", "epochs=1"]) == 0
    assert f"{told}, among the 4 most typical of their label" in " ".join(capsys.readouterr().out.split())
    assert run([*command, "--set", "epochs=1", "--set", "typical=1"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert told in out and "typical of" not in out


@pytest.mark.parametrize(
    ("on_bad", "says"),
    [("fallback", "the best of 6 random sets by real losses was taken"), ("warn", "chosen by them all")],
)
def test_select_tells_how_estimates_agree_with_what_was_measured(select, model, monkeypatch, on_bad, says):
    monkeypatch.setattr(icl_plugins.algorithms.honesty.EstimateQuality, "trusted", False)
    settings = ["queries=3", "check=6", "anchors=1", f"on_bad_estimate={on_bad}"]
    options = ["--proxy", model, *(part for setting in settings for part in ("--set", setting))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimateWarning)
        code, out, err = select(*options, method="grad_re", shots="2")
        told = " ".join(out.split())
        assert code == 0, err
        assert "on 6 real subsets estimate constant" in told and says in told
        _, out, _ = select("--json", *options, method="grad_re", shots="2")
    details = json.loads(out)["details"]
    assert details["estimate"]["fell_back"] is (on_bad == "fallback")
    losses = f"{details['loss']:.4g} nats", f"{details['random_loss']:.4g} behind random sets"
    assert all(loss in told for loss in losses)
    _, out, _ = select(*options, "--set", "check=0", method="grad_re", shots="2")
    assert "constant" not in out


def test_the_package_runs_as_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["python -m icl_plugins", "--version"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("icl_plugins", run_name="__main__")
    assert capsys.readouterr().out.startswith("icl-plugins ")


def test_version(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"icl-plugins {icl_plugins.__version__}\n"


@pytest.mark.parametrize("method", CLASSES)
def test_help_lists_the_settings_that_python_has(method):
    known = {field.name: field.default for field in fields(getattr(icl_plugins, CLASSES[method]))}
    assert SETTINGS[method] == describe(known)


def test_every_exported_selector_has_a_method_name():
    exported = {name for name in icl_plugins.__all__ if hasattr(getattr(icl_plugins, name), "select")}
    assert exported == set(CLASSES.values())


# --- wrong input ----------------------------------------------------------------------------------------


def written(name, text):
    Path(name).write_text(text, "utf-8")
    return name


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ({"pool": "missing.jsonl"}, 3, "missing.jsonl"),
        ({"pool": "empty.jsonl"}, 3, "is empty"),
        ({"pool": "broken.jsonl"}, 3, "line 2"),
        ({"pool": "train.parquet"}, 3, "'.parquet'"),
        ({"pool": "sample:nothing"}, 3, "sample:banking77"),
        ({"options": ["-q", "{txt}"]}, 3, "'txt'"),
        ({"options": ["-q", "{text"]}, 3, "character 1"),
        ({"options": ["--label-field", "lable"]}, 3, "'lable'"),
        ({"options": ["-o", "no/folder/prompt.json"]}, 3, "no/folder"),
        ({"shots": "13"}, 2, "13"),
        ({"shots": "0"}, 2, "0"),
        ({"shots": "many"}, 2, "integer"),
        ({"shots": None}, 2, "shots"),
        ({"method": "magic"}, 2, "magic"),
        ({"options": ["--quotas", "card=2,crad=1"]}, 2, "crad"),
        ({"options": ["--max-tokens", "20", "--instruction", "word " * 30]}, 2, "the instruction takes"),
        ({"options": ["--store", "empty.jsonl"], "method": "gradient_matching"}, 4, "is a file"),
        ({"pool": "array.json"}, 3, "element 1"),
        ({"options": ["--quotas", "card:2"]}, 2, "card:2"),
        ({"options": ["--include", "99"]}, 2, "99"),
        ({"options": ["--include", "one"]}, 2, "one"),
        ({"options": ["--max-tokens", "1"]}, 2, "1"),
        ({"options": ["--set", "epochs=3"]}, 2, "seed=0 tokenizer=micro"),
        ({"options": ["--set", "seed"]}, 2, "NAME=VALUE"),
        ({"options": ["--seed", "1", "--set", "seed=2"]}, 2, "twice"),
        ({"options": ["--set", "seed=-1"]}, 2, "-1"),
        ({"options": ["--proxy", "empty.jsonl"], "method": "kmeans"}, 4, "empty.jsonl"),
        ({"options": ["--proxy", "."], "method": "kmeans"}, 4, "config.json"),
    ],
    ids=str,
)
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_wrong_input_is_explained_and_writes_nothing(select, options, code, says, as_json):
    written("empty.jsonl", "")
    written("broken.jsonl", json.dumps(ROWS[0]) + "\n{oops\n")
    written("train.parquet", "x")
    written("array.json", json.dumps([ROWS[0], 3]))
    given = {"method": "random", "shots": "4", **options}
    got, out, err = select(*given.pop("options", []), *(["--json"] if as_json else []), **given)
    assert (got, out) == (code, "")
    assert "Traceback" not in err
    assert not Path("prompt.json").exists()
    if as_json:
        error = json.loads(err)
        assert error["exit_code"] == code and says in " ".join(error["error"].values())
    else:
        assert says in " ".join(err.split())


def test_a_missing_template_shows_how_to_write_one(work, capsys):
    assert run(["select", "train.jsonl", "-n", "2", "-o", "p.json"]) == 2
    assert "--answer ' {label}'" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "3", '{"kind": "else"}'])
def test_a_file_that_is_no_prompt_is_refused(work, content, capsys):
    written("prompt.json", content)
    assert run(["show", "prompt.json"]) == run(["count", "prompt.json"]) == 3
    assert "prompt.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (SettingError, 2),
        (BudgetError, 2),
        (DataError, 3),
        (ArtefactError, 3),
        (ProxyError, 4),
        (CorruptStoreError, 4),
        (NonFiniteError, 4),
        (TargetError, 5),
    ],
)
def test_errors_have_the_documented_exit_codes(kind, code):
    assert exit_code(kind("got", expected="expected", fix="fix")) == code


def test_an_unexpected_error_shows_its_traceback_and_exits_with_1(select, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a bug")

    monkeypatch.setattr(icl_plugins.Random, "select", fail)
    code, out, err = select()
    assert (code, out) == (1, "")
    assert "Traceback" in err and "a bug" in err


# --- interruptions --------------------------------------------------------------------------------------


def test_ctrl_c_is_no_traceback_and_exits_with_130(select, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(icl_plugins.Random, "select", interrupt)
    code, _, err = select()
    assert code == 130
    assert "Interrupted" in err and "Traceback" not in err
    code, _, err = select("--json")
    assert json.loads(err)["exit_code"] == 130


def test_a_closed_pipe_is_no_error(work, model):
    reading, writing = os.pipe()
    os.close(reading)
    code = "import sys; from icl_plugins.cli import run; sys.exit(run(sys.argv[1:]))"
    count = ["count", "sample:banking77", "--tokenizer", model, "--json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *count],
        stdout=writing,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_without_utf8_gets_the_table(work, model):
    written("accents.jsonl", json.dumps({"text": "d\u00e9j\u00e0 \u4e2d", "label": "\u00e9"}) + "\n")
    code = "from icl_plugins.cli import main; main()"
    command = ["select", "accents.jsonl", "-q", QUESTION, "-a", ANSWER, "-n", "1", "-m", "random"]
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "-o", "p.json", "--tokenizer", model],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"d?j?" in done.stdout


# --- small parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [(r"a\nb", "a\nb"), (r"\t", "\t"), (r"\\n", r"\n"), (r"\alpha \x41", r"\alpha \x41"), ("a\nb", "a\nb")],
)
def test_escapes(text, expected):
    assert unescape(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("proportional", "proportional"),
        ("2", 2),
        ("a=1,b=2", {"a": 1, "b": 2}),
        ("yes, sir=1,x=y=2", {"yes, sir": 1, "x=y": 2}),
    ],
)
def test_quotas(text, expected):
    assert parse_quotas(text) == expected


@pytest.mark.parametrize("text", ["", "a", "a=", "=1", "a=1,", "a=1,b", "a=1.5", "-1", "a=-1", "a=1,a=2"])
def test_quotas_that_say_nothing_clear_are_refused(text):
    with pytest.raises(SettingError):
        parse_quotas(text)


def test_settings_are_typed_as_python_types_them():
    made = make_selector("latent_bayesian", {"seed": 5}, {"epochs": "3", "learning_rate": "1e-2"})
    assert (made.seed, made.epochs, made.learning_rate) == (5, 3, 0.01)
    assert make_selector("kmeans", {}, {"embeddings": "7"}).embeddings == "7"


def test_data_cannot_steer_the_terminal():
    assert one_line("a\x1b[31m\x07\nb\u202e [bold]c[/bold]\t").plain == "a [31m b [bold]c[/bold]"


def test_results_of_unusual_characters_are_utf8(capfdbinary):
    write_result("é\u2028\n")
    assert capfdbinary.readouterr().out == "é\u2028\n".encode()


def test_sigint_ends_a_real_process_with_130(work):
    code = "import os, signal, sys; from icl_plugins.cli import run, select\n"
    code += (
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored by what runs in the background
    )
    code += f"select.read_source = lambda *_, **__: os.kill(os.getpid(), {int(signal.SIGINT)})\n"
    code += "sys.exit(run(['select', 'x.jsonl', '-n', '1', '-m', 'random', '-o', 'p.json']))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=60)
    assert done.returncode == 130 and b"Traceback" not in done.stderr
