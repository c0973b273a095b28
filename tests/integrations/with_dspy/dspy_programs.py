"""Programs, examples and LMs that the tests of dspy_icl share."""

from typing import Literal

import dspy
from dspy.utils.dummies import DummyLM

from icl_plugins import Selection

AREAS = ("card", "rate", "phone")


def make_trainset(n=12):
    """n labelled questions of three areas, all different."""
    return [
        dspy.Example(text=f"question {i} about my {AREAS[i % 3]}", area=AREAS[i % 3]).with_inputs("text")
        for i in range(n)
    ]


def knowing(examples, **fields):
    """An LM that answers each question rightly, any order, any thread; fields: name -> text of every answer.

    It writes "No more responses", which no adapter can read, for other questions.
    """
    known = {
        e.text: {"area": e.area, **{name: f"{text} {e.text}" for name, text in fields.items()}}
        for e in examples
    }
    return DummyLM(known)


class Classify(dspy.Signature):
    """Name the area of the question."""

    text: str = dspy.InputField()
    area: Literal["card", "rate", "phone"] = dspy.OutputField()


class OneStage(dspy.Module):
    def __init__(self, signature=Classify):
        super().__init__()
        self.predictor = dspy.Predict(signature)

    def forward(self, **inputs):
        return self.predictor(**inputs)


class TwoStages(dspy.Module):
    """A topic that no trainset labels, then the area."""

    def __init__(self):
        super().__init__()
        self.topic = dspy.Predict("text -> topic")
        self.area = dspy.Predict("text, topic -> area")

    def forward(self, text):
        return self.area(text=text, topic=self.topic(text=text).topic)


def right(example, prediction, trace=None):
    """The metric: is it the labelled area?"""
    return example.area == prediction.area


class Recorder:
    """A selector that remembers the pools it chose from, and takes the last rows first."""

    def __init__(self):
        self.pools = []

    def select(self, pool, shots=None, *, max_tokens=None, quotas=None, include=(), exclude=()):
        self.pools.append(pool)
        rows = tuple(range(len(pool)))[::-1][:shots]
        return Selection(pool, rows, (0.0,) * len(rows))


def texts(demos):
    return [demo["text"] for demo in demos]


def prompt_of(program, **inputs):
    """The messages that a program with one predictor sends."""
    (predictor,) = program.predictors()
    adapter = dspy.settings.adapter or dspy.ChatAdapter()
    return adapter.format(predictor.signature, predictor.demos, inputs)
