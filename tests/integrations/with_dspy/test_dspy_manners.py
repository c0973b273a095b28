"""Good manners: what is lent comes back unchanged, and the result is at home wherever DSPy's own would be."""

import asyncio
import copy
import json
import logging
import subprocess
import sys
import threading
from datetime import date

import dspy
import pytest
from dspy.utils.callback import BaseCallback
from dspy.utils.dummies import DummyLM
from dspy_icl import BM25FewShot, GradientMatchingFewShot, RandomFewShot, SelectorFewShot
from dspy_programs import Classify, OneStage, TwoStages, knowing, make_trainset, prompt_of, right, texts
from pydantic import BaseModel

from icl_plugins import Random


class Outer(dspy.Module):
    """A stage that is to be frozen, and one that learns."""

    def __init__(self):
        super().__init__()
        self.fixed = OneStage("text -> topic")
        self.learning = OneStage("text -> area")

    def forward(self, text):
        self.fixed(text=text)
        return self.learning(text=text)


def frozen(lm=None):
    program = Outer()
    program.set_lm(lm)
    program.fixed.predictor.demos = [dspy.Example(text="old", topic="t")]
    program.fixed._compiled = True
    return program


# --- what was lent ---------------------------------------------------------------------------------------


def test_student_teacher_and_trainset_are_never_changed():
    trainset = make_trainset(6)
    lm = knowing(trainset, topic="t")
    student, teacher = TwoStages(), TwoStages()
    for program in (student, teacher):
        program.set_lm(lm)
        program.topic.demos = [dspy.Example(text="old", topic="x")]
    kept = copy.deepcopy((trainset, student.dump_state(), teacher.dump_state()))
    attributes = set(vars(student))
    compiled = RandomFewShot(k=3, metric=right).compile(student, teacher=teacher, trainset=trainset)
    assert (trainset, student.dump_state(), teacher.dump_state()) == kept
    assert set(vars(student)) == attributes and student._compiled is False
    assert student.history == [] and teacher.history == []
    assert compiled is not student and compiled.topic is not student.topic


def test_lms_are_put_back_those_of_frozen_sub_modules_too():
    lm = knowing(make_trainset())
    program = frozen(lm)
    program.fixed.predictor.lm = lm
    compiled = RandomFewShot().compile(program, trainset=make_trainset())
    assert compiled.learning.predictor.lm is compiled.fixed.predictor.lm is lm


def test_a_frozen_sub_module_keeps_its_demonstrations():
    compiled = RandomFewShot(k=2).compile(frozen(), trainset=make_trainset())
    assert texts(compiled.fixed.predictor.demos) == ["old"]
    assert len(compiled.learning.predictor.demos) == 2
    assert set(compiled.selection_reports) == {"learning.predictor"}


def test_calls_of_a_frozen_sub_module_become_nobodys_demonstrations():
    trainset = make_trainset(4)
    with dspy.context(lm=knowing(trainset, topic="t")):
        compiled = RandomFewShot(bootstrap=True).compile(frozen(), trainset=trainset)
    assert texts(compiled.fixed.predictor.demos) == ["old"]
    assert not any("topic" in demo for demo in compiled.learning.predictor.demos)


def test_instructions_are_kept():
    student = OneStage(Classify.with_instructions("Be terse."))
    compiled = RandomFewShot().compile(student, trainset=make_trainset())
    assert compiled.predictor.signature.instructions == "Be terse."


def test_demonstrations_are_copies_down_to_their_values():
    trainset = [dspy.Example(text="a", tags=["x"]).with_inputs("text")]
    compiled = RandomFewShot().compile(OneStage("text -> tags: list[str]"), trainset=trainset)
    compiled.predictor.demos[0].tags.append("y")
    compiled.predictor.demos[0].text = "changed"
    assert trainset == [dspy.Example(text="a", tags=["x"])]


