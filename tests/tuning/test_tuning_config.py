"""The config of tuning: what is read, what is refused and how it is named; nothing learnt is measured."""

import json
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from icl_plugins import Template
from icl_plugins.errors import DataError, IclError, OptionalDependencyError, SettingError
from icl_plugins.tuning import ManyICL, Stage, Weighting
from icl_plugins.tuning.config import read_config
from icl_plugins.tuning.loading import load

ROOT = Path(__file__).parents[2]
TEMPLATE = {"question": "Query: {text}\nIntent:", "answer": " {label}"}
LABELS = ("card", "rate")


def rows(size, what="question"):
    return [{"text": f"{what} {row}", "label": LABELS[row % 2]} for row in range(size)]


def write_rows(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


@pytest.fixture
def write(tmp_path):
    """Write a config beside its data -> its path; arguments replace keys of its task, and of the file."""
    write_rows(tmp_path / "train.jsonl", rows(40))
    write_rows(tmp_path / "other.jsonl", rows(20, "other"))

    def write(task=None, **keys):
        one = {"name": "one", "train": "train.jsonl", "template": TEMPLATE, **(task or {})}
        one = {name: value for name, value in one.items() if value is not None}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"tasks": [one], **keys}), "utf-8")
        return path

    return write


@pytest.fixture
def loaded(write):
    """Read a config with these keys, and its data."""

    def loaded(task=None, **keys):
        settings, data = read_config(write(task, **keys))
        return load(data, settings.seed)

    return loaded


def texts(task):
    return [example["text"] for example in task.pool]


# --- what is read -------------------------------------------------------------------------------------------


def test_what_is_left_out_has_the_defaults_of_python(write, tmp_path):
    settings, data = read_config(write())
    assert settings == ManyICL()
    assert data.tasks[0].train == str(tmp_path / "train.jsonl")
    assert (data.validation, data.text, data.on_overlap) == ((), (), "drop")


def test_every_field_of_many_icl_is_a_key_of_the_file(write):
    given = {
        "model": "some/model",
        "stages": [{"steps": 5, "classes": [2, 4], "tasks": {"one": 1}}, {"shots": "log", "plain": 0.5}],
        "weighting": {"targets": "last"},
        "accumulation": 2,
        "lora_rank": 3,
        "frozen": ["embed_tokens"],
        "learning_rate": 1,
        "warmup": 0,
        "decay": 0.5,
        "weight_decay": 0.1,
        "clip": 2,
        "kl": 0.1,
        "precision": "float32",
        "gradient_checkpointing": True,
        "on_too_long": "skip",
        "checkpoint_every": 7,
        "evaluate_every": 8,
        "seed": 9,
    }
    assert {field.name for field in fields(ManyICL)} == {*given}
    stages = (Stage(steps=5, classes=(2, 4), tasks={"one": 1.0}), Stage(shots="log", plain=0.5))
    expected = ManyICL(
        **{**given, "stages": stages, "weighting": Weighting(targets="last"), "frozen": ("embed_tokens",)}
    )
    assert read_config(write(**given))[0] == expected


def test_a_pattern_is_a_task_of_each_file_and_their_kind(write, tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"many_{name}.jsonl").write_text((tmp_path / "train.jsonl").read_text(), "utf-8")
    path = write()
    one = {**yaml.safe_load(path.read_text())["tasks"][0], "name": "some", "train": "many_*.jsonl"}
    data = read_config(write(tasks=[one, {**one, "name": "other", "kind": "own"}]))[1]
    names = ["some/many_a", "some/many_b", "other/many_a", "other/many_b"]
    assert [(task.name, task.kind) for task in data.tasks] == [
        *((name, "some") for name in names[:2]),
        *((name, "own") for name in names[2:]),
    ]
    assert load(data, 0).tasks[0].kind == "some"
    with pytest.raises(DataError, match=r"tasks\[0\].train: no file matches"):
        read_config(write(tasks=[{**one, "train": "none_*.jsonl"}]))


def test_null_trains_all_weights_and_json_is_read_like_yaml(write):
    path = write(lora_rank=None, stages=[{"steps": 3}])
    other = path.with_suffix(".json")
    other.write_text(json.dumps(yaml.safe_load(path.read_text())), "utf-8")
    assert read_config(other) == read_config(path)
    assert read_config(other)[0].lora_rank is None


@pytest.mark.parametrize("text", ["3e-4", "3E-4", "3.0e-4", "0.0003"])
def test_a_learning_rate_may_be_written_as_people_write_it(write, text):
    path = write()
    path.write_text(path.read_text() + f"learning_rate: {text}\n", "utf-8")
    assert read_config(path)[0].learning_rate == 3e-4


