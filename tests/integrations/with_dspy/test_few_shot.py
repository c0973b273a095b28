"""What SelectorFewShot promises of one predictor: whose examples, how many, in which order, as rendered."""

import inspect
import pickle
from dataclasses import dataclass
from datetime import date

import dspy
import dspy_icl
import pytest
from dspy_icl import GradientMatchingFewShot, RandomFewShot, SelectorFewShot, few_shot
from dspy_programs import Classify, OneStage, Recorder, knowing, make_trainset, prompt_of, right, texts
from pydantic import BaseModel

import icl_plugins
from icl_plugins import BM25, GradientMatching, Selection
from icl_plugins.errors import BudgetError, SettingError

# --- how many, which, in which order -------------------------------------------------------------------


def test_labelled_examples_are_used_without_any_lm():
    compiled = RandomFewShot(k=5).compile(OneStage(), trainset=make_trainset())
    assert len(compiled.predictor.demos) == 5
    assert all(demo in make_trainset() for demo in compiled.predictor.demos)


def test_a_bare_predictor_is_a_program():
    compiled = RandomFewShot(k=5).compile(dspy.Predict(Classify), trainset=make_trainset())
    assert len(compiled.demos) == 5 and list(compiled.selection_reports) == ["self"]


def test_demonstrations_are_those_of_the_selector_on_the_same_pool():
    recorder = Recorder()
    SelectorFewShot(recorder).compile(OneStage(), trainset=make_trainset())
    expected = BM25().select(recorder.pools[0], 4).indices
    compiled = SelectorFewShot(BM25(), k=4).compile(OneStage(), trainset=make_trainset())
    assert texts(compiled.predictor.demos) == [make_trainset()[row].text for row in expected]
    assert compiled.selection_reports["predictor"]["rows"] == list(expected)


def test_the_chosen_order_is_that_of_the_rendered_prompt():
    compiled = SelectorFewShot(Recorder(), k=6).compile(OneStage(), trainset=make_trainset())
    asked = [m["content"] for m in prompt_of(compiled, text="what?") if m["role"] == "user"][:-1]
    assert asked == [f"[[ ## text ## ]]\n{make_trainset()[row].text}" for row in range(11, 5, -1)]


def test_at_most_k_where_there_are_fewer_examples():
    assert len(RandomFewShot(k=16).compile(OneStage(), trainset=make_trainset(3)).predictor.demos) == 3


def test_a_token_budget_counts_the_rendered_demonstrations():
    from icl_plugins import Proxy

    compiled = RandomFewShot(k=None, max_tokens=200).compile(OneStage(), trainset=make_trainset(40))
    told = compiled.selection_reports["predictor"]
    shown = "".join(m["content"] + "\n\n" for m in prompt_of(compiled, text="?")[1:-1])
    assert told["shots"] == len(compiled.predictor.demos) > 1
    assert told["tokens"] <= 200
    assert abs(Proxy.load("micro").count_tokens([shown])[0] - told["tokens"]) <= 2 * told["shots"]


def test_a_budget_for_no_demonstration_at_all_is_an_error():
    with pytest.raises(BudgetError):
        RandomFewShot(k=None, max_tokens=3).compile(OneStage(), trainset=make_trainset())


def test_quotas_hold_by_the_value_of_the_output_field():
    compiled = RandomFewShot(k=6, quotas="proportional").compile(OneStage(), trainset=make_trainset())
    assert (
        sorted(demo.area for demo in compiled.predictor.demos) == ["card"] * 2 + ["phone"] * 2 + ["rate"] * 2
    )
    labels = compiled.selection_reports["predictor"]["labels"]
    assert labels["pool"] == {"card": 4, "rate": 4, "phone": 4}


def test_the_same_seed_gives_the_same_demonstrations_and_another_one_others():
    chosen = [
        texts(RandomFewShot(k=6, seed=seed).compile(OneStage(), trainset=make_trainset()).predictor.demos)
        for seed in (3, 3, 4)
    ]
    assert chosen[0] == chosen[1] != chosen[2]


def test_gradient_matching_chooses_and_reports_its_objective():
    optimizer = GradientMatchingFewShot(epochs=1, k=4, seed=1)
    compiled = optimizer.compile(OneStage(), trainset=make_trainset())
    assert optimizer.selector == GradientMatching(epochs=1, seed=1)
    assert len(set(texts(compiled.predictor.demos))) == 4
    report = compiled.selection_reports["predictor"]
    assert report["objective"]["final"] < report["objective"]["random"]


# --- one line for a new selector ------------------------------------------------------------------------


def test_every_selector_of_the_library_has_its_optimizer():
    selectors = {name for name in icl_plugins.__all__ if hasattr(getattr(icl_plugins, name), "select")}
    assert {f"{name}FewShot" for name in selectors} <= set(dspy_icl.__all__)


def test_a_selector_of_ones_own_needs_one_line():
    @dataclass(frozen=True)
    class Last:
        reach: int = 1

        def select(self, pool, shots=None, **constraints):
            rows = tuple(range(len(pool)))[-self.reach :]
            return Selection(pool, rows, (0.0,) * len(rows))

    LastFewShot = few_shot(Last)
    compiled = LastFewShot(reach=2, k=9).compile(OneStage(), trainset=make_trainset(5))
    assert texts(compiled.predictor.demos) == [example.text for example in make_trainset(5)[-2:]]


