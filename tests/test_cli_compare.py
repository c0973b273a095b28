"""`icl-plugins compare`: what it writes and prints, what it refuses and with which exit code."""

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import yaml

from icl_plugins.cli import run
from icl_plugins.cli.compared import make_room, make_target
from icl_plugins.evaluation.config import Config, TargetConfig
from icl_plugins.evaluation.datasets import load_data
from icl_plugins.evaluation.results import Comparison
from icl_plugins.evaluation.table import averages

LABELS = ("card", "rate")
CONTROLS = {
    "random": {"selector": "Random", "seeds": 10},
    "stratified_random": {"selector": "Random", "quotas": "proportional", "seeds": 1},
    "kmeans": {"selector": "KMeans", "seeds": 1},
    "best_of_n": {"selector": "BestOfN", "settings": {"sets": 1, "held_out": 2}, "seeds": 1},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory, make_model, tokenizer):
    """The folder of a tiny random model."""
    folder = tmp_path_factory.mktemp("model")
    make_model(max_position_embeddings=512).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def work(tmp_path, monkeypatch, model):
    """An empty folder to work in, with two data sets in `data`; returns a function that writes the config."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        folder = Path("data", name)
        folder.mkdir(parents=True)
        for part, size in (("train", 12), ("test", 5)):
            rows = [{"text": f"{name} {part} {i}", "label": LABELS[i % 2]} for i in range(size)]
            (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")

    def write(**keys):
        datasets = [
            {
                "name": name,
                "train": f"${{data}}/{name}/train.jsonl",
                "test": f"${{data}}/{name}/test.jsonl",
                "template": {"question": "Query: {text}\nIntent:", "answer": " {label}"},
            }
            for name in ("one", "two")
        ]
        content = {
            "target": {"model": model},
            "proxy": model,
            "datasets": datasets,
            "shots": [2, "max"],
            "methods": CONTROLS,
            **keys,
        }
        Path("config.yaml").write_text(yaml.safe_dump(content), "utf-8")

    return write


@pytest.fixture
def compare(work, capsys):
    """Write a config, run the command -> exit code, stdout, stderr."""

    def compare(*options, **keys):
        work(**keys)
        code = run(["compare", "config.yaml", "--set", "data=data", "--out", "out", *options])
        return code, *capsys.readouterr()

    return compare


def test_compare_writes_json_and_markdown_and_prints_the_averages(compare):
    code, out, err = compare()
    assert code == 0, err
    comparison = Comparison.load("out/comparison.json")
    assert {run.data for run in comparison.runs} == {"one", "two"}
    assert {run.method for run in comparison.runs} == {*CONTROLS}
    assert comparison.config["datasets"][0]["train"] == "${data}/one/train.jsonl"
    assert "## Average of 2 data sets" in Path("out/comparison.md").read_text("utf-8")
    assert all(method in out for method in CONTROLS) and "out/comparison.json" in out.replace("\n", "")
    assert len([line for line in err.splitlines() if line.startswith(("one: ", "two: "))]) == 2


def test_json_has_the_averages_and_the_files(compare):
    code, out, _ = compare("--json")
    assert code == 0
    result = json.loads(out)
    expected = averages(Comparison.load("out/comparison.json"))
    assert [row["mean"]["mean"] for row in result["averages"]] == [row.mean.mean for row in expected]
    assert [Path(file).is_file() for file in result["files"]] == [True, True]


def test_the_same_command_writes_the_same_bytes(compare):
    written = []
    for _ in range(2):
        assert compare()[0] == 0
        written.append([Path("out", name).read_bytes() for name in ("comparison.json", "comparison.md")])
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("keys", "code", "says"),
    [
        ({"shot": [2]}, 2, "did you mean 'shots'?"),
        ({"proxy": "no/such/model"}, 4, "no/such/model"),
        ({"target": {"model": "no/such/model"}}, 4, "no/such/model"),
        ({"target": {"settings": {"layuot": "single"}}}, 2, "did you mean 'layout'?"),
        (
            {"target": {"kind": "openai", "model": "m", "settings": {"api_key": "sk-secret"}}},
            2,
            "api_key_env",
        ),
        ({"target": {"kind": "openai", "model": "none-such"}}, 2, "target.tokenizer"),
        ({"shots": [12]}, 2, "12 shots from the 12 examples"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(compare, keys, code, says):
    found, _, err = compare("--json", **keys)
    error = json.loads(err.splitlines()[-1])
    assert (found, error["exit_code"]) == (code, code)
    assert says in " ".join(error["error"].values()) and "sk-secret" not in err
    assert not Path("out", "comparison.json").exists()


def test_a_missing_file_is_one_of_data(work, capsys):
    work()
    assert run(["compare", "config.yaml", "--set", "data=elsewhere", "--out", "out"]) == 3
    assert "datasets[0].train" in capsys.readouterr().err
    assert run(["compare", "none.yaml", "--out", "out"]) == 3


def test_a_folder_that_cannot_be_made_is_refused(compare):
    Path("out").write_text("a file", "utf-8")
    code, _, err = compare()
    assert code == 3 and "'out'" in err


@pytest.fixture
def server():
    """A server that gives every request the reply that a test sets, and keeps what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            found.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(found.status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(found.body).encode())

        def log_message(self, *args):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    found = SimpleNamespace(url=f"http://127.0.0.1:{http.server_port}/v1", asked=[], status=200, body={})
    Thread(target=http.serve_forever, daemon=True).start()
    yield found
    http.shutdown()
    http.server_close()