def test_the_optimizer_itself_is_not_changed_and_serves_several_threads():
    optimizer = RandomFewShot(k=4)
    params = dict(optimizer.get_params())
    chosen = {}

    def work(n):
        with dspy.context(lm=None):
            compiled = optimizer.compile(OneStage(), trainset=make_trainset(n))
        chosen[n] = texts(compiled.predictor.demos)

    threads = [threading.Thread(target=work, args=(n,)) for n in (6, 9, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert optimizer.get_params() == params
    expected = {n: optimizer.compile(OneStage(), trainset=make_trainset(n)) for n in (6, 9, 12)}
    assert chosen == {n: texts(compiled.predictor.demos) for n, compiled in expected.items()}


# --- marks, reports, candidates --------------------------------------------------------------------------


def test_only_the_root_is_marked_as_compiled_and_only_if_wished():
    compiled = RandomFewShot().compile(Outer(), trainset=[e.copy(topic="t") for e in make_trainset()])
    assert compiled._compiled is True
    assert compiled.fixed._compiled is compiled.learning._compiled is False
    assert compiled.fixed.predictor._compiled is False
    unmarked = RandomFewShot(mark_compiled=False).compile(OneStage(), trainset=make_trainset())
    assert unmarked._compiled is False


def test_reports_are_json_and_name_the_chosen_rows_of_the_trainset():
    compiled = RandomFewShot(k=3).compile(OneStage(), trainset=make_trainset())
    report = json.loads(json.dumps(compiled.selection_reports))["predictor"]
    assert [make_trainset()[row].text for row in report["rows"]] == texts(compiled.predictor.demos)
    assert report["shots"] == len(report["scores"]) == 3 and report["config"]["selector"] == "Random"


def test_rows_are_those_of_the_trainset_also_where_runs_failed():
    trainset = make_trainset(6)
    with dspy.context(lm=knowing(trainset[3:], topic="t")):
        compiled = RandomFewShot(k=2).compile(TwoStages(), trainset=trainset)
    rows = compiled.selection_reports["topic"]["rows"]
    assert [trainset[row].text for row in rows] == texts(compiled.topic.demos)


def test_reports_and_candidates_are_no_parameters_and_copy_along():
    student = OneStage()
    compiled = RandomFewShot(k=2).compile(student, trainset=make_trainset())
    assert compiled.dump_state().keys() == student.dump_state().keys() == {"predictor"}
    for copied in (copy.deepcopy(compiled), compiled.deepcopy(), compiled.reset_copy()):
        assert copied.selection_reports == compiled.selection_reports
        assert copied.candidate_programs[0]["program"] is copied
    assert len(list(compiled.named_sub_modules(dspy.Predict))) == 1


def test_the_candidate_has_its_score_where_there_are_valset_and_metric():
    examples = make_trainset(12)
    with dspy.context(lm=knowing(examples[:11])):
        compiled = RandomFewShot(k=2, metric=right).compile(
            OneStage(), trainset=examples[:8], valset=examples[8:]
        )
    (candidate,) = compiled.candidate_programs
    assert candidate == {"score": 75.0, "program": compiled}
    assert RandomFewShot().compile(OneStage(), trainset=examples).candidate_programs[0]["score"] is None


def test_generators_are_read_once_and_give_what_lists_give():
    examples = make_trainset(12)
    optimizer = RandomFewShot(k=2, metric=right)
    with dspy.context(lm=knowing(examples[:11])):
        compiled = optimizer.compile(
            OneStage(), trainset=(e for e in examples[:8]), valset=(e for e in examples[8:])
        )
    assert compiled.candidate_programs[0]["score"] == 75.0
    assert texts(compiled.predictor.demos) == texts(
        optimizer.compile(OneStage(), trainset=examples[:8]).predictor.demos
    )


# --- callbacks, quiet, settings --------------------------------------------------------------------------


def test_compile_callbacks_hear_start_and_end_once():
    class Listener(BaseCallback):
        def __init__(self):
            self.heard = []

        def on_compile_start(self, call_id, instance, inputs):
            self.heard.append(("start", type(instance).__name__, len(inputs["trainset"])))

        def on_compile_end(self, call_id, outputs, exception=None):
            self.heard.append(("end", type(outputs).__name__, exception))

    listener = Listener()
    with dspy.context(callbacks=[listener]):
        BM25FewShot().compile(OneStage(), trainset=make_trainset())
    assert listener.heard == [("start", "BM25FewShot", 12), ("end", "OneStage", None)]


def test_nothing_is_printed_unless_progress_is_wished(capfd):
    trainset = make_trainset(8)
    lm = knowing(trainset, topic="t")
    for progress in (False, True):
        optimizer = GradientMatchingFewShot(epochs=1, k=2, progress=progress)
        with dspy.context(lm=lm):
            optimizer.compile(TwoStages(), trainset=trainset)
        out, err = capfd.readouterr()
        if progress:
            assert "8 / 8" in out and "prefix" in err.lower()
        else:
            assert out == err == ""


async def test_compiling_within_a_running_event_loop():
    assert asyncio.get_running_loop().is_running()
    trainset = make_trainset(4)
    with dspy.context(lm=knowing(trainset, topic="t")):
        compiled = RandomFewShot(k=2).compile(TwoStages(), trainset=trainset)
    assert len(compiled.area.demos) == 2


def test_global_settings_stay_as_they_are():
    before = dict(dspy.settings.config)
    RandomFewShot().compile(OneStage(), trainset=make_trainset())
    assert dict(dspy.settings.config) == before


# --- saving ----------------------------------------------------------------------------------------------

LOAD = """
import json, sys
from datetime import date
import dspy
from pydantic import BaseModel

class Person(BaseModel):
    name: str
    born: date

class Extract(dspy.Signature):
    text: str = dspy.InputField()
    people: list[Person] = dspy.OutputField()

program = dspy.ChainOfThought(Extract)
program.load(sys.argv[1])
predictor = program.predict
print(json.dumps(dspy.ChatAdapter().format(predictor.signature, predictor.demos, {"text": "who?"})))
"""


class Person(BaseModel):
    name: str
    born: date


class Extract(dspy.Signature):
    text: str = dspy.InputField()
    people: list[Person] = dspy.OutputField()


def test_a_new_process_loads_the_json_and_sends_the_same_prompt(tmp_path):
    people = [
        [Person(name="Ada {x}", born=date(1815, 12, 10))],
        [Person(name="Zuse", born=date(1910, 6, 22))],
    ]
    trainset = [
        dspy.Example(text=f"text {row}", people=found).with_inputs("text") for row, found in enumerate(people)
    ]
    compiled = RandomFewShot(k=2).compile(dspy.ChainOfThought(Extract), trainset=trainset)
    compiled.save(tmp_path / "program.json")
    command = [sys.executable, "-c", LOAD, str(tmp_path / "program.json")]
    loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert json.loads(loaded) == prompt_of(compiled, text="who?")


def test_a_program_that_was_loaded_can_be_compiled_again(tmp_path):
    RandomFewShot(k=2).compile(OneStage(), trainset=make_trainset()).save(tmp_path / "program.json")
    student = OneStage()
    student.load(tmp_path / "program.json")
    teacher = OneStage()
    teacher.load(tmp_path / "program.json")  # its demonstrations are dicts now
    teacher.set_lm(knowing(make_trainset()))
    compiled = RandomFewShot(k=3, bootstrap=True).compile(student, teacher=teacher, trainset=make_trainset())
    assert len(compiled.predictor.demos) == 3


# --- among DSPy's own ------------------------------------------------------------------------------------


def test_a_program_compiled_before_is_accepted_and_gets_new_demonstrations():
    once = RandomFewShot(k=2).compile(OneStage(), trainset=make_trainset())
    again = SelectorFewShot(Random(seed=5), k=3).compile(once, trainset=make_trainset())
    assert len(once.predictor.demos) == 2 and len(again.predictor.demos) == 3


def test_bootstrap_few_shot_takes_an_unmarked_result_as_student_and_a_marked_one_as_teacher():
    trainset = make_trainset(6)
    student = RandomFewShot(k=2, mark_compiled=False).compile(OneStage(), trainset=trainset)
    teacher = RandomFewShot(k=2).compile(OneStage(), trainset=trainset)
    lm = knowing(trainset)
    with dspy.context(lm=lm):
        compiled = dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=2).compile(
            student, teacher=teacher, trainset=trainset
        )
    assert compiled.predictor.demos
    asked = [[m["content"] for m in call["messages"] if m["role"] == "user"] for call in lm.history]
    assert not any(query.split("\n")[1] in demo for *demos, query in asked for demo in demos)


def test_gepa_goes_on_from_the_result_and_keeps_its_demonstrations():
    trainset = make_trainset(6)
    compiled = RandomFewShot(k=3).compile(OneStage(), trainset=trainset)
    reflecting = DummyLM([{"improved_instruction": "Name it."}] * 50)

    def metric(gold, pred, trace=None, pred_name=None, pred_trace=None):
        return dspy.Prediction(score=float(gold.area == pred.area), feedback="no")

    with dspy.context(lm=knowing(trainset[:4])):
        best = dspy.GEPA(metric=metric, max_metric_calls=12, reflection_lm=reflecting, num_threads=1).compile(
            compiled, trainset=trainset, valset=trainset
        )
    assert texts(best.predictor.demos) == texts(compiled.predictor.demos)


def mipro(compiled, trainset, sizes):
    """What MIPROv2 makes of a compiled program; all its candidates score the same, and the first stays."""
    pytest.importorskip("optuna", reason="MIPROv2 needs dspy[optuna]")
    logging.getLogger("optuna").setLevel(logging.ERROR)
    proposing = DummyLM([{"observations": "o", "summary": "s", "proposed_instruction": "Name it."}] * 999)
    lm = knowing(trainset)
    trials = {} if sizes.get("auto") else {"num_trials": 2}
    with dspy.context(lm=lm):
        optimizer = dspy.MIPROv2(
            metric=right, prompt_model=proposing, task_model=lm, num_threads=1, **{"auto": None, **sizes}
        )
        return optimizer.compile(
            compiled,
            trainset=trainset[:12],
            valset=trainset[12:],
            minibatch=False,
            program_aware_proposer=False,
            data_aware_proposer=False,
            fewshot_aware_proposer=False,
            **trials,
        )


MIPRO_SIZES = [
    {"auto": "light"},
    {"num_candidates": 4, "max_bootstrapped_demos": 0, "max_labeled_demos": 0},
    {"num_candidates": 2, "max_bootstrapped_demos": 0, "max_labeled_demos": 2},
]


@pytest.mark.parametrize("sizes", MIPRO_SIZES, ids=["light", "instructions only", "labels only"])
def test_miprov2_goes_on_from_an_unmarked_result_and_no_equal_candidate_replaces_it(sizes):
    trainset = make_trainset(24)
    compiled = RandomFewShot(k=3, mark_compiled=False).compile(OneStage(), trainset=trainset[:12])
    best = mipro(compiled, trainset, sizes)
    assert len(best.predictor.demos) == 3
    assert texts(best.predictor.demos) == texts(compiled.predictor.demos)


def test_miprov2_refuses_a_marked_result():
    trainset = make_trainset(24)
    compiled = RandomFewShot(k=3).compile(OneStage(), trainset=trainset[:12])
    with pytest.raises(AssertionError, match="uncompiled"):
        mipro(compiled, trainset, MIPRO_SIZES[0])
