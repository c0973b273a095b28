"""Outside judge: what DSPy asserts of BetterTogether (test_bettertogether.py), with our optimizers in it."""

import logging
from unittest.mock import Mock

import dspy
import pytest
from dspy.utils.dummies import DummyLM
from dspy_icl import BM25FewShot, RandomFewShot, SelectorFewShot
from dspy_programs import OneStage, make_trainset, texts

from icl_plugins import Random

BETTER_TOGETHER = "dspy.teleprompt.bettertogether"
EXAMPLES = make_trainset(6)
TRAINSET, VALSET = EXAMPLES[:4], EXAMPLES[4:]


def metric(example, prediction, trace=None):
    return float(example.area == prediction.area)


class Spy(SelectorFewShot):
    """Ours, keeping what it is given and what it returns."""

    def __init__(self, name="spy", **options):
        super().__init__(Random(), **options)
        self.name, self.given, self.returned = name, [], []

    def compile(self, student, *, trainset, teacher=None, valset=None):
        self.given.append(
            {"student": student, "trainset": list(trainset), "teacher": teacher, "valset": valset}
        )
        compiled = super().compile(student, trainset=trainset, teacher=teacher, valset=valset)
        compiled.path = [*getattr(student, "path", []), self.name]
        self.returned.append(compiled)
        return compiled


@pytest.fixture
def student():
    program = OneStage()
    program.set_lm(DummyLM([{"area": "card"}] * 99))
    return program


@pytest.fixture
def scores(monkeypatch):
    """Return a function that sets the scores of the programs in the order of their evaluation."""

    def script(*values):
        ahead = iter(values)
        score = (lambda: next(ahead)) if values else (lambda: 0.8)
        monkeypatch.setattr(f"{BETTER_TOGETHER}.eval_candidate_program", lambda *_: Mock(score=score()))

    script()
    for name in ("launch_lms", "kill_lms"):
        monkeypatch.setattr(f"{BETTER_TOGETHER}.{name}", Mock())
    return script


def together(**optimizers):
    return dspy.BetterTogether(metric=metric, **optimizers)


def test_our_optimizers_are_taken_under_their_names():
    p, w = RandomFewShot(), BM25FewShot()
    optimizer = together(p=p, w=w)
    assert optimizer.metric == metric
    assert optimizer.optimizers["p"] is p and optimizer.optimizers["w"] is w


def test_a_selector_is_no_optimizer():
    with pytest.raises(TypeError, match="must be a Teleprompter"):
        together(p=Random())


@pytest.mark.parametrize("strategy", ["p", "w", "p -> w", "w -> p", "p -> w -> p"])
def test_strategies_of_our_optimizers_are_valid(strategy):
    assert together(p=RandomFewShot(), w=BM25FewShot())._prepare_strategy(strategy) == strategy.split(" -> ")


def test_strategies_that_name_others_or_nothing_are_refused():
    optimizer = together(p=RandomFewShot(), w=BM25FewShot())
    with pytest.raises(ValueError, match="invalid optimizer keys"):
        optimizer._prepare_strategy("p -> x -> w")
    with pytest.raises(ValueError, match="cannot be empty"):
        optimizer._prepare_strategy("")


def test_compiling_calls_ours_and_attaches_candidates(student, scores):
    spy = Spy()
    compiled = together(p=spy).compile(student, trainset=TRAINSET, valset=VALSET, strategy="p")
    assert len(spy.given) == 1
    assert compiled.flag_compilation_error_occurred is False
    assert len(compiled.candidate_programs) == 2


def test_an_empty_trainset_is_refused(student):
    with pytest.raises(ValueError, match="(?i)cannot be empty"):
        together(p=RandomFewShot()).compile(student, trainset=[], valset=VALSET)


@pytest.mark.parametrize("ratio", [1.0, -0.1])
def test_a_ratio_out_of_range_is_refused(student, ratio):
    with pytest.raises(ValueError, match="must be in range"):
        together(p=RandomFewShot()).compile(student, trainset=TRAINSET, valset_ratio=ratio)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"other": {"valset": []}}, "(?i)invalid optimizer key"),
        ({"p": {"student": OneStage()}}, "not allowed"),
        ({"p": {"num_trials": 20}}, "Invalid compile arguments"),
    ],
    ids=["unknown optimizer", "student", "unknown argument"],
)
def test_compile_arguments_are_checked_against_our_signature(student, scores, arguments, text):
    with pytest.raises(ValueError, match=text):
        together(p=RandomFewShot()).compile(
            student, trainset=TRAINSET, valset=VALSET, strategy="p", optimizer_compile_args=arguments
        )


def test_trainset_valset_and_teacher_reach_ours(student, scores):
    spy, teacher = Spy(), OneStage()
    teacher.set_lm(student.predictor.lm)
    together(p=spy).compile(student, trainset=TRAINSET, valset=VALSET, teacher=teacher, strategy="p")
    (given,) = spy.given
    assert {e.text for e in given["trainset"]} == {e.text for e in TRAINSET}
    assert given["valset"] == VALSET
    assert len(given["teacher"]) == 1  # a list of one


def test_a_teacher_passed_by_better_together_makes_the_demonstrations(student, scores):
    teacher = OneStage()
    teacher.set_lm(DummyLM([{"area": "phone"}] * 99))
    compiled = together(p=RandomFewShot(bootstrap=True, mark_compiled=False)).compile(
        student, trainset=TRAINSET, valset=[], teacher=teacher, strategy="p"
    )
    assert not compiled.flag_compilation_error_occurred
    assert {demo.area for demo in compiled.predictor.demos} == {"phone"}