def test_the_settings_of_a_method_and_of_the_optimizer_are_told_apart_and_listed():
    listed = inspect.signature(GradientMatchingFewShot).parameters
    assert {"epochs", "proxy", "k", "metric", "seed"} <= set(listed)
    optimizer = GradientMatchingFewShot(epochs=3, k=7)
    assert (optimizer.selector.epochs, optimizer.k) == (3, 7)
    with pytest.raises(SettingError, match="no setting 'epoch_count'.*max_tokens.*epochs"):
        GradientMatchingFewShot(epoch_count=3)


@dataclass(frozen=True)
class First:
    reach: int = 1

    def select(self, pool, shots=None, **constraints):
        return Selection(pool, tuple(range(self.reach)), (0.0,) * self.reach)


FirstFewShot = few_shot(First)


@pytest.mark.parametrize("optimizer", [FirstFewShot(reach=2, k=3), RandomFewShot(k=3)], ids=["own", "ours"])
def test_optimizers_pickle_also_those_of_ones_own_selectors(optimizer):
    copied = pickle.loads(pickle.dumps(optimizer))  # noqa: S301
    assert type(copied) is type(optimizer) and copied.get_params() == optimizer.get_params()


# --- the text that decides --------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()], ids=repr)
def test_the_selector_sees_what_the_adapter_renders_and_its_loss_falls_on_the_assistants_part(adapter):
    recorder = Recorder()
    with dspy.context(adapter=adapter):
        compiled = SelectorFewShot(recorder, k=3).compile(OneStage(), trainset=make_trainset())
        prompt = [message["content"] for message in prompt_of(compiled, text="what?")]
    (pool,) = recorder.pools
    shown = [(pool.questions[row], pool.answers[row]) for row in (11, 10, 9)]
    assert prompt[1:-1] == [text for question, answer in shown for text in (question[:-2], answer)]


def test_the_label_is_the_value_of_the_output_field():
    recorder = Recorder()
    SelectorFewShot(recorder).compile(OneStage(), trainset=make_trainset(3))
    assert recorder.pools[0].labels == ("card", "rate", "phone")


def test_with_several_output_fields_the_label_is_the_answer():
    recorder = Recorder()
    trainset = [dspy.Example(text="a", area="card", urgent=True).with_inputs("text")]
    SelectorFewShot(recorder).compile(OneStage("text -> area, urgent: bool"), trainset=trainset)
    assert recorder.pools[0].labels == (recorder.pools[0].answers[0].strip(),)


@pytest.mark.parametrize(
    "text", ["{text}", "{x.__class__}", "{{ 7*7 }}", "{% if %}", "</s>", "100 %s", "{'lc': 1}"]
)
def test_text_of_the_data_stays_text(text):
    trainset = [dspy.Example(text=text, area="card").with_inputs("text")]
    compiled = RandomFewShot().compile(OneStage(), trainset=trainset)
    assert prompt_of(compiled, text="?")[1]["content"].endswith(text)


def test_typed_fields_are_rendered_in_their_types():
    class Person(BaseModel):
        name: str
        born: date

    class Extract(dspy.Signature):
        text: str = dspy.InputField()
        people: list[Person] = dspy.OutputField()
        count: int = dspy.OutputField()

    ada = Person(name="Ada {x}", born=date(1815, 12, 10))
    trainset = [dspy.Example(text="about Ada", people=[ada], count=1).with_inputs("text")]
    recorder = Recorder()
    compiled = SelectorFewShot(recorder, k=1).compile(OneStage(Extract), trainset=trainset)
    assert '"born": "1815-12-10"' in recorder.pools[0].answers[0]
    assert compiled.predictor.demos[0].people == [ada]


# --- the reasoning of ChainOfThought ----------------------------------------------------------------------


def test_chain_of_thought_without_bootstrapping_has_only_incomplete_demonstrations_in_the_chosen_order():
    compiled = SelectorFewShot(Recorder(), k=4).compile(
        dspy.ChainOfThought(Classify), trainset=make_trainset()
    )
    assert not any("reasoning" in demo for demo in compiled.predict.demos)
    answers = [m["content"] for m in prompt_of(compiled, text="?") if m["role"] == "assistant"]
    assert all("Not supplied for this particular example." in answer for answer in answers)
    assert texts(compiled.predict.demos) == [make_trainset()[row].text for row in (11, 10, 9, 8)]


def test_chain_of_thought_with_bootstrapping_has_only_complete_demonstrations_that_pass_the_metric():
    trainset = make_trainset()
    lm = knowing(trainset, reasoning="because")
    trainset[5] = trainset[5].copy(area="card")  # what the LM says is now wrong
    with dspy.context(lm=lm):
        compiled = RandomFewShot(k=16, bootstrap=True, metric=right).compile(
            dspy.ChainOfThought(Classify), trainset=trainset
        )
    demos = compiled.predict.demos
    assert len(demos) == 11 and trainset[5].text not in texts(demos)
    assert all(demo.reasoning == f"because {demo.text}" and demo.augmented for demo in demos)
    report = compiled.selection_reports["predict"]
    assert report["source"] == "runs" and list(report["rejected"]) == [5]


def test_reasoning_is_no_label():
    recorder = Recorder()
    with dspy.context(lm=knowing(make_trainset(3), reasoning="because")):
        SelectorFewShot(recorder, bootstrap=True).compile(
            dspy.ChainOfThought(Classify), trainset=make_trainset(3)
        )
    assert recorder.pools[0].labels == ("card", "rate", "phone")
