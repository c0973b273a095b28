"""What is promised where labels are missing: runs of teacher or student, filtered, one call each, told of."""

import logging

import dspy
import pytest
from dspy.utils.dummies import DummyLM
from dspy_icl import BootstrapError, RandomFewShot, SelectorFewShot
from dspy_programs import Classify, OneStage, Recorder, TwoStages, knowing, make_trainset, right, texts
from pydantic import BaseModel


def by_text(demos):
    return {demo["text"]: demo for demo in demos}


def test_each_predictor_gets_demonstrations_of_its_own_task_from_the_same_runs():
    trainset = make_trainset(6)
    recorder = Recorder()
    with dspy.context(lm=knowing(trainset, topic="topic of")):
        compiled = SelectorFewShot(recorder, k=4).compile(TwoStages(), trainset=trainset)
    assert texts(compiled.topic.demos) == texts(compiled.area.demos) == [e.text for e in trainset[:1:-1]]
    assert all(demo.topic == f"topic of {demo.text}" for demo in compiled.topic.demos)
    assert all(demo.topic == f"topic of {demo.text}" for demo in compiled.area.demos)
    assert [len(pool) for pool in recorder.pools] == [6, 6]
    assert recorder.pools[0].labels[0] == f"topic of {trainset[0].text}"
    assert recorder.pools[1].labels[0] == trainset[0].area


def test_predictors_choose_independently():
    trainset = make_trainset(12)
    with dspy.context(lm=knowing(trainset, topic="topic of")):
        compiled = RandomFewShot(k=4, quotas={"card": 4}, bootstrap=False).compile(
            OneStage(), trainset=trainset
        )
        both = SelectorFewShot(Recorder(), k=4).compile(TwoStages(), trainset=trainset)
    assert {demo.area for demo in compiled.predictor.demos} == {"card"}
    assert both.topic.demos is not both.area.demos
    assert set(both.selection_reports) == {"topic", "area"}


def test_inner_labels_in_the_trainset_are_used_without_any_lm():
    trainset = [example.copy(topic="mine") for example in make_trainset(6)]
    compiled = RandomFewShot(k=3).compile(TwoStages(), trainset=trainset)
    assert {demo.topic for demo in compiled.topic.demos} == {"mine"}
    assert compiled.selection_reports["area"]["source"] == "labels"


def test_the_teacher_makes_the_demonstrations_with_its_own_lm():
    trainset = make_trainset(4)
    student, teacher = TwoStages(), TwoStages()
    student.set_lm(knowing(trainset, topic="student:"))
    teacher.set_lm(knowing(trainset, topic="teacher:"))
    compiled = RandomFewShot(k=4).compile(student, teacher=teacher, trainset=trainset)
    assert all(demo.topic.startswith("teacher:") for demo in compiled.topic.demos)
    assert compiled.topic.lm is student.topic.lm


def test_the_metric_decides_which_runs_are_used():
    trainset = make_trainset(6)
    with dspy.context(lm=knowing(trainset, topic="t")):
        compiled = RandomFewShot(metric=lambda e, p, trace: e.area != "rate" and len(trace) == 2).compile(
            TwoStages(), trainset=trainset
        )
    assert {demo.area for demo in compiled.area.demos} == {"card", "phone"}
    assert list(compiled.selection_reports["topic"]["rejected"]) == [1, 4]


def test_a_metric_may_return_a_score_with_feedback_as_gepa_wants_it():
    def metric(example, prediction, trace=None):
        return dspy.Prediction(score=float(example.area == "card"), feedback="read again")

    trainset = make_trainset(6)
    with dspy.context(lm=knowing(trainset, topic="t")):
        compiled = RandomFewShot(metric=metric).compile(TwoStages(), trainset=trainset)
    assert {demo.area for demo in compiled.area.demos} == {"card"}


def test_threads_change_nothing():
    trainset = make_trainset(12)
    chosen = []
    for num_threads in (1, 4):
        with dspy.context(lm=knowing(trainset, topic="t")):
            optimizer = RandomFewShot(k=5, num_threads=num_threads)
            chosen.append([d.toDict() for d in optimizer.compile(TwoStages(), trainset=trainset).area.demos])
    assert chosen[0] == chosen[1]


class Twice(dspy.Module):
    def __init__(self):
        super().__init__()
        self.look = dspy.Predict("text, part: int -> topic")

    def forward(self, text):
        self.look(text=text, part=0)
        return self.look(text=text, part=1)


def test_of_several_calls_of_a_predictor_one_is_kept_drawn_with_the_seed():
    trainset = make_trainset(12)
    parts = []
    for seed in (0, 0, 1):
        with dspy.context(lm=knowing(trainset, topic="t")):
            compiled = SelectorFewShot(Recorder(), seed=seed, bootstrap=True).compile(
                Twice(), trainset=trainset
            )
        assert len(by_text(compiled.look.demos)) == len(compiled.look.demos) == 12
        parts.append([demo.part for demo in compiled.look.demos])
    assert parts[0] == parts[1] != parts[2]
    assert set(parts[0]) == {0, 1}


