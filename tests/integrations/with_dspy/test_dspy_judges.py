"""Outside judges: what DSPy asserts of its own optimizers (tests/teleprompt), asked of ours."""

import inspect

import dspy
import pytest
from dspy.teleprompt.teleprompt import Teleprompter
from dspy.utils.dummies import DummyLM
from dspy_icl import BM25FewShot, RandomFewShot, SelectorFewShot

from icl_plugins import Random

SKY = dspy.Example(input="What is the color of the sky?", output="blue").with_inputs("input")
FOX = dspy.Example(input="What does the fox say?", output="Ring-ding-ding!").with_inputs("input")


class Simple(dspy.Module):
    def __init__(self):
        super().__init__()
        self.predictor = dspy.Predict("input -> output")

    def forward(self, **inputs):
        return self.predictor(**inputs)


class Buggy(Simple):
    def forward(self, **inputs):
        raise RuntimeError("Simulated error")


def equal(example, prediction, trace=None):
    return example.output == prediction.output


OPTIMIZERS = [RandomFewShot, BM25FewShot, lambda **options: SelectorFewShot(Random(seed=1), **options)]


@pytest.fixture(params=OPTIMIZERS, ids=["random", "bm25", "generic"])
def optimizer_of(request):
    return request.param


# --- test_teleprompt.py ----------------------------------------------------------------------------------


def test_get_params_are_the_arguments_of_the_constructor():
    optimizer = SelectorFewShot(Random(), k=3, metric=equal, progress=True)
    assert isinstance(optimizer, Teleprompter)
    assert optimizer.get_params() == {
        "selector": Random(),
        "k": 3,
        "max_tokens": None,
        "quotas": None,
        "metric": equal,
        "bootstrap": None,
        "num_threads": None,
        "max_errors": None,
        "seed": 0,
        "mark_compiled": True,
        "progress": True,
    }
    assert set(optimizer.get_params()) == set(inspect.signature(SelectorFewShot).parameters)


# --- test_bootstrap.py -----------------------------------------------------------------------------------


def test_the_metric_is_kept(optimizer_of):
    assert optimizer_of(metric=equal).metric == equal


def test_compiling_with_student_and_teacher_gives_a_compiled_student(optimizer_of):
    with dspy.context(lm=DummyLM(["Initial thoughts", "Finish[blue]"])):
        compiled = optimizer_of(metric=equal, k=1).compile(Simple(), teacher=Simple(), trainset=[SKY])
    assert compiled is not None
    assert compiled._compiled is True


@pytest.mark.parametrize("bootstrap", [None, True])
def test_the_compiled_student_answers_from_its_demonstration(optimizer_of, bootstrap):
    lm = DummyLM([{"output": "blue"}, {"output": "Ring-ding-ding!"}])
    optimizer = optimizer_of(metric=equal, k=1, bootstrap=bootstrap)
    with dspy.context(lm=lm, trace=[]):
        compiled = optimizer.compile(Simple(), teacher=Simple(), trainset=[SKY])
    assert len(compiled.predictor.demos) == 1
    assert compiled.predictor.demos[0].input == SKY.input
    assert compiled.predictor.demos[0].output == SKY.output
    with dspy.context(lm=DummyLM([{"output": "Ring-ding-ding!"}], follow_examples=True)):
        assert compiled(input=SKY.input).output == SKY.output


def test_an_error_of_the_teacher_comes_through_when_no_more_are_allowed(optimizer_of):
    optimizer = optimizer_of(metric=equal, k=1, max_errors=1, bootstrap=True)
    with (
        dspy.context(lm=DummyLM([{"output": "Initial thoughts"}])),
        pytest.raises(RuntimeError, match="Simulated error"),
    ):
        optimizer.compile(Simple(), teacher=Buggy(), trainset=[SKY])


def test_there_are_as_many_demonstrations_as_validation_examples_at_least(optimizer_of):
    with dspy.context(lm=DummyLM([{"output": "Initial thoughts"}, {"output": "Finish[blue]"}])):
        compiled = optimizer_of(k=1).compile(Simple(), teacher=Simple(), trainset=[SKY], valset=[FOX])
    assert len(compiled.predictor.demos) >= 1


# --- test_random_search.py -------------------------------------------------------------------------------


def test_the_basic_workflow_runs(optimizer_of):
    with dspy.context(lm=DummyLM(["Initial thoughts", "Finish[blue]"])):
        compiled = optimizer_of(metric=equal, k=1).compile(Simple(), teacher=Simple(), trainset=[SKY, FOX])
    assert compiled.candidate_programs[0]["program"] is compiled


# --- test_ensemble.py ------------------------------------------------------------------------------------


def compiled_programs(n):
    """n programs with one demonstration each, program i answering "i"."""
    programs = []
    for i in range(n):
        program = Simple()
        program.set_lm(DummyLM([{"output": str(i)}] * 9))
        programs.append(RandomFewShot(k=1, seed=i).compile(program, trainset=[SKY, FOX]))
    return programs


def test_an_ensemble_without_reduction_gives_all_outputs():
    outputs = dspy.Ensemble().compile(compiled_programs(5))(input="?")
    assert [output.output for output in outputs] == ["0", "1", "2", "3", "4"]


def test_an_ensemble_reduces_the_outputs():
    def mean(outputs):
        return sum(float(output.output) for output in outputs) / len(outputs)

    assert dspy.Ensemble(reduce_fn=mean).compile(compiled_programs(5))(input="?") == 2.0


def test_an_ensemble_reduces_by_majority():
    programs = [*compiled_programs(2), compiled_programs(1)[0]]
    assert dspy.Ensemble(reduce_fn=dspy.majority).compile(programs)(input="?").output == "0"


def test_an_ensemble_of_limited_size_asks_that_many():
    assert len(dspy.Ensemble(size=3).compile(compiled_programs(6))(input="?")) == 3
