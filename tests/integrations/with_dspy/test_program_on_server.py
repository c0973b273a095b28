"""End to end: a DSPy program against a real OpenAI-compatible server, no network."""

import sys
from pathlib import Path

import dspy
import pytest
from dspy_icl import BM25FewShot, RandomFewShot
from dspy_programs import TwoStages, make_trainset

sys.path.append(str(Path(__file__).parents[3] / "examples"))

from plain_adapter import PlainAdapter  # noqa: E402


@pytest.fixture
def lm(server):
    return dspy.LM(
        f"openai/{server.model}",
        api_base=server.base_url,
        api_key="none",
        temperature=0.0,
        max_tokens=16,
        cache=False,
    )


def test_a_compiled_program_is_answered_by_the_server_with_its_demonstrations(lm):
    trainset = make_trainset(12)
    compiled = RandomFewShot(k=6, seed=1).compile(dspy.Predict("text -> area"), trainset=trainset)
    with dspy.context(lm=lm, adapter=PlainAdapter()):
        prediction = compiled(text="question 99 about my card")
    assert isinstance(prediction.area, str)
    (call,) = lm.history
    contents = [message["content"] for message in call["messages"]]
    assert contents[1:-1] == [text for d in compiled.demos for text in (f"text: {d.text}\narea:", d.area)]
    assert contents[-1] == "text: question 99 about my card\narea:"
    assert call["usage"]["prompt_tokens"] > 60


def test_the_server_copies_the_label_that_every_demonstration_has(lm):
    trainset = [example.copy(area="phone") for example in make_trainset(8)]
    compiled = BM25FewShot(k=8).compile(dspy.Predict("text -> area"), trainset=trainset)
    with dspy.context(lm=lm, adapter=PlainAdapter()):
        assert compiled(text="question 3 about my phone").area == "phone"


def test_two_stages_are_bootstrapped_on_the_server(lm):
    trainset = make_trainset(4)
    with dspy.context(lm=lm, adapter=PlainAdapter(), num_threads=1):
        optimizer = RandomFewShot(k=2, metric=lambda *_: True)  # whatever it answers
        compiled = optimizer.compile(TwoStages(), trainset=trainset)
    assert len(compiled.topic.demos) == len(compiled.area.demos) == 2
    assert {demo.text for demo in compiled.topic.demos} <= {example.text for example in trainset}


def test_answers_in_no_format_are_failures_that_an_evaluation_counts_as_wrong(lm):
    examples = make_trainset(2)
    lm = lm.copy(max_tokens=1)  # no format fits into that
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False), num_threads=1):
        evaluate = dspy.Evaluate(devset=examples, metric=lambda *_: 1.0, max_errors=9)
        result = evaluate(RandomFewShot(k=2).compile(dspy.Predict("text -> area"), trainset=make_trainset(6)))
    assert result.score == 0.0 and len(result.results) == 2
