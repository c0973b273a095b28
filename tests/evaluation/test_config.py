"""The config of a comparison: what is read, what is refused and how it is named."""

import json
from pathlib import Path

import pytest
import yaml

from icl_plugins import KMeans, Random
from icl_plugins.errors import DataError, IclError, SettingError, TemplateError
from icl_plugins.evaluation.config import CONTROLS, Config, MethodConfig
from icl_plugins.evaluation.config_file import read_config
from icl_plugins.ordering import Ordered

CONFIGS = sorted((Path(__file__).parents[2] / "benchmarks" / "configs").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    """Write a config beside two data files -> its path; the arguments replace its keys."""
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text('{"text": "a", "label": "b"}\n', "utf-8")

    def write(dataset=None, **keys):
        template = {"question": "{text}", "answer": " {label}"}
        data = {"name": "one", "train": "train.jsonl", "test": "test.jsonl", "template": template}
        content = {"datasets": [{**data, **(dataset or {})}], "shots": [4, "max"], **keys}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(content), "utf-8")
        return path

    return write


@pytest.fixture
def refusal(write):
    """Return the error of a config with these keys."""

    def refusal(dataset=None, **keys):
        with pytest.raises(IclError) as caught:
            read_config(write(dataset, **keys))
        return caught.value

    return refusal


# --- what is read -------------------------------------------------------------------------------------------


def test_a_config_is_read_with_its_defaults(write, tmp_path):
    config, source = read_config(write())
    assert config.datasets[0].train == str(tmp_path / "train.jsonl")
    assert config.datasets[0].template.separator == "\n\n"
    assert (config.shots, config.seeds, config.proxy, config.target.model) == (
        (4, "max"),
        3,
        "micro",
        "micro",
    )
    assert source["datasets"][0]["train"] == "train.jsonl"


def test_json_is_read_like_yaml(write):
    path = write(methods={"m": {"selector": "BM25", "settings": {"k1": 2}}})
    other = path.with_suffix(".json")
    other.write_text(json.dumps(yaml.safe_load(path.read_text()), indent="\t"), "utf-8")
    assert read_config(other) == read_config(path)


def test_shipped_data_can_be_named_and_test_left_out(write):
    config, _ = read_config(write({"train": "sample:banking77", "test": None}))
    assert config.datasets[0].test is None and Path(config.datasets[0].train).is_file()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_committed_config_takes_the_data_folder_and_is_valid(path, tmp_path):
    for data in yaml.safe_load(path.read_text())["datasets"]:
        for name in (data["train"], data["test"]):
            file = Path(name.replace("${data}", str(tmp_path)))
            file.parent.mkdir(exist_ok=True)
            file.touch()
    config, _ = read_config(path, {"data": str(tmp_path)})
    assert all(data.train.startswith(str(tmp_path)) for data in config.datasets)


# --- variables ----------------------------------------------------------------------------------------------


def test_a_variable_is_a_literal_text_in_paths_alone(write, tmp_path):
    template = {"question": "costs ${text}", "answer": " {label}"}
    (tmp_path / "${x}").mkdir()
    (tmp_path / "${x}" / "train.jsonl").write_text("{}", "utf-8")
    path = write({"train": "${folder}/train.jsonl", "template": template})
    config, _ = read_config(path, {"folder": "${x}"})
    assert config.datasets[0].train == str(tmp_path / "${x}" / "train.jsonl")
    assert config.datasets[0].template.question == "costs ${text}"


def test_the_environment_fills_what_was_not_given(write, tmp_path, monkeypatch):
    monkeypatch.setenv("FOLDER", str(tmp_path))
    path = write({"train": "${FOLDER}/train.jsonl"})
    assert read_config(path)[0].datasets[0].train == str(tmp_path / "train.jsonl")
    with pytest.raises(DataError, match="elsewhere"):
        read_config(path, {"FOLDER": "/elsewhere"})


