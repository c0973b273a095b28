"""Tasks, settings and places that cannot be trained on are refused before the first step."""

import sys
from dataclasses import replace

import pytest
import torch
from tuning_tools import NAMES, OTHER, TEMPLATE, make_proxy, make_task, settings

from icl_plugins import Pool, Template
from icl_plugins.errors import (
    ArtefactError,
    DataError,
    OptionalDependencyError,
    SettingError,
    TooLongError,
    TuningError,
)
from icl_plugins.progress import progress_to
from icl_plugins.tuning import ManyICL, Stage, Task


@pytest.fixture(autouse=True)
def no_step(request):
    """Fail when a refused run has done a step."""
    if "works" in request.node.name:
        yield
        return
    steps = []
    with progress_to(lambda *step: steps.append(step)):
        yield
    assert not [step for step in steps if step[0] == "tuning"]


def pool(*answers, template=TEMPLATE):
    records = [{"text": f"text {row}", "label": answer} for row, answer in enumerate(answers)]
    return Pool.from_records(records, template)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"pool": pool("a")}, DataError, "task 'bad' has one example"),
        ({"pool": pool("a", "a"), "classes": True}, DataError, "one class, 'a'"),
        (
            {"pool": pool("a", "b", template=replace(TEMPLATE, answer=" {label} {text}")), "classes": True},
            SettingError,
            "2 fields in the answer",
        ),
        (
            {"pool": pool("a", "b"), "classes": True, "templates": (replace(OTHER, answer="{text}{label}"),)},
            SettingError,
            "2 fields in the answer",
        ),
        ({"pool": pool("a", "b"), "templates": (replace(OTHER, question="{title}"),)}, DataError, "title"),
        ({"pool": pool("a", "b"), "weight": 0}, SettingError, "bad: weight=0"),
    ],
)
def test_tasks_that_cannot_be_learnt_are_named(wrong, error, message):
    with pytest.raises(error, match=message):
        Task("bad", **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"stages": ()},
        {"accumulation": 0},
        {"lora_rank": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"decay": 1.5},
        {"precision": "float16"},
        {"on_too_long": "truncate"},
        {"checkpoint_every": 0},
        {"seed": -1},
        {"kl": 0.1},
        {"kl": 0.1, "lora_rank": None, "stages": (Stage(plain=0.5),)},
        {"model": 3},
    ],
)
def test_settings_that_cannot_be_are_named(wrong):
    with pytest.raises(SettingError, match="kl=0.1" if "kl" in wrong else next(iter(wrong))):
        ManyICL(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"rows": 1.5},
        {"context": 7},
        {"temperature": -0.1},
        {"shots": "all"},
        {"zero_shot": 1.1},
        {"plain": 0.6, "zero_shot": 0.6},
        {"classes": (1, 4)},
        {"classes": (4, 2)},
        {"classes": (2, 3, 4)},
        {"classes": (2, 3.5)},
        {"tasks": {}},
        {"tasks": ("one",)},
        {"tasks": {"one": 0}},
    ],
)
def test_stages_that_cannot_be_are_named(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Stage(**wrong)


@pytest.mark.parametrize(
    ("given", "tasks", "error", "message"),
    [
        ({}, [], SettingError, "tasks: none"),
        ({}, ["one", "one"], SettingError, "'one' twice"),
        ({"tasks": {"one": 1, "two": 1}}, ["one"], SettingError, r"stages\[0\]: no task or kind 'two'"),
        ({"context": 200}, ["one"], SettingError, "context=200.*expected: at most 128"),
        ({"plain": 0.5}, ["one"], DataError, "no text"),
        ({"other_names": 0.5}, ["one"], SettingError, "to make names of"),
    ],
)
def test_runs_that_cannot_be_are_refused(proxy_of, tmp_path, given, tasks, error, message):
    with pytest.raises(error, match=message):
        settings(proxy_of(), **given).fit([make_task(name) for name in tasks], tmp_path)


@pytest.mark.parametrize(
    ("validation", "message"),
    [([("small", 15)], "task 'small' has 15 examples"), ([("same", 20), ("same", 20)], "'same' twice")],
)
def test_validation_that_cannot_be_measured_is_refused(proxy_of, task, tmp_path, validation, message):
    with pytest.raises((DataError, SettingError), match=message):
        settings(proxy_of()).fit([task], tmp_path, validation=[make_task(*one) for one in validation])
    assert not list(tmp_path.iterdir())


def long_task(size=8):
    records = [
        {"text": "word " * (40 if row in (2, 5) else 2), "label": NAMES[row % 4]} for row in range(size)
    ]
    return Task("long", Pool.from_records(records, TEMPLATE))


def test_examples_longer_than_the_context_are_named(proxy_of, tmp_path):
    with pytest.raises(TooLongError, match=r"task 'long': 2 of 8 examples .*: rows 2 \(\d+\), 5 \(\d+\)"):
        settings(proxy_of(), context=64).fit([long_task()], tmp_path)


def test_a_template_that_makes_them_too_long_is_seen_before_the_first_step(proxy_of, task, tmp_path):
    long = Template(question="{text} " + "and so on " * 12, answer=" {label}")
    with pytest.raises(TooLongError, match="task 'intents'"):
        settings(proxy_of(), context=64).fit([replace(task, templates=(long,))], tmp_path)


def test_skipping_works_and_is_noted(proxy_of, tmp_path):
    tuned = settings(proxy_of(), context=64, steps=1, on_too_long="skip").fit([long_task()], tmp_path)
    assert tuned.record["notes"] == ["stage 0: examples of more than 63 tokens left out: long 2"]
    assert tuned.record["tasks"] == [{"name": "long", "examples": 6, "classes": 0}]
    assert "left out: long 2" in (tmp_path / "model" / "README.md").read_text()


def test_skipping_all_but_one_is_refused(proxy_of, tmp_path):
    with pytest.raises(TooLongError, match="2 of 3"):
        settings(proxy_of(), context=64, on_too_long="skip").fit(
            [Task("long", long_task().pool.subset([0, 2, 5]))], tmp_path
        )


def test_an_example_of_exactly_the_context_works(proxy_of, tmp_path):
    proxy, long = proxy_of(max_position_embeddings=512), long_task(3)
    most = max(len(proxy.encoder.tokenize([text + "\n\n"])[0][0]) for text in long.pool.texts)
    settings(proxy, context=most, steps=1).fit([long], tmp_path)
    with pytest.raises(TooLongError):
        settings(proxy, context=most - 1, steps=1).fit([long], tmp_path / "less")


def test_answers_without_a_token_are_named(own_tokenizer, tmp_path):
    from tokenizers import normalizers

    own_tokenizer.backend_tokenizer.normalizer = normalizers.Replace("-", "")
    template = replace(TEMPLATE, answer="{label}")
    task = Task("silent", pool("a", "---", "b", "-", template=template))
    with pytest.raises(DataError, match=r"task 'silent': 2 examples have no answer tokens \(rows \[1, 3\]\)"):
        settings(make_proxy("llama", own_tokenizer)).fit([task], tmp_path)


@pytest.mark.parametrize("missing", ["peft", "accelerate"])
def test_a_missing_package_is_named(proxy_of, task, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(OptionalDependencyError, match=rf"{missing}.*pip install 'icl-plugins\[tuning\]'"):
        settings(proxy_of()).fit([task], tmp_path)


def test_a_tokenizer_without_bos_and_eos_works(own_tokenizer, task, tmp_path):
    from tokenizers import processors

    own_tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    own_tokenizer.bos_token = own_tokenizer.eos_token = None
    proxy = make_proxy("llama", own_tokenizer, bos_token_id=None, eos_token_id=None)
    tuned = settings(proxy, steps=2).fit([task], tmp_path)
    assert tuned.proxy.answer_losses(task.pool).isfinite().all()


def test_stages_and_tasks_are_lists(proxy_of, tmp_path):
    with pytest.raises(SettingError, match="a tuple of Stage"):
        ManyICL(stages=Stage())
    with pytest.raises(SettingError, match="tasks: .*expected: a list of Task"):
        settings(proxy_of()).fit(make_task(), tmp_path)


def test_an_empty_text_is_refused(proxy_of, tmp_path):
    with pytest.raises(DataError, match=r"1 texts without text: \[1\]"):
        settings(proxy_of(), plain=0.5).fit([make_task()], tmp_path, text=["a", " \n"])


def test_a_folder_with_other_things_is_refused_before_a_step(proxy_of, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="holds other things"):
        settings(proxy_of()).fit([make_task()], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_never_drawn_works_and_is_noted_as_overlaps_are(proxy_of, tmp_path):
    tasks = [make_task("one"), make_task("two")]
    run = settings(proxy_of(), tasks={"one": 1.0}, steps=1)
    tuned = run.fit(tasks, tmp_path, text=["some text"], validation=[make_task("one", 18)])
    notes = " ".join(tuned.record["notes"])
    for told in ("two: in no stage", "no stage draws plain", "one: 18 rows ask", "16, 64 shots not measured"):
        assert told in notes


def test_out_of_memory_says_what_to_lower(proxy_of, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr("icl_plugins.tuning.trainer.logits_at", full)
    with pytest.raises(TuningError, match="out of memory.*lower rows and raise accumulation"):
        settings(proxy_of()).fit([make_task()], tmp_path)


def test_text_that_is_one_string_is_refused(proxy_of, tmp_path):
    with pytest.raises(SettingError, match="text: one string"):
        settings(proxy_of()).fit([make_task()], tmp_path, text="some text")
