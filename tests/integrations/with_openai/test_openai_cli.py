"""`count --model` and `select --target`: what they print, and what they refuse."""

import json
import sys
from pathlib import Path

import pytest
from openai_icl import KnownModel

from icl_plugins import ManyShotPrompt
from icl_plugins.cli import run


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"text": f"question {row} {'word ' * (row % 7)}", "label": ("card", "rate")[row % 2]}
        for row in range(60)
    ]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def command(work, capsys):
    """Run a command line -> exit code, stdout, stderr."""

    def call(*arguments):
        code = run(list(arguments))
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def select(command):
    """Run `select` by the random method."""

    def call(*options):
        given = ["train.jsonl", "-q", r"Query: {text}\nIntent:", "-a", " {label}", "-o", "prompt.json"]
        return command("select", *given, "-m", "random", *options)

    return call


def longest(prompt, layout="turns", model="gpt-4o-mini"):
    rows = [json.loads(line) for line in Path("train.jsonl").read_text("utf-8").splitlines()]
    return max(KnownModel.of(model).count(prompt.messages(row, layout)) for row in rows)


@pytest.mark.parametrize("layout", ["turns", "single", "json"])
@pytest.mark.parametrize("instruction", ["", "Name it."])
def test_select_fills_the_budget_of_the_target(select, layout, instruction):
    options = ["--max-tokens", "400", "--target", "gpt-4o-mini", "--layout", layout, "--json"]
    code, out, err = select(*options, "--instruction", instruction)
    assert code == 0, err
    report, prompt = json.loads(out), ManyShotPrompt.load("prompt.json")
    assert report["tokens"] == report["prompt_tokens"] == longest(prompt, layout) <= 400
    assert report["tokens"] > 400 - max(shot["tokens"] for shot in report["demonstrations"])
    assert report["tokenizer"] == f"gpt-4o-mini (o200k_base, {layout})"
    assert (report["target"], report["layout"]) == ("gpt-4o-mini", layout)


def test_select_for_a_target_without_a_budget_counts_as_the_target_does(select):
    code, out, _ = select("-n", "20", "--target", "gpt-4o-mini", "--json")
    report = json.loads(out)
    assert code == 0 and report["tokens"] == longest(ManyShotPrompt.load("prompt.json"))
    code, out, _ = select("-n", "20", "--target", "deepseek/deepseek-chat")
    assert "an estimate by o200k_base" in " ".join(out.split())


def test_the_same_command_for_a_target_writes_the_same_bytes(select):
    options = ["--max-tokens", "400", "--target", "gpt-4o-mini"]
    select(*options)
    first = Path("prompt.json").read_bytes()
    select(*options)
    assert Path("prompt.json").read_bytes() == first


def test_count_prints_tokens_cacheable_share_and_both_costs(select, command):
    select("-n", "60")
    code, out, err = command("count", "prompt.json", "--model", "gpt-4o-mini", "--queries", "10000", "--json")
    assert (code, err) == (0, "")
    counted = json.loads(out)
    assert counted["tokens"] == longest(ManyShotPrompt.load("prompt.json"))
    assert counted["cacheable_tokens"] % 128 == 0 and 0.8 < counted["cacheable_share"] < 1
    assert 0 < counted["cost_with_caching"] < counted["cost_without_caching"]
    _, out, _ = command("count", "prompt.json", "--model", "gpt-4o-mini", "--queries", "10000")
    text = " ".join(out.split())
    for name in ("tokens", "cacheable", "cost without caching", "cost with caching", "10,000 queries"):
        assert name in text
    assert f"{counted['cost_with_caching']:,.4f} USD" in text


def test_count_for_deepseek_states_its_estimate_or_counts_with_a_named_tokenizer(select, command):
    select("-n", "10")
    model = ["--model", "deepseek/deepseek-chat"]
    code, out, _ = command("count", "prompt.json", *model)
    text = " ".join(out.split())
    assert code == 0 and "about" in text and "+-25%" in text and "an estimate" in text
    code, out, _ = command("count", "prompt.json", *model, "--tokenizer", "micro", "--json")
    counted = json.loads(out)
    assert counted["margin"] == 0 and counted["tokenizer"] == "micro"
    assert not any("estimate" in text for text in counted["warnings"])


def test_count_warns_before_the_context_overflows(select, command):
    Path("train.jsonl").write_text(
        "".join(json.dumps({"text": f"{row} " + "word " * 400, "label": "card"}) + "\n" for row in range(30))
    )
    select("-n", "30")
    code, out, _ = command("count", "prompt.json", "--model", "gpt-4")
    assert code == 0 and "does not fit" in out
    _, out, _ = select("-n", "30", "--target", "gpt-4")
    assert "does not fit" in " ".join(out.split())