@pytest.mark.parametrize("kind", ["labelled", "augmented", "loaded from JSON"])
def test_an_example_never_sees_itself_among_the_demonstrations_that_teach(kind):
    trainset = make_trainset(4)
    teacher = OneStage()
    made = {
        "labelled": lambda e: e,
        "augmented": lambda e: e.copy(augmented=True),
        "loaded from JSON": lambda e: e.toDict(),
    }
    demos = teacher.predictor.demos = [made[kind](example) for example in trainset[:2]]
    lm = knowing(trainset)
    teacher.set_lm(lm)
    RandomFewShot(bootstrap=True, num_threads=1).compile(OneStage(), teacher=teacher, trainset=trainset)
    assert len(lm.history) == 4
    for call, example in zip(lm.history, trainset, strict=True):
        *shown, asked = [m["content"] for m in call["messages"] if m["role"] == "user"]
        assert example.text in asked and not any(example.text in text for text in shown)
        assert len(shown) == 2 - (example in trainset[:2])
    assert teacher.predictor.demos is demos and len(demos) == 2


class Question(BaseModel):
    words: str


class Typed(dspy.Signature):
    text: Question = dspy.InputField()
    area: str = dspy.OutputField()


def taught(lm, teacher, student, trainset):
    """For each query that reaches the LM: the query, and the demonstrations it comes with."""
    with dspy.context(lm=lm):
        RandomFewShot(bootstrap=True, num_threads=1).compile(student, teacher=teacher, trainset=trainset)
    for call in lm.history:
        *shown, asked = [m["content"] for m in call["messages"] if m["role"] == "user"]
        yield asked.split("\n")[1], shown


def test_an_example_with_typed_inputs_never_sees_itself_in_a_teacher_loaded_from_json(tmp_path):
    trainset = [
        dspy.Example(text=Question(words=f"secret {i}"), area="card").with_inputs("text") for i in range(3)
    ]
    teacher, loaded = RandomFewShot(k=3).compile(OneStage(Typed), trainset=trainset), OneStage(Typed)
    teacher.save(tmp_path / "teacher.json")
    loaded.load(tmp_path / "teacher.json")
    calls = list(taught(DummyLM([{"area": "card"}] * 9), loaded, OneStage(Typed), trainset))
    assert len(calls) == 3
    for asked, shown in calls:
        assert len(shown) == 2 and not any(asked in text for text in shown)


class Renaming(dspy.Module):
    """Passes its input on under another name, with one more."""

    def __init__(self):
        super().__init__()
        self.answer = dspy.Predict("question, hint -> area")

    def forward(self, text, number=0):
        return self.answer(question=text, hint="none")


@pytest.mark.parametrize("added", [{}, {"hint": "none"}], ids=["input dropped", "input added"])
def test_an_example_never_sees_itself_where_the_program_renames_its_input(added):
    names = ["text"] if added else ["text", "number"]
    trainset = [dspy.Example(text=f"secret {i}", number=i, area="card").with_inputs(*names) for i in range(3)]
    teacher = Renaming()
    teacher.answer.demos = [dspy.Example(question=e.text, area="card", **added) for e in trainset]
    calls = list(taught(DummyLM([{"area": "card"}] * 9), teacher, Renaming(), trainset))
    assert len(calls) == 3
    for asked, shown in calls:
        assert len(shown) == 2 and not any(asked in text for text in shown)


def test_failing_examples_are_left_out_named_and_told(caplog):
    trainset = make_trainset(6)
    with caplog.at_level(logging.INFO, "dspy_icl"), dspy.context(lm=knowing(trainset[:4], topic="t")):
        compiled = RandomFewShot().compile(TwoStages(), trainset=trainset)
    assert set(texts(compiled.topic.demos)) == {example.text for example in trainset[:4]}
    assert list(compiled.selection_reports["topic"]["failed"]) == [4, 5]
    assert "2 failed" in caplog.text


def test_too_many_failures_stop_the_work_with_the_first_cause():
    trainset = make_trainset(20)
    with dspy.context(lm=knowing(trainset[:1], topic="t")), pytest.raises(BootstrapError) as caught:
        RandomFewShot(max_errors=3, num_threads=1).compile(TwoStages(), trainset=trainset)
    assert "3 of 20 examples failed, example 1: AdapterParseError" in str(caught.value)
    assert type(caught.value.__cause__).__name__ == "AdapterParseError"


def test_no_accepted_run_is_an_error_that_says_so():
    trainset = make_trainset(3)
    with (
        dspy.context(lm=knowing(trainset, topic="t")),
        pytest.raises(BootstrapError, match="the metric rejects 3"),
    ):
        RandomFewShot(metric=lambda *_: False).compile(TwoStages(), trainset=trainset)


class Fallback(dspy.Module):
    def __init__(self):
        super().__init__()
        self.main = dspy.Predict("text -> topic")
        self.never = dspy.Predict("text -> excuse")

    def forward(self, text):
        return self.main(text=text)


