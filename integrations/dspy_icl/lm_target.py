"""LMTarget: an LM of DSPy as a target of an evaluation."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from dspy_icl.asking import answers
from icl_plugins.algorithms.checks import whole_number
from icl_plugins.artefacts import canonical_json, fingerprint
from icl_plugins.errors import IclError, SettingError
from icl_plugins.evaluation.frameworks import nameless, without_secrets
from icl_plugins.evaluation.target import Answer, Messages, OnAnswer
from icl_plugins.prompt import Layout


@dataclass(frozen=True)
class LMTarget:
    """A `dspy.LM`: reads the messages as they are, with no adapter and no signature in between.

    name: for people; by default that of the model. The fingerprint is of the LM's state as DSPy saves it,
    without keys and headers, and of the server that environment variables name where the state names none.
    For any other class of LM, and for engines that cannot be saved, a name must be given and is the
    fingerprint: a store then trusts that equal names are equal models. concurrency: how many calls are under
    way; retries, time-outs, keys and DSPy's own cache are the LM's.

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
            raise nameless("an LM whose settings DSPy cannot save")
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

        return answers(self.name, ask, requests, self.concurrency, on_answer)


def _lm_settings(lm: Any) -> str | None:
    """Return the state of a dspy.LM as JSON without secrets, None where it is not all of it."""
    if type(lm) is not dspy.LM:
        return None
    try:
        state = lm.dump_state()
        if not state.get("api_base") and not state.get("base_url"):
            provider = lm.model.partition("/")[0].upper()  # by whose variables DSPy finds the server
            state["server"] = [os.environ.get(f"{provider}_{name}") for name in ("API_BASE", "BASE_URL")]
        return canonical_json(without_secrets(state))
    except (IclError, TypeError):
        return None