def test_variables_stand_in_paths_and_in_names_of_models_and_data_sets(write, tmp_path):
    (tmp_path / "base").mkdir()
    path = write(
        {"train": None, "dataset": {"path": "${owner}/data"}},
        model="${base}",
        validation=[{"name": "two", "train": "${file}.jsonl", "template": TEMPLATE}],
        text=["${file}.jsonl"],
    )
    settings, data = read_config(path, {"owner": "me", "base": "base", "file": "other"})
    assert settings.model == str(tmp_path / "base") and data.tasks[0].dataset.path == "me/data"
    assert data.validation[0].train == data.text[0] == str(tmp_path / "other.jsonl")
    with pytest.raises(SettingError, match=r"tasks\[0\].dataset.path.*owner"):
        read_config(path, {"base": "base", "file": "other"})
    with pytest.raises(SettingError, match="unknown variable 'bas'; did you mean 'base'"):
        read_config(path, {"bas": "x"})
    with pytest.raises(SettingError, match="variables base, file, owner[^,]"):  # file stands there twice
        read_config(path, {"other": "x"})


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("tune_*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_valid_and_their_data_is_shipped(path):
    settings, data = read_config(path)
    found = load(data, settings.seed)
    assert settings.model == "micro" and len(found.tasks) == len(data.tasks) and found.validation


# --- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"learning_rat": 1}, "unknown key learning_rat; did you mean 'learning_rate'?"),
        ({"stages": [{"step": 1}]}, "unknown key stages[0].step; did you mean 'steps'?"),
        ({"weighting": {"target": "all"}}, "unknown key weighting.target; did you mean 'targets'?"),
        ({"stages": [{}, {"context": 1}]}, "stages[1]: context=1"),
        ({"stages": [{"classes": [2, "four"]}]}, "stages[0].classes[1]: 'four'"),
        ({"stages": 3}, "stages: 3 (int)"),
        ({"model": 3}, "model: 3 (int)"),
        ({"precision": "float16"}, "precision: 'float16'"),
        ({"learning_rate": -1}, "learning_rate=-1"),
        ({"kl": 0.1}, "kl=0.1"),
        ({"task": {"templat": 1}}, "unknown key tasks[0].templat; did you mean 'template'?"),
        ({"task": {"template": {"question": "{a}", "anser": "{b}"}}}, "tasks[0].template.anser"),
        ({"task": {"template": {"question": "a", "answer": "{b}"}}}, "tasks[0].template: no field"),
        ({"task": {"train": None}}, "tasks[0]: neither train nor dataset"),
        ({"task": {"dataset": {"path": "a/b"}}}, "tasks[0]: train and dataset"),
        ({"task": {"rows": 0}}, "tasks[0]: rows=0"),
        ({"task": {"train": "none.jsonl"}}, "tasks[0].train: no file"),
        ({"text": ["none.txt"]}, "text[0]: no file"),
        ({"tasks": []}, "tasks: empty"),
        ({"on_overlap": "ignore"}, "on_overlap: 'ignore'"),
        ({"validation": [{"name": "a", "train": "none.jsonl", "template": TEMPLATE}]}, "validation[0].train"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(write, keys, says):
    with pytest.raises(IclError) as caught:
        read_config(write(**keys))
    assert says in caught.value.got


def test_the_nearest_of_all_keys_is_named_and_tasks_must_be_there(write, tmp_path):
    with pytest.raises(SettingError) as caught:
        read_config(write(validatoin=[]))
    assert "did you mean 'validation'?" in caught.value.got
    assert all(name in caught.value.expected for name in ("text", "lora_rank", "tasks"))
    Path(tmp_path / "config.yaml").write_text("model: micro\n", "utf-8")
    with pytest.raises(SettingError, match="no tasks"):
        read_config(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("text", "says"),
    [("model: a\nmodel: b\n", "'model' occurs twice"), ("a: [", "is no config"), ("seed: .nan", "no config")],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, text, says):
    path = tmp_path / "config.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(DataError, match=says):
        read_config(path)


# --- the data -----------------------------------------------------------------------------------------------


def test_a_task_is_that_of_the_file(loaded):
    task = {"classes": True, "weight": 2, "templates": [{"question": "{text} =>", "answer": " {label}"}]}
    (one,) = loaded(task).tasks
    assert (one.name, one.classes, one.weight, one.names) == ("one", True, 2.0, LABELS)
    assert one.ways == (Template(**TEMPLATE), Template("{text} =>", " {label}"))
    assert texts(one) == [row["text"] for row in rows(40)]


def test_so_many_rows_are_drawn_by_the_seed_and_more_add_to_fewer(loaded):
    few, same, more, other = (
        texts(loaded({"rows": count}, seed=seed).tasks[0])
        for count, seed in ((10, 0), (10, 0), (20, 0), (10, 1))
    )
    assert few == same and len(few) == 10 and {*few} < {*more} and {*few} != {*other}
    assert few == sorted(few, key=[row["text"] for row in rows(40)].index)
    assert len(loaded({"rows": 99}).tasks[0].pool) == 40


def test_a_file_that_is_also_measured_on_is_split_and_the_rows_are_counted(loaded):
    both = {"name": "one", "train": "train.jsonl", "template": TEMPLATE, "rows": 16}
    found = loaded(validation=[both])
    learnt, measured = texts(found.tasks[0]), texts(found.validation[0])
    assert len(measured) == 16 and sorted(learnt + measured) == sorted(row["text"] for row in rows(40))
    assert found.notes == ("one: 16 rows left out, which ask what a row of validation asks",)


def test_questions_that_differ_in_case_and_signs_alone_are_the_same(loaded, tmp_path):
    write_rows(tmp_path / "other.jsonl", [{"text": "QUESTION 7!", "label": "a"}, *rows(17, "other")])
    one = {
        "name": "elsewhere",
        "train": "other.jsonl",
        "template": {"question": "{text}", "answer": "{label}"},
    }
    found = loaded({"rows": 39}, validation=[one])
    assert "question 7" not in texts(found.tasks[0]) and len(found.tasks[0].pool) == 39
    assert found.notes[0].startswith("one: 1 rows")


def test_an_overlap_is_refused_where_it_is_to_be_and_where_nothing_would_be_left(loaded):
    both = {"name": "one", "train": "train.jsonl", "template": TEMPLATE}
    with pytest.raises(DataError, match=r"tasks\[0\], one: 16 rows ask .* on_overlap to drop"):
        loaded(validation=[{**both, "rows": 16}], on_overlap="error")
    with pytest.raises(DataError, match=r"tasks\[0\], one: 40 rows ask .*, 0 others"):
        loaded(validation=[both])


def test_other_files_under_the_same_name_are_no_overlap(loaded):
    found = loaded(validation=[{"name": "one", "train": "other.jsonl", "template": TEMPLATE}])
    assert found.notes == () and len(found.tasks[0].pool) == 40


@pytest.mark.parametrize(
    "task",
    [{"template": {"question": "{txt}", "answer": "{label}"}}, {"rows": 1}, {"classes": True, "rows": 1}],
)
def test_errors_of_the_data_name_the_task(loaded, task):
    with pytest.raises(DataError, match=r"tasks\[0\], one: "):
        loaded(task)


def test_documents_are_separated_by_blank_lines(loaded, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\n\none\ntwo\r\n \t\r\n\nthree\n")
    (tmp_path / "b.txt").write_text("four", "utf-8")
    assert loaded(text=["a.txt", "b.txt"]).text == ("one\ntwo", "three", "four")
    (tmp_path / "b.txt").write_text(" \n", "utf-8")
    with pytest.raises(DataError, match=r"b.txt.* is empty"):
        loaded(text=["a.txt", "b.txt"])


# --- Hugging Face datasets ----------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    """Load every data set from memory; returns what was asked for."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(path, name=None, *, split):
        asked.append((path, name, split))
        if path == "no/such":
            raise datasets.exceptions.DatasetNotFoundError("Dataset 'no/such' doesn't exist on the Hub")
        label = datasets.ClassLabel(names=list(LABELS))
        features = datasets.Features({"text": datasets.Value("string"), "label": label})
        return datasets.Dataset.from_list(rows(8), features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_data_set_of_the_hub_is_a_task_and_class_numbers_are_names(loaded, hub):
    task = {"train": None, "dataset": {"path": "me/data", "name": "small", "split": "test"}, "classes": True}
    (one,) = loaded(task).tasks
    assert hub == [("me/data", "small", "test")]
    assert one.names == LABELS and len(one.pool) == 8


def test_a_data_set_that_is_not_there_is_named(loaded, hub):
    with pytest.raises(DataError, match=r"tasks\[0\], one: cannot load dataset 'no/such'.*doesn't exist"):
        loaded({"train": None, "dataset": {"path": "no/such"}})


def test_without_the_package_the_pip_line_is_told(loaded, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(OptionalDependencyError, match=r"icl-plugins\[tuning\]"):
        loaded({"train": None, "dataset": {"path": "me/data"}})