def test_a_variable_without_a_value_and_one_that_nothing_uses_are_refused(write):
    path = write({"train": "${folder_of_mine}/train.jsonl"})
    with pytest.raises(SettingError, match=r"datasets\[0\].train.*folder_of_mine.*--set folder_of_mine="):
        read_config(path)
    with pytest.raises(SettingError, match="did you mean 'folder_of_mine'"):
        read_config(path, {"folder_of_min": "x"})


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"sead": 3}, "unknown key sead; did you mean 'seed'?"),
        ({"dataset": {"templat": 3}}, "unknown key datasets[0].templat; did you mean 'template'?"),
        ({"dataset": {"template": {"question": "{a}", "anser": "{b}"}}}, "datasets[0].template.anser"),
        ({"target": {"modle": "x"}}, "target.modle; did you mean 'model'?"),
        (
            {"methods": {"m": {"selector": "Randm"}}},
            "methods.m: unknown selector 'Randm'; did you mean 'Random'?",
        ),
        ({"methods": {"m": {"selector": "Pool"}}}, "methods.m: unknown selector 'Pool'"),
        ({"methods": {"m": {"selector": "BM25", "settings": {"k": 1}}}}, "settings.k"),
        ({"methods": {"m": {"selector": "Random", "settings": {"seed": 1}}}}, "settings.seed"),
        ({"methods": {"m": {"selector": "BM25", "settings": {"b": 7}}}}, "methods.m: b=7"),
        ({"methods": {"m": {"selector": "GradientMatching", "settings": {"swaps": "equal_cost"}}}}, "swaps="),
        ({"methods": {"m": {"selector": "Random", "quotas": "equal"}}}, "methods.m: quotas='equal'"),
        ({"methods": {"m": {"selector": "Random", "order": "up"}}}, "methods.m.order: 'up'"),
        ({"methods": {"m/..": {"selector": "Random"}}}, "methods: 'm/..'"),
        ({"methods": {"random": {"selector": "BM25"}}}, "methods.random is not plain random"),
        ({"methods": {"random": {"selector": "Random", "seeds": 2}}}, "methods.random with 2 seeds"),
        ({"dataset": {"name": "../up"}}, "datasets[0]: name: '../up'"),
        ({"dataset": {"name": None}}, "datasets[0].name: None"),
        ({"dataset": {"metric": "acuracy"}}, "datasets[0]: metric='acuracy'"),
        ({"dataset": {"choices": None}}, "datasets[0]: metric accuracy with choices null"),
        ({"dataset": {"pool": 0}}, "datasets[0]: pool=0"),
        ({"dataset": {"train": "none.jsonl"}}, "datasets[0].train: no file"),
        ({"shots": [4, "most"]}, "shots[1]: 'most'"),
        ({"shots": [0]}, "shots=0"),
        ({"shots": [True]}, "shots[0]: True"),
        ({"shots": [4, 4]}, "shots: 4 twice"),
        ({"shots": []}, "shots: empty"),
        ({"shots": 4}, "shots: 4 (int)"),
        ({"seeds": 2.0}, "seeds: 2.0 (float)"),
        ({"on_overlap": "keep"}, "on_overlap: 'keep'"),
        ({"target": None}, "target: None"),
    ],
)
def test_a_wrong_config_is_refused_with_the_place(refusal, keys, says):
    assert says in str(refusal(**keys))


def test_a_missing_key_is_named(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("shots: [1]\ndatasets: [{name: a}]\n", "utf-8")
    with pytest.raises(SettingError, match=r"no datasets\[0\].train"):
        read_config(path)


def test_an_error_of_the_template_is_one_of_the_template_with_its_place(refusal):
    error = refusal({"template": {"question": "{a", "answer": "{b}"}})
    assert isinstance(error, TemplateError) and error.got.startswith("datasets[0].template: ")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("shots: [1]\nshots: [2]\n", "the key 'shots' occurs twice"),
        ("a: {b: 1, b: 2}", "the key 'b' occurs twice"),
        ("a: [", "no config"),
        ("- a", "the file: ['a']"),
        ("", "the file: None"),
        ("a: !!python/object/apply:os.getcwd []", "no config"),
        ("seed: 2020-01-01", "no config"),
        ("seed: .nan", "no config"),
    ],
)
def test_what_is_no_config_is_refused(tmp_path, text, says):
    path = tmp_path / "config.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(IclError) as caught:
        read_config(path)
    assert says in str(caught.value)


def test_a_key_that_occurs_twice_in_json_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"shots": [1], "shots": [2]}', "utf-8")
    with pytest.raises(DataError, match="'shots' occurs twice"):
        read_config(path)


def test_a_config_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        read_config(tmp_path / "none.yaml")


# --- methods ------------------------------------------------------------------------------------------------


def test_controls_are_always_in_unless_the_config_names_them_itself(write):
    config, _ = read_config(write(methods={"kmeans": {"selector": "KMeans", "seeds": 2}}))
    assert {name: config.methods[name] for name in CONTROLS if name != "kmeans"} == {
        name: control for name, control in CONTROLS.items() if name != "kmeans"
    }
    assert config.methods["kmeans"] == MethodConfig("KMeans", seeds=2)
    assert len(config.seeds_of("random")) >= 10 and len(config.seeds_of("kmeans")) == 2


def test_a_method_without_a_seed_runs_once(write):
    methods = {
        "bm25": {"selector": "BM25", "seeds": 5},
        "shuffled": {"selector": "BM25", "order": "shuffle"},
        "own": {"selector": "GradientMatching"},
    }
    config: Config = read_config(write(methods=methods, seeds=4))[0]
    assert [len(config.seeds_of(name)) for name in methods] == [1, 4, 4]


def test_a_selector_gets_of_what_is_given_what_it_has():
    assert MethodConfig("Random").selector_of(seed=3, proxy="x", sets=2) == Random(seed=3)
    assert MethodConfig("KMeans", {"embeddings": "e"}).selector_of(seed=1) == KMeans("e", seed=1)
    ordered = MethodConfig("BM25", order="shuffle").selector_of(seed=5)
    assert isinstance(ordered, Ordered) and ordered.seed == 5
