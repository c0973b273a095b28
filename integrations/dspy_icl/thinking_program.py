"""A program's demonstrations as a prompt to think over: what it sends in front of every query."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dspy

from dspy_icl.rendering import render_demos, render_prompt
from dspy_icl.training import check_student
from icl_plugins import ContextTuning, DeepThinking, ManyShotPrompt, Template
from icl_plugins.errors import SettingError

if TYPE_CHECKING:
    from icl_plugins.thinking.kv_state import KVState

_TEMPLATE = Template(question="{question}", answer="{answer}")


def think_program(
    program: Any, thinking: DeepThinking | ContextTuning, *, predictor: str | None = None
) -> "KVState":
    """Return the state of what a program sends in front of every query: instruction and demonstrations.

    thinking: how; its layout is "turns" here, whatever it says. predictor: the name of the one to think over,
    where several have demonstrations: each sends other messages, and a state holds those of one. The adapter
    is that of ``dspy.settings``, else ChatAdapter: as the program must run it to be served from the state.

    Raises what `program_prompt` raises; SettingError for a model without a chat template; and what
    DeepThinking.fit raises.
    """
    return replace(thinking, layout="turns").fit(program_prompt(program, predictor=predictor))


def program_prompt(program: Any, *, predictor: str | None = None) -> ManyShotPrompt:
    """Return what a predictor of the program sends in front of every query, as its adapter renders it.

    Raises SettingError for what is no program, a predictor that is not there or has no demonstrations,
    several of which none is named, and an adapter that gives demonstrations no messages of their own.
    """
    check_student(program)
    chosen = _predictor(dict(program.named_predictors()), predictor)
    sent = render_prompt(chosen.signature, chosen.demos, chosen.demos[0])
    role, text = sent[0]
    shown = [text for _, text in render_demos(chosen.signature, chosen.demos)]
    pairs = tuple(zip(shown[::2], shown[1::2], strict=False))
    prompt = ManyShotPrompt(
        template=_TEMPLATE,
        demonstrations=pairs,
        examples=tuple({"question": question, "answer": answer} for question, answer in pairs),
        instruction=text if role == "system" else "",
    )
    stable = [(one["role"], one["content"]) for one in prompt.messages({"question": ""})[:-1]]
    if stable != sent[: len(stable)]:
        raise SettingError(
            f"{type(dspy.settings.adapter).__name__} writes demonstrations with other roles, or with space "
            "in front of answers",
            expected="a system message, then a user and an assistant message for each demonstration",
            fix="use dspy.ChatAdapter(), and demonstrations without a dspy.History",
        )
    return prompt


def _predictor(predictors: dict[str, Any], name: str | None) -> Any:
    shown = [one for one, predictor in predictors.items() if predictor.demos]
    chosen = shown if name is None else [one for one in shown if one == name]
    if len(chosen) != 1:
        asked = "a program" if name is None else f"predictor={name!r} of a program"
        found = ", ".join(map(repr, shown)) or "none"
        raise SettingError(
            f"{asked} with {len(shown)} predictors that have demonstrations",
            expected=f"one of them to think over: {found}",
            fix="compile the program first" if not shown else f"pass predictor={shown[0]!r}",
        )
    return predictors[chosen[0]]