def test_a_target_behind_an_api_is_asked_once_for_each_prompt_and_item(compare, server):
    pytest.importorskip("openai")
    message = {"role": "assistant", "content": "card"}
    server.body = {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "micro",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": 50, "completion_tokens": 2, "total_tokens": 52},
    }
    target = {"kind": "openai", "model": "micro", "settings": {"base_url": server.url, "concurrency": 1}}
    for _ in range(2):
        assert compare(target=target, shots=[2])[0] == 0
    comparison = Comparison.load("out/comparison.json")
    prompts = {(run.data, run.evaluation.prompt) for run in comparison.runs}
    assert len(server.asked) == 5 * len(prompts)
    assert {len(body["messages"]) for body in server.asked} == {2 * 2 + 1}
    assert {run.evaluation.value for run in comparison.runs} == {0.6}
    assert {run.evaluation.prompt_tokens for run in comparison.runs} == {250}


def test_a_wrong_key_stops_at_once_with_the_code_of_the_target(compare, server, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.status, server.body = 401, {"error": {"message": "Incorrect API key provided: sk-secret"}}
    settings = {"base_url": server.url, "concurrency": 1}
    code, out, err = compare(target={"kind": "openai", "model": "micro", "settings": settings}, shots=[2])
    assert code == 5 and len(server.asked) == 1
    assert "sk-secret" not in out + err
    assert not any(b"sk-secret" in path.read_bytes() for path in Path("out").rglob("*") if path.is_file())


def test_a_server_that_is_not_there_has_the_code_of_the_target(compare):
    pytest.importorskip("openai")
    settings = {"base_url": "http://127.0.0.1:1/v1", "retries": 0}
    code, _, err = compare(target={"kind": "openai", "model": "micro", "settings": settings}, shots=[2])
    assert code == 5 and "127.0.0.1:1" in err


def test_an_interrupted_command_goes_on(compare, monkeypatch):
    from icl_plugins.evaluation import compare as comparing

    real, calls = comparing.evaluate, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(comparing, "evaluate", interrupted)
    code, _, err = compare()
    assert code == 130 and "run the same command to go on" in err
    assert compare()[0] == 0


def test_the_room_of_a_chat_layout_is_counted_through_the_chat_template(work):
    work()
    target = make_target(TargetConfig(settings={"layout": "turns"}))
    config = Config(
        datasets=(_data_config("one"),), shots=(2,), target=TargetConfig(settings={"layout": "turns"})
    )
    data = load_data(config, config.datasets[0])
    room = make_room(config.target, target, data)
    query = {"text": max(data.pool.questions, key=len).removeprefix("Query: ").removesuffix("\nIntent:")}
    messages = data.pool.template and [
        message
        for row in (0, 1)
        for message in (
            {"role": "user", "content": data.pool.questions[row]},
            {"role": "assistant", "content": data.pool.answers[row].strip()},
        )
    ]
    messages.append({"role": "user", "content": data.pool.template.render_question(query)})
    ids = target.proxy.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    assert room.tokens.total(data.pool, (0, 1)) == len(ids["input_ids"])
    assert target.proxy.max_length - 20 < room.limit < target.proxy.max_length


def test_a_context_that_is_set_holds_also_for_a_target_that_reads_more(work):
    work()
    config = Config(datasets=(_data_config("one"),), shots=(2,), target=TargetConfig(context=99))
    data = load_data(config, config.datasets[0])
    assert make_room(config.target, make_target(config.target), data).limit == 99


def _data_config(name):
    from icl_plugins import Template
    from icl_plugins.evaluation.config import DataConfig

    files = [f"data/{name}/{part}.jsonl" for part in ("train", "test")]
    return DataConfig(name, files[0], Template("Query: {text}\nIntent:", " {label}"), files[1])


def test_help_loads_no_heavy_library():
    code = (
        "import sys; from icl_plugins.cli import run; run(['compare', '--help']);"
        "print({'torch', 'transformers', 'yaml', 'numpy'} & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "CONFIG" in done.stdout and done.stderr.strip() == "set()"
