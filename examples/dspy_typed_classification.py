"""Typed classification in DSPy: the intent of a bank customer's question, one of a few.

    python examples/dspy_typed_classification.py                               # offline, the shipped model
    python examples/dspy_typed_classification.py --model openai/gpt-4o-mini    # any LM that DSPy knows

Ends with the accuracy of gradient-matched shots against that of random ones.
"""

from typing import Literal

import dspy
from dspy_icl import GradientMatchingFewShot, RandomFewShot
from dspy_target import accuracy, questions, report, target

INTENTS = (
    "age_limit",
    "card_arrival",
    "change_pin",
    "exchange_rate",
    "lost_or_stolen_phone",
    "top_up_failed",
)
SHOTS, TEST, SEEDS = 16, 60, range(3)


class Classify(dspy.Signature):
    """Name the intent of the customer's question."""

    text: str = dspy.InputField()
    label: Literal[INTENTS] = dspy.OutputField()


def right(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    """Say whether the intent is the labelled one."""
    return bool(prediction.label == example.label)


def main() -> None:
    """Compile with both choices, compare on questions that neither saw."""
    test, train = questions(INTENTS)[:TEST], questions(INTENTS)[TEST:]
    student = dspy.Predict(Classify)
    with target(__doc__):
        matched = GradientMatchingFewShot(k=SHOTS).compile(student, trainset=train, valset=test)
        controls = [RandomFewShot(k=SHOTS, seed=seed).compile(student, trainset=train) for seed in SEEDS]
        print(f"{SHOTS} of {len(train)} examples, {len(INTENTS)} intents")
        scores = [accuracy(control, test, right) for control in controls]
        report(accuracy(matched, test, right), scores, test)


if __name__ == "__main__":
    main()
