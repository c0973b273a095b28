"""A two-stage program in DSPy: first the area of a bank customer's question, then, knowing it, the intent.

    python examples/dspy_two_stage.py                               # offline, the shipped model
    python examples/dspy_two_stage.py --model openai/gpt-4o-mini    # any LM that DSPy knows

Twelve questions are labelled with both, all others with the intent only. A teacher that knows the twelve
answers the others; where its intent is right, its area is taken for right too. Of these answers each stage
gets demonstrations of its own. Ends with the accuracy of gradient-matched shots against random ones.
"""

import dspy
from dspy_icl import GradientMatchingFewShot, RandomFewShot
from dspy_target import accuracy, questions, report, target

AREAS = {
    "age_limit": "account",
    "change_pin": "card",
    "exchange_rate": "money",
    "lost_or_stolen_phone": "account",
    "card_arrival": "card",
    "top_up_failed": "money",
}
INTENTS = tuple(AREAS)
SHOTS, TEST, SEEDS = 12, 40, range(3)


class Triage(dspy.Module):
    """Area, then intent."""

    def __init__(self) -> None:
        area, label = "Literal['account', 'card', 'money']", f"Literal[{', '.join(map(repr, INTENTS))}]"
        first = dspy.Signature(f"text -> area: {area}", "Name the area of the question.")
        second = dspy.Signature(f"text, area: {area} -> label: {label}", "Name the intent of the question.")
        self.area, self.intent = dspy.Predict(first), dspy.Predict(second)

    def forward(self, text: str) -> dspy.Prediction:
        """Ask both stages."""
        return self.intent(text=text, area=self.area(text=text).area)


def two_of_each(train: list[dspy.Example]) -> list[dspy.Example]:
    """Two questions of each intent, labelled with the area too."""
    of_intent = [[e for e in train if e.label == intent][:2] for intent in INTENTS]
    return [e.copy(area=AREAS[e.label]) for pair in zip(*of_intent, strict=True) for e in pair]


def right(example: dspy.Example, prediction: dspy.Prediction, trace: object = None) -> bool:
    """Say whether the intent is the labelled one."""
    return bool(prediction.label == example.label)


def main() -> None:
    """Teach, compile with both choices, compare on questions that nobody saw."""
    test, train = questions(INTENTS)[:TEST], questions(INTENTS)[TEST:]
    known = {"metric": right, "max_errors": len(train) + 1, "k": SHOTS}
    with target(__doc__):
        teacher = RandomFewShot(k=SHOTS).compile(Triage(), trainset=two_of_each(train))

        def compiled(optimizer: dspy.teleprompt.Teleprompter) -> dspy.Module:
            return optimizer.compile(Triage(), teacher=teacher, trainset=train)

        matched = compiled(GradientMatchingFewShot(**known))
        controls = [compiled(RandomFewShot(**known, seed=seed)) for seed in SEEDS]
        for stage, chosen in matched.selection_reports.items():
            print(f"{stage}: {chosen['rows']} of {chosen['pool_size']} right answers of the teacher")
        scores = [accuracy(control, test, right) for control in controls]
        report(accuracy(matched, test, right), scores, test)


if __name__ == "__main__":
    main()
