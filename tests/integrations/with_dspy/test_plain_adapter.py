"""The adapter of the examples: demonstrations and query look the same, answers come back in their types."""

import sys
from pathlib import Path

import dspy
import pytest
from dspy.utils.exceptions import AdapterParseError
from dspy_icl import RandomFewShot, render_demos
from dspy_programs import Classify, make_trainset

sys.path.append(str(Path(__file__).parents[3] / "examples"))

from plain_adapter import PlainAdapter  # noqa: E402


def test_demonstrations_look_like_the_query():
    with dspy.context(adapter=PlainAdapter()):
        compiled = RandomFewShot(k=1).compile(dspy.Predict(Classify), trainset=make_trainset(1))
        assert render_demos(Classify, compiled.demos) == [
            ("user", "text: question 0 about my card\narea:"),
            ("assistant", "card"),
        ]
        prompt = PlainAdapter().format(Classify, compiled.demos, {"text": "what?"})
    assert prompt[0] == {"role": "system", "content": "Name the area of the question."}
    assert prompt[-1] == {"role": "user", "content": "text: what?\narea:"}


def test_what_it_writes_it_reads_in_its_types():
    signature = dspy.Signature("text -> area: Literal['card', 'rate'], count: int, urgent: bool")
    outputs = {"area": "card", "count": 3, "urgent": True}
    adapter = PlainAdapter()
    assert (
        adapter.parse(signature, " " + adapter.format_assistant_message_content(signature, outputs))
        == outputs
    )


@pytest.mark.parametrize("completion", ["", "\n", "bicycle", "Card"])
def test_what_is_no_label_is_a_parse_error(completion):
    with pytest.raises(AdapterParseError):
        PlainAdapter().parse(Classify, completion)
