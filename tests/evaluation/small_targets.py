"""Small targets that compute their answers from the messages, and a data set for them."""

from dataclasses import dataclass, field

from icl_plugins import ManyShotPrompt, Pool, Template
from icl_plugins.artefacts import fingerprint
from icl_plugins.evaluation.target import Answer, Usage

LABELS = ("card_arrival", "exchange_rate", "lost_phone")
TEMPLATE = Template(question="Query: {text}\nIntent:", answer=" {label}")


def examples(count, start=0):
    """Texts that all differ; every third has the same label."""
    return [
        {"text": f"question number {row}", "label": LABELS[row % 3]} for row in range(start, start + count)
    ]


def pool(count, start=0, template=TEMPLATE):
    return Pool.from_records(examples(count, start), template)


def prompt(count=6, start=1000, template=TEMPLATE, instruction="Name the intent."):
    shots = pool(count, start, template)
    return ManyShotPrompt(
        template, tuple(zip(shots.questions, shots.answers, strict=True)), shots.examples, instruction
    )


def number_in(message):
    """The last number of the last message: the row of the example it asks about."""
    return int("".join(c if c.isdigit() else " " for c in message["content"]).split()[-1])


@dataclass
class Writer:
    """Writes the label of each question; `mistaken` rows get the next label, `failing` rows an error."""

    layout: str = "turns"
    mistaken: frozenset = frozenset()
    failing: frozenset = frozenset()
    name: str = "writer"
    before: object = None
    asked: list = field(default_factory=list)
    calls: list = field(default_factory=list)

    @property
    def fingerprint(self):
        return fingerprint(self.name, self.layout)

    def says(self, row):
        return LABELS[(row + (row in self.mistaken)) % 3]

    def generate(self, requests, *, max_tokens, on_answer=None):
        self.calls.append(max_tokens)
        return self._each(
            requests, lambda row, _: {"text": self.says(row)}, [None] * len(requests), on_answer
        )

    def _each(self, requests, answer, choices, on_answer):
        answers = []
        for index, (messages, own) in enumerate(zip(requests, choices, strict=True)):
            row = number_in(messages[-1])
            if self.before is not None:
                self.before(row)
            self.asked.append(row)
            given = {"error": "503 busy"} if row in self.failing else answer(row, own)
            answers.append(Answer(**given, usage=Usage(100, 2, 90, 0.25), seconds=0.5))
            if on_answer is not None:
                on_answer(index, answers[-1])
        return answers


@dataclass
class Scorer(Writer):
    """Likes the label of each question best; gives every choice a log-probability of its own."""

    name: str = "scorer"
    seen: list = field(default_factory=list)

    def score(self, requests, choices, *, on_answer=None):
        self.seen += choices
        return self._each(requests, lambda row, own: {"scores": self.scores(row, own)}, choices, on_answer)

    def scores(self, row, own):
        return tuple(-1.0 - (choice.strip() != self.says(row)) - 0.01 * len(choice) for choice in own)