def test_compile_arguments_of_one_optimizer_override_the_common_ones(student, scores):
    p, w = Spy("p"), Spy("w")
    teacher = OneStage()
    arguments = {"p": {"trainset": VALSET, "valset": TRAINSET[:1], "teacher": teacher}}
    together(p=p, w=w).compile(
        student, trainset=TRAINSET, valset=VALSET, strategy="p -> w", optimizer_compile_args=arguments
    )
    assert p.given[0]["trainset"] == VALSET
    assert p.given[0]["valset"] == TRAINSET[:1]
    assert p.given[0]["teacher"] is teacher
    assert w.given[0]["valset"] == VALSET and w.given[0]["teacher"] is None


def test_the_trainset_is_shuffled_between_steps_and_stays_the_same_examples(student, scores):
    p, w = Spy("p"), Spy("w")
    together(p=p, w=w).compile(student, trainset=TRAINSET, valset=VALSET, strategy="p -> w", seed=0)
    (first,), (second,) = p.given, w.given
    assert {id(e) for e in first["trainset"]} == {id(e) for e in second["trainset"]} == set(map(id, TRAINSET))


def test_steps_run_in_order_each_on_the_program_of_the_one_before(student, scores):
    p, w = Spy("p"), Spy("w")
    together(p=p, w=w).compile(student, trainset=TRAINSET, valset=VALSET, strategy="p -> w -> p")
    assert [program.path for program in p.returned] == [["p"], ["p", "w", "p"]]
    assert w.given[0]["student"] is p.returned[0]
    assert p.given[1]["student"] is w.returned[0]


def test_lms_are_never_reset_so_nothing_has_to_be_restored(student, scores, caplog):
    lm = student.predictor.lm
    logger = logging.getLogger("dspy")
    logger.addHandler(caplog.handler)
    try:
        spy = Spy()
        together(p=spy).compile(student, trainset=TRAINSET, valset=VALSET, strategy="p -> p")
    finally:
        logger.removeHandler(caplog.handler)
    assert all(program.predictor.lm.model == lm.model for program in spy.returned)
    assert "incorrectly reset predictor LMs" not in caplog.text


def test_lms_are_launched_and_killed_around_our_steps(student, scores):
    from dspy.teleprompt import bettertogether

    optimizer = together(p=RandomFewShot(), w=BM25FewShot())
    optimizer._models_changed = lambda *_: True
    optimizer.compile(student, trainset=TRAINSET, valset=VALSET, strategy="p -> w")
    assert bettertogether.launch_lms.called and bettertogether.kill_lms.called


def test_when_ours_fails_the_best_program_so_far_is_returned(student, scores):
    scores(0.5, 0.7)
    failing = SelectorFewShot(Random(), quotas={"no such label": 3})
    result = together(p=Spy("p"), w=failing).compile(
        student, trainset=TRAINSET, valset=VALSET, strategy="p -> w"
    )
    assert result.flag_compilation_error_occurred is True
    assert result.path == ["p"] and len(result.candidate_programs) == 2


def test_a_leak_between_trainset_and_valset_ends_in_the_error_flag(student, scores):
    result = together(p=RandomFewShot()).compile(student, trainset=TRAINSET, valset=TRAINSET, strategy="p")
    assert result.flag_compilation_error_occurred is True
    assert result.predictor.demos == []


@pytest.mark.parametrize(("valset", "path"), [(VALSET, ["p"]), (None, ["p", "w"]), ([], ["p", "w"])])
def test_with_a_valset_the_best_program_is_returned_else_the_latest(student, scores, valset, path):
    if valset:
        scores(0.5, 0.9, 0.7)
    result = together(p=Spy("p"), w=Spy("w")).compile(
        student, trainset=TRAINSET, valset=valset, strategy="p -> w"
    )
    assert result.path == path
    assert result.candidate_programs


def test_candidates_are_sorted_with_program_score_and_strategy(student, scores):
    scores(0.5, 0.8, 0.9)
    result = together(p=Spy("p"), w=Spy("w")).compile(
        student, trainset=TRAINSET, valset=VALSET, strategy="p -> w"
    )
    candidates = result.candidate_programs
    assert [candidate["score"] for candidate in candidates] == [0.9, 0.8, 0.5]
    assert [candidate["strategy"] for candidate in candidates] == ["p -> w", "p", ""]
    assert all(isinstance(candidate["program"], dspy.Module) for candidate in candidates)
    assert candidates[0]["program"].path == ["p", "w"]


def test_unmocked_our_demonstrations_win_on_the_valset():
    """An LM that follows examples is right only with a demonstration of the same question."""

    class Asks(DummyLM):
        def _use_example(self, messages):
            return super()._use_example(messages) or "[[ ## area ## ]]\nnone"

        def launch(self):
            """Nothing to launch."""

        kill = launch

    program = OneStage("text -> area")
    program.set_lm(Asks([], follow_examples=True))
    trainset = [example.copy(text=f"{example.text}\nagain") for example in TRAINSET]
    trainset = [example.with_inputs("text") for example in trainset]
    valset = [dspy.Example(text=e.text.split("\n")[0], area=e.area).with_inputs("text") for e in trainset]
    result = together(p=RandomFewShot(k=4)).compile(program, trainset=trainset, valset=valset, strategy="p")
    assert not result.flag_compilation_error_occurred
    best = result.candidate_programs[0]
    assert (best["score"], best["strategy"]) == (100.0, "p")
    assert sorted(texts(result.predictor.demos)) == sorted(example.text for example in trainset)