def test_select_warns_of_the_overflow_that_its_own_count_shows(select):
    """The longest question of the pool stands for the query, chosen or not."""
    rows = [{"text": f"question {row}", "label": "card"} for row in range(20)]
    rows.append({"text": "word " * 8100, "label": "rate"})
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    code, out, _ = select("-n", "20", "--exclude", "20", "--target", "gpt-4", "--json")
    report = json.loads(out)
    assert code == 0 and report["tokens"] > 8192
    assert any(
        f"up to {report['tokens'] + 1:,} tokens with the answer" in text for text in report["warnings"]
    )


def test_show_prints_the_json_layout(select, command):
    select("-n", "3")
    code, out, _ = command("show", "prompt.json", "--query", "text=x", "--as", "json")
    assert code == 0
    assert json.loads(out) == ManyShotPrompt.load("prompt.json").messages({"text": "x"}, "json")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["count", "prompt.json", "--model", "gpt-4o-mni"], 2, "gpt-4o-mini"),
        (["count", "prompt.json", "--queries", "3"], 2, "--model"),
        (["count", "prompt.json", "--layout", "json"], 2, "--model"),
        (["count", "prompt.json", "--model", "gpt-4o-mini", "--queries", "0"], 2, "queries"),
        (["count", "train.jsonl", "--model", "gpt-4o-mini"], 2, "for a pool"),
        (
            ["count", "prompt.json", "--model", "gpt-4o-mini", "--tokenizer", "no/such-model"],
            4,
            "no/such-model",
        ),
    ],
    ids=str,
)
def test_wrong_input_of_count_is_explained(select, command, arguments, code, says):
    select("-n", "3")
    got, out, err = command(*arguments)
    assert (got, out) == (code, "") and says in " ".join(err.split()) and "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--target", "gpt-4o-mni"], "gpt-4o-mini"),
        (["--target", "gpt-4", "--max-tokens", "9000"], "8192"),
        (["--layout", "json"], "without --target"),
        (["--target", "gpt-4o-mini", "--max-tokens", "20"], "instruction and query take"),
        (["--target", "gpt-4o-mini", "--set", "tokenizer=micro"], "twice"),
    ],
    ids=str,
)
def test_wrong_input_of_select_is_explained_and_writes_nothing(select, options, says):
    code, out, err = select(*(options if "--max-tokens" in options else ["-n", "3", *options]))
    assert (code, out) == (2, "") and says in " ".join(err.split()) and "Traceback" not in err
    assert not Path("prompt.json").exists()


@pytest.mark.parametrize("command_line", ["count prompt.json --model gpt-4o-mini", "select"])
def test_a_missing_extra_is_named_with_the_pip_line(select, command, command_line, monkeypatch):
    select("-n", "3")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("openai_icl", "tiktoken")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    if command_line == "select":
        code, _, err = select("-n", "3", "--target", "gpt-4o-mini")
    else:
        code, _, err = command(*command_line.split())
    assert code == 2 and "pip install 'icl-plugins[openai]'" in " ".join(err.split())


def test_select_tells_what_a_thousand_queries_cost_as_count_does(select, command):
    _, out, _ = select("-n", "60", "--target", "gpt-4o-mini", "--json")
    cost = json.loads(out)["cost"]
    _, out, _ = command("count", "prompt.json", "--model", "gpt-4o-mini", "--queries", "1000", "--json")
    counted = json.loads(out)
    assert cost["queries"] == 1000
    assert cost["without_caching"] == counted["cost_without_caching"] > 0
    assert cost["with_caching"] == counted["cost_with_caching"]
    pytest.importorskip("matplotlib")
    told = f"{cost['without_caching']:,.4f} USD for 1,000 queries, {cost['with_caching']:,.4f} USD at least"
    _, out, _ = select("-n", "60", "--target", "gpt-4o-mini", "--report", "page.html")
    assert told in " ".join(out.split()) and told in Path("page.html").read_text("utf-8")


def test_no_cost_is_told_where_no_prices_are_known(select):
    _, out, _ = select("-n", "9", "--target", "micro", "--json")
    assert json.loads(out)["cost"] == {"queries": 1000, "with_caching": None, "without_caching": None}
    _, out, _ = select("-n", "9", "--target", "micro")
    assert "USD" not in out
