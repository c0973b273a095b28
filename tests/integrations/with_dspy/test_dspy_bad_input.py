"""Bad input: a typed error that names what is wrong, before any LM is asked."""

import re
import subprocess
import sys
from pathlib import Path

import dspy
import pytest
from dspy_icl import BootstrapError, GradientMatchingFewShot, RandomFewShot, SelectorFewShot
from dspy_programs import Classify, OneStage, Recorder, TwoStages, knowing, make_trainset, prompt_of

from icl_plugins import Random
from icl_plugins.errors import DataError, SettingError, TooLongError


def refused(error, text, **arguments):
    """Compiling raises this, and nobody is asked anything."""
    lm = knowing(make_trainset(), topic="t")
    optimizer = arguments.pop("optimizer", RandomFewShot())
    student = arguments.pop("student", OneStage())
    with dspy.context(lm=lm), pytest.raises(error, match=text) as caught:
        optimizer.compile(student, **{"trainset": make_trainset(), **arguments})
    assert lm.history == []
    assert caught.value.fix


# --- the trainset ----------------------------------------------------------------------------------------


def test_an_empty_trainset():
    refused(DataError, "empty trainset", trainset=[])


@pytest.mark.parametrize("name", ["trainset", "valset"])
def test_examples_without_with_inputs_are_named(name):
    examples = [dspy.Example(text=f"other {row}", area="card").with_inputs("text") for row in range(3)]
    examples[1] = dspy.Example(text="x", area="card")
    refused(
        DataError, f"example 1 of the {name} does not say which of its fields are inputs", **{name: examples}
    )


def test_dicts_instead_of_examples():
    refused(DataError, "dict as example 0 of the trainset", trainset=[{"text": "a", "area": "card"}])


@pytest.mark.parametrize("name", ["trainset", "valset"])
def test_what_cannot_be_listed_is_no_set_of_examples(name):
    refused(DataError, f"{name}=3", **{name: 3})


def test_no_trainset_is_an_empty_one():
    refused(DataError, "empty trainset", trainset=None)


def test_a_field_that_only_some_examples_have():
    trainset = make_trainset(4)
    trainset[2] = trainset[2].without("area")
    refused(
        DataError,
        "example 2 of the trainset lacks 'area' of predictor 'predictor'.*1 of 4",
        trainset=trainset,
    )


def test_none_counts_as_missing():
    trainset = make_trainset(4)
    trainset[3] = trainset[3].copy(area=None)
    refused(DataError, "example 3 of the trainset lacks 'area'", trainset=trainset)


def test_labels_that_do_not_suffice_where_bootstrapping_is_off():
    refused(
        DataError,
        "no 'topic' for predictor 'topic'",
        student=TwoStages(),
        optimizer=RandomFewShot(bootstrap=False),
    )


def test_an_example_too_long_for_the_proxy():
    trainset = make_trainset(3)
    trainset[1] = trainset[1].copy(text="word " * 20_000)
    refused(TooLongError, "1", trainset=trainset, optimizer=GradientMatchingFewShot(epochs=1, k=1))


# --- leaks -----------------------------------------------------------------------------------------------


def test_an_evaluation_example_that_could_become_a_demonstration_is_refused_by_name():
    valset = [dspy.Example(text="new", area="card").with_inputs("text"), make_trainset()[7]]
    refused(
        DataError,
        "example 1 of the valset has the inputs of example 7 of the trainset.*question 7",
        valset=valset,
    )


def test_a_leak_is_one_also_under_another_label_or_with_another_id():
    leak = dspy.Example(make_trainset()[4], area="phone", id=99)
    refused(DataError, "example 4 of the trainset", valset=[leak.with_inputs("text")])


def test_inputs_without_a_hash_are_compared_by_content():
    trainset = [dspy.Example(text=["a", {"b": row}], area="card").with_inputs("text") for row in range(2)]
    valset = [dspy.Example(text=["a", {"b": 1}], area="card").with_inputs("text")]
    refused(DataError, "example 1 of the trainset", trainset=trainset, valset=valset)


