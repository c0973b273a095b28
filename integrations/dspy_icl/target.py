"""LMTarget and ProgramTarget: an LM of DSPy, or a program, as a target of an evaluation."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.utils.exceptions import LMAuthError, LMBillingError, LMConfigurationError, LMUnsupportedModelError

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.artefacts import canonical_json, fingerprint
from icl_plugins.errors import DataError, SettingError, TargetError
from icl_plugins.evaluation.target import Answer, Messages, OnAnswer, Usage
from icl_plugins.prompt import Layout
from icl_plugins.values import checked_text

_LEFT_OUT = re.compile(  # secrets, and what no answer depends on
    "api_?key|secret|password|authorization|credential|headers|token_provider|retries|timeout|^cache$", re.I
)
_FOR_ALL = (LMAuthError, LMBillingError, LMConfigurationError, LMUnsupportedModelError)
_NOT_THERE = ("ConnectError", "ConnectTimeout", "ConnectionRefusedError")


@dataclass(frozen=True)
class LMTarget:
    """A `dspy.LM`: reads the messages as they are, with no adapter and no signature in between.

    name: for people; by default that of the model. The fingerprint is of the LM's state as DSPy saves it,
    without keys and headers. For any other class of LM, and for engines that cannot be saved, a name must be
    given and is the fingerprint: a store then trusts that equal names are equal models. concurrency: how many
    calls are under way; retries, time-outs, keys and DSPy's own cache are the LM's.

    Raises SettingError for what is no LM and for a missing name.
    """

    lm: Any = field(repr=False, hash=False)
    name: str = ""
    layout: Layout = "turns"
    concurrency: int = 8

    def __post_init__(self) -> None:
        """Check the settings, and name the target."""
        if not isinstance(self.lm, dspy.BaseLM):
            raise SettingError(
                f"a {type(self.lm).__name__} as lm", expected="a dspy.LM", fix='pass dspy.LM("openai/...")'
            )
        whole_number("concurrency", self.concurrency, 1)
        if not self.name and _lm_settings(self.lm) is None:
            raise _nameless("an LM whose settings DSPy cannot save")
        object.__setattr__(self, "name", self.name or self.lm.model)

    @property
    def fingerprint(self) -> str:
        """The sha256 over layout and settings, or over layout and name where the settings are not known."""
        known = _lm_settings(self.lm) or f"name: {self.name}"
        return fingerprint("dspy_icl.LMTarget", self.layout, known)

    def generate(
        self, requests: Sequence[Messages], *, max_tokens: int, on_answer: OnAnswer | None = None
    ) -> list[Answer]:
        """Answer each message list; see `Target.generate`.

        An empty text is an error, since DSPy does not say why it is empty. Errors are told by their type
        only, since their words may quote data or keys. An interrupt waits for the calls that are under way.

        Raises TargetError for a wrong key, an unknown model, and a server that is not there.
        """
        whole_number("max_tokens", max_tokens, 1)
        newer = "max_completion_tokens"
        limit = {newer if newer in self.lm.kwargs else "max_tokens": max_tokens}

        def ask(messages: Messages) -> object:
            output = self.lm(messages=[dict(message) for message in messages], **limit)[0]
            return output.get("text") if isinstance(output, Mapping) else output

        return _answers(self.name, ask, requests, self.concurrency, on_answer)


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
            raise _nameless(f"a {type(self.program).__name__}")
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

        return _answers(self.name, ask, requests, self.concurrency, on_answer)


def _answers(
    name: str,
    ask: Callable[[Messages], object],
    requests: Sequence[Messages],
    concurrency: int,
    on_answer: OnAnswer | None,
) -> list[Answer]:
    """Ask in threads, each with the DSPy settings of this one; raises TargetError for what fails for all."""
    answers: dict[int, Answer] = {}
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="dspy_icl")
    try:
        futures = {
            pool.submit(copy_context().run, _answer, name, ask, messages): index
            for index, messages in enumerate(requests)
        }
        for future in as_completed(futures):
            answer = future.result()
            if isinstance(answer, TargetError):
                raise answer
            answers[futures[future]] = answer
            if on_answer:
                on_answer(futures[future], answer)
    finally:
        pool.shutdown(cancel_futures=True)
    return [answers[index] for index in range(len(requests))]


def _answer(name: str, ask: Callable[[Messages], object], messages: Messages) -> Answer | TargetError:
    start = time.perf_counter()
    with dspy.track_usage() as tracker:
        try:
            text, error = _text(ask(messages))
        except Exception as failure:  # whatever one request meets must not end the others
            text, error = None, _told(name, failure)
    if isinstance(error, TargetError):
        return error
    usage = _usage(tracker.get_total_tokens())
    return Answer(text=text, error=error, usage=usage, seconds=time.perf_counter() - start)


def _text(output: object) -> tuple[str | None, str | TargetError | None]:
    """Return (text, None) or (None, what is wrong)."""
    if isinstance(output, TargetError):
        return None, output
    if not isinstance(output, str):
        return None, "no text" if output is None else f"output of type {type(output).__name__}, not text"
    try:
        return (checked_text(output, "the answer"), None) if output else (None, "no text")
    except DataError:
        return None, "text with lone surrogates"


def _told(name: str, failure: Exception) -> str | TargetError:
    status = getattr(failure, "status", None)
    said = type(failure).__name__ + (f", status {status}" if isinstance(status, int) else "")
    there = not any(type(cause).__name__ in _NOT_THERE for cause in _causes(failure))
    if there and not isinstance(failure, _FOR_ALL):
        return said
    return TargetError(
        f"{name}: {said}",
        expected="a server that answers, a key that it takes and a model that it has",
        fix="start the server, or correct key, api_base and model of the LM",
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    return [] if error is None else [error, *_causes(error.__cause__)]


def _usage(counts: Mapping[str, Mapping[str, Any]]) -> Usage | None:
    """Sum over models; None where one did not count, or nothing was asked because DSPy's cache had it."""
    details = [count.get("prompt_tokens_details") or {} for count in counts.values()]
    try:
        prompt, made = (
            sum(c[f"{part}_tokens"] for c in counts.values()) for part in ("prompt", "completion")
        )
        cached = sum(detail.get("cached_tokens") or 0 for detail in details)
    except (KeyError, TypeError, AttributeError):
        return None
    return Usage(prompt, made, cached) if counts else None


def _lm_settings(lm: Any) -> str | None:
    """Return the state of a dspy.LM as JSON without secrets, None where it is not all of it."""
    if type(lm) is not dspy.LM:
        return None
    try:
        return canonical_json(_left(lm.dump_state()))
    except (DataError, TypeError):
        return None


def _left(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {name: _left(value) for name, value in state.items() if not _LEFT_OUT.search(name)}
    return [_left(value) for value in state] if isinstance(state, list | tuple) else state


def _check_field(setting: str, name: str, known: Mapping[str, Any]) -> None:
    if name not in known:
        fix = f"pass {setting}={next(iter(known))!r}"
        raise SettingError(f"{setting}={name!r}", expected=f"one of {', '.join(known)}", fix=fix)


def _nameless(what: str) -> SettingError:
    return SettingError(
        f"{what}, without a name",
        expected="a name that changes whenever the model or a setting does",
        fix='pass name="...", by which stored answers are found again',
    )
