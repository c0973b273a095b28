"""ProgramTarget: a program of DSPy as a target of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from dspy_icl.asking import answers
from icl_plugins.algorithms.checks import whole_number
from icl_plugins.artefacts import fingerprint
from icl_plugins.errors import SettingError, TargetError
from icl_plugins.evaluation.frameworks import nameless
from icl_plugins.evaluation.target import Answer, Messages, OnAnswer
from icl_plugins.prompt import Layout


@dataclass(frozen=True)
class ProgramTarget:
    """A DSPy program: its field `input_field` gets the last user message, its `output_field` is the answer.

    A program writes its own prompt. All messages before the last, and so the demonstrations and the
    instruction of a `ManyShotPrompt`, never reach it: this measures the program (with the demonstrations that
    it was compiled with), and two prompts give the same answers. The question template decides what text the
    field gets. max_tokens is that of the program's LM, since its prompt format takes tokens too.

    name: for people and the fingerprint. DSPy does not save the code of a program, so a store trusts that
    equal names are equal programs with equal LMs. concurrency: how many calls are under way.

    Raises SettingError for what is no program, an empty name, and fields that `dspy.Predict` or
    `dspy.ChainOfThought` do not have.
    """

    program: Any = field(repr=False, hash=False)
    input_field: str = field(kw_only=True)
    output_field: str = field(kw_only=True)
    name: str = field(kw_only=True)
    concurrency: int = field(default=8, kw_only=True)

    def __post_init__(self) -> None:
        """Check the settings, and name the target."""
        if not isinstance(self.program, dspy.Module):
            raise SettingError(
                f"a {type(self.program).__name__} as program",
                expected="a dspy.Module",
                fix="pass an object of it, such as dspy.Predict('text -> label')",
            )
        whole_number("concurrency", self.concurrency, 1)
        if not self.name:
            raise nameless(f"a {type(self.program).__name__}")
        if type(self.program) in (dspy.Predict, dspy.ChainOfThought):
            signature = self.program.predictors()[0].signature
            _check_field("input_field", self.input_field, signature.input_fields)
            _check_field("output_field", self.output_field, signature.output_fields)

    @property
    def layout(self) -> Layout:
        """The layout whose last message is the query alone."""
        return "turns"

    @property
    def fingerprint(self) -> str:
        """The sha256 over fields and name."""
        return fingerprint("dspy_icl.ProgramTarget", self.input_field, self.output_field, self.name)

    def generate(
        self, requests: Sequence[Messages], *, max_tokens: int, on_answer: OnAnswer | None = None
    ) -> list[Answer]:
        """Answer the last message of each list; see `Target.generate`, and `LMTarget.generate` for errors.

        Numbers and truth values become text. max_tokens is not used. Raises TargetError where no LM is in
        force and where a prediction lacks `output_field`, too.
        """
        whole_number("max_tokens", max_tokens, 1)
        if not all(predictor.lm or dspy.settings.lm for predictor in self.program.predictors()):
            fix = "call dspy.configure(lm=...), or give the program an LM with set_lm"
            raise TargetError(f"{self.name} without an LM", expected="an LM in force", fix=fix)

        def ask(messages: Messages) -> object:
            prediction = self.program(**{self.input_field: messages[-1]["content"]})
            if self.output_field not in prediction:
                return TargetError(
                    f"a prediction of {self.name} without {self.output_field!r}",
                    expected=f"one of {', '.join(prediction.keys())}",
                    fix="correct output_field",
                )
            value = prediction[self.output_field]
            return str(value) if isinstance(value, bool | int | float) else value

        return answers(self.name, ask, requests, self.concurrency, on_answer)


def _check_field(setting: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        fix = f"pass {setting}={next(iter(known))!r}"
        raise SettingError(f"{setting}={name!r}", expected=f"one of {', '.join(known)}", fix=fix)