@pytest.mark.parametrize(
    "leak",
    [
        dspy.Example(make_trainset()[4], id=99).with_inputs("text", "id"),
        dspy.Example(text=f"  {make_trainset()[4].text.upper()} ").with_inputs("text"),
    ],
    ids=["more inputs", "case and space"],
)
def test_a_leak_is_one_also_with_more_inputs_and_in_another_case_or_spacing(leak):
    refused(DataError, "example 0 of the valset.*example 4 of the trainset", valset=[leak])


def test_signs_make_a_difference_so_that_sums_are_no_leaks():
    trainset, valset = (
        [dspy.Example(text=text, area="card").with_inputs("text")] for text in ("3 + 4?", "3 - 4?")
    )
    RandomFewShot().compile(OneStage(), trainset=trainset, valset=valset)


@pytest.mark.parametrize("name", ["trainset", "valset"])
def test_inputs_that_an_example_does_not_have_are_named_and_no_leak(name):
    examples = [dspy.Example(text="x", area="card").with_inputs("txt")]
    given = {"trainset": examples, "valset": examples} if name == "trainset" else {"valset": examples}
    refused(DataError, f"example 0 of the {name} has no 'txt', .*'text', 'area'", **given)


def test_no_input_at_all_is_refused_and_no_leak():
    examples = [dspy.Example(text="x", area="card").with_inputs()]
    refused(DataError, "does not say which", trainset=examples, valset=examples)


# --- programs --------------------------------------------------------------------------------------------


class NoPredictors(dspy.Module):
    def forward(self, text):
        return dspy.Prediction(area="card")


def test_a_student_without_predictors():
    refused(SettingError, "NoPredictors has no predictor", student=NoPredictors())


def test_a_student_whose_only_predictors_are_frozen():
    class Shell(dspy.Module):
        def __init__(self):
            super().__init__()
            self.inner = OneStage()
            self.inner._compiled = True

    refused(SettingError, "Shell has no predictor", student=Shell())


def test_a_student_that_is_no_program():
    refused(SettingError, "student of type str", student="text -> area")


def test_a_teacher_of_another_structure():
    refused(SettingError, "teacher without a predictor 'topic'", student=TwoStages(), teacher=OneStage())
    other = OneStage("text, mood -> area")
    refused(SettingError, "of the fields text, area", teacher=other, optimizer=RandomFewShot(bootstrap=True))


@pytest.mark.parametrize("bootstrap", [None, True])
@pytest.mark.parametrize("teacher", ["gpt-4", dspy.utils.DummyLM([{"area": "card"}]), Classify], ids=repr)
def test_a_teacher_that_is_no_program(teacher, bootstrap):
    refused(SettingError, "teacher of type", teacher=teacher, optimizer=RandomFewShot(bootstrap=bootstrap))


def test_several_teachers():
    refused(SettingError, "2 teachers", student=TwoStages(), teacher=[TwoStages(), TwoStages()])


def test_no_lm_where_one_is_needed():
    with pytest.raises(SettingError, match="no LM.*'topic' of predictor 'topic'"):
        RandomFewShot().compile(TwoStages(), trainset=make_trainset())


def test_an_lm_that_fails_on_some_examples_is_borne_up_to_max_errors():
    trainset = make_trainset(6)
    with dspy.context(lm=knowing(trainset[:4], topic="t")):
        assert len(RandomFewShot(max_errors=3).compile(TwoStages(), trainset=trainset).area.demos) == 4
        with pytest.raises(BootstrapError, match="examples failed, example [45]"):
            RandomFewShot(max_errors=2).compile(TwoStages(), trainset=trainset)


@pytest.mark.parametrize("bootstrap", [None, True])
@pytest.mark.parametrize("student", [OneStage(), dspy.Predict(Classify), dspy.ChainOfThought(Classify)])
def test_inputs_under_another_name_than_the_programs_are_named_before_any_run(student, bootstrap):
    trainset = [dspy.Example(query=e.text, area=e.area).with_inputs("query") for e in make_trainset(3)]
    refused(
        DataError,
        "no example of the trainset has the input 'text'.*'query'",
        trainset=trainset,
        student=student,
        optimizer=RandomFewShot(bootstrap=bootstrap),
    )