def test_a_predictor_that_no_run_calls_keeps_no_demonstrations_and_is_named(caplog):
    trainset = make_trainset(3)
    with dspy.context(lm=knowing(trainset, topic="t")):
        compiled = RandomFewShot().compile(Fallback(), trainset=trainset)
    assert compiled.never.demos == [] and len(compiled.main.demos) == 3
    assert "never" in caplog.text and "never" not in compiled.selection_reports


def test_calls_that_lack_a_field_are_no_demonstrations():
    class Forgetful(TwoStages):
        def forward(self, text):
            if "rate" in text:
                return self.topic(text=text, area=None)
            return self.area(text=text, topic=None if "card" in text else self.topic(text=text).topic)

    trainset = make_trainset(6)
    with dspy.context(lm=knowing(trainset, topic="t")):
        compiled = RandomFewShot().compile(Forgetful(), trainset=trainset)
    assert {demo.area for demo in compiled.area.demos} == {"phone"}


def test_partial_labels_are_demonstrations_where_bootstrapping_is_off():
    compiled = RandomFewShot(k=3, bootstrap=False).compile(
        OneStage("text, mood -> area"), trainset=make_trainset(4)
    )
    assert not any("mood" in demo for demo in compiled.predictor.demos)


def test_lms_of_threads_see_the_settings_of_the_caller():
    seen = []

    class Watching(OneStage):
        def forward(self, **inputs):
            seen.append(dspy.settings.adapter)
            return super().forward(**inputs)

    adapter = dspy.JSONAdapter()
    lm = DummyLM({e.text: {"area": e.area} for e in make_trainset(4)}, adapter=adapter)
    with dspy.context(lm=lm, adapter=adapter):
        RandomFewShot(bootstrap=True, num_threads=3).compile(
            Watching(Classify), trainset=make_trainset(4), teacher=None
        )
    assert seen == [adapter] * 4


class Mistaken(DummyLM):
    """Says the same of every question."""

    def __init__(self, **fields):
        super().__init__([fields] * 99)


def test_without_a_metric_runs_that_contradict_the_labels_are_dropped_told_and_counted(caplog):
    trainset = make_trainset(6)
    with caplog.at_level(logging.INFO, "dspy_icl"), dspy.context(lm=Mistaken(topic="t", area="card")):
        compiled = RandomFewShot().compile(TwoStages(), trainset=trainset)
    assert {demo.area for demo in compiled.area.demos} == {"card"}
    assert set(texts(compiled.topic.demos)) == {e.text for e in trainset if e.area == "card"}
    assert list(compiled.selection_reports["area"]["contradicted"]) == [1, 2, 4, 5]
    assert "No metric" in caplog.text and "4 contradicted" in caplog.text


def test_reasoning_to_a_wrong_label_is_no_demonstration():
    trainset = [example.copy(reasoning="mine") for example in make_trainset(6)]
    trainset = [example.with_inputs("text") for example in trainset]
    with dspy.context(lm=Mistaken(reasoning="r", area="rate")):
        compiled = RandomFewShot(bootstrap=True).compile(dspy.ChainOfThought(Classify), trainset=trainset)
    assert [(demo.area, demo.reasoning) for demo in compiled.predict.demos] == [("rate", "r")] * 2


def test_where_all_runs_contradict_the_labels_the_error_says_so():
    lm = Mistaken(topic="t", area="none of them")
    with dspy.context(lm=lm), pytest.raises(BootstrapError, match="3 contradict the labels"):
        RandomFewShot().compile(TwoStages(), trainset=make_trainset(3))


def test_what_a_metric_accepts_may_be_worded_otherwise_than_the_label():
    def first_letter(example, prediction, trace=None):
        return example.area[0] == prediction.area[0]

    with dspy.context(lm=Mistaken(area="cards and more")):
        compiled = RandomFewShot(bootstrap=True, metric=first_letter).compile(
            OneStage("text -> area"), trainset=make_trainset(6)
        )
    assert [demo.area for demo in compiled.predictor.demos] == ["cards and more"] * 2


class Revising(dspy.Module):
    """Drafts an area, which is wrong, then revises it."""

    def __init__(self):
        super().__init__()
        self.draft = dspy.Predict("text -> area")
        self.final = dspy.Predict("text, draft -> area")

    def forward(self, text):
        return self.final(text=text, draft=self.draft(text=text).area)


def test_an_inner_call_with_a_wrong_label_is_no_demonstration_though_the_outcome_is_right():
    trainset = [e.copy(area="card").with_inputs("text") for e in make_trainset(3)]
    program = Revising()
    program.draft.lm, program.final.lm = Mistaken(area="phone"), Mistaken(area="card")
    compiled = RandomFewShot(bootstrap=True, metric=right).compile(program, trainset=trainset)
    assert compiled.draft.demos == [] and len(compiled.final.demos) == 3
    assert list(compiled.selection_reports["final"]["contradicted"]) == [0, 1, 2]


def test_the_metric_right_is_used_on_runs_as_on_evaluation():
    trainset = make_trainset(3)
    with dspy.context(lm=knowing(trainset)):
        compiled = RandomFewShot(bootstrap=True, metric=right).compile(OneStage(), trainset=trainset)
    assert len(compiled.predictor.demos) == 3