def test_arguments_of_forward_that_no_example_has_are_named_before_any_run():
    trainset = [dspy.Example(query=e.text, area=e.area).with_inputs("query") for e in make_trainset(3)]
    refused(DataError, "has the input 'text' of TwoStages", trainset=trainset, student=TwoStages())


def test_an_output_that_no_example_has_is_taken_for_a_slip_and_named():
    student = OneStage("text -> areas")
    refused(DataError, "has the output 'areas' of predictor 'predictor'.*'text', 'area'", student=student)


@pytest.mark.parametrize(
    "consent",
    [
        {"optimizer": RandomFewShot(bootstrap=True)},
        {"optimizer": RandomFewShot(metric=lambda *_: True)},
        {"teacher": OneStage("text -> mood")},
    ],
    ids=["bootstrap", "metric", "teacher"],
)
def test_an_output_that_no_example_has_is_made_where_that_is_wished(consent):
    optimizer = consent.get("optimizer", RandomFewShot())
    with dspy.context(lm=dspy.utils.DummyLM([{"mood": "calm"}] * 9)):
        compiled = optimizer.compile(
            OneStage("text -> mood"), trainset=make_trainset(3), teacher=consent.get("teacher")
        )
    assert [demo.mood for demo in compiled.predictor.demos] == ["calm"] * 3


def test_fields_that_calls_lack_are_named_where_that_leaves_nothing():
    class Forgetful(OneStage):
        def forward(self, text):
            return self.predictor(text=text)

    lm = dspy.utils.DummyLM([{"area": "card"}] * 9)
    with dspy.context(lm=lm), pytest.raises(BootstrapError, match="lack fields: 'mood'"):
        RandomFewShot().compile(Forgetful("text, mood -> area"), trainset=make_trainset(3)[:1])


def test_a_metric_that_fails_is_a_failed_run():
    def broken(example, prediction, trace=None):
        raise KeyError("oops")

    trainset = make_trainset(2)
    with (
        dspy.context(lm=knowing(trainset, topic="t")),
        pytest.raises(BootstrapError, match="KeyError: 'oops'"),
    ):
        RandomFewShot(metric=broken).compile(TwoStages(), trainset=trainset)


# --- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"k": 0},
        {"k": 1.5},
        {"k": None},
        {"max_tokens": 0},
        {"num_threads": 0},
        {"max_errors": 0},
        {"seed": -1},
        {"metric": 3},
        {"bootstrap": "x"},
    ],
    ids=str,
)
def test_settings_out_of_range(settings):
    with pytest.raises(SettingError, match=next(iter(settings))):
        SelectorFewShot(Random(), **settings)


@pytest.mark.parametrize("selector", [Random, "random", None], ids=repr)
def test_what_is_no_selector(selector):
    with pytest.raises(SettingError, match="selector="):
        SelectorFewShot(selector)


def test_a_missing_dspy_is_told_with_the_pip_line():
    code = (
        "import sys; sys.modules['dspy'] = None\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[3] / 'integrations')!r})\n"
        "import icl_plugins.errors\n"
        "try:\n    import dspy_icl\n"
        "except icl_plugins.errors.OptionalDependencyError as error:\n    print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert re.search(r"pip install 'icl-plugins\[dspy\]'", told)


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()], ids=repr)
def test_braces_and_markers_of_dspy_in_the_data_stay_text_for_selector_and_lm(adapter):
    text = "{area} [[ ## area ## ]] {{x}} </text>"
    trainset = [dspy.Example(text=text, area="card").with_inputs("text")]
    recorder = Recorder()
    with dspy.context(adapter=adapter):
        compiled = SelectorFewShot(recorder).compile(OneStage(), trainset=trainset)
        shown = prompt_of(compiled, text="?")[1]["content"]
    assert text in shown
    assert recorder.pools[0].questions == (f"{shown}\n\n",)
