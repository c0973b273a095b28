"""States of the micro model over a program, and the engines and LMs of them, that tests of engines share."""

import dspy
from dspy_icl import AsyncDeepThinkingEngine, DeepThinkingEngine, think_program
from dspy_programs import AREAS, OneStage

from icl_plugins import DeepThinking


def make_examples(n):
    """n labelled texts that the micro model can tell apart: it copies what was said twice."""
    return [
        dspy.Example(text=f"{AREAS[i % 3]} {AREAS[i % 3]} {i}", area=AREAS[i % 3]).with_inputs("text")
        for i in range(n)
    ]


def make_program(demos=9):
    """A program of one predictor with the first examples as demonstrations."""
    program = OneStage()
    program.predictor.demos = make_examples(demos)
    return program


def make_engine(proxy, *, steps=1, demos=9, folder=None):
    """The engine of the state of make_program; saved in the folder, if any."""
    state = think_program(make_program(demos), DeepThinking(proxy, steps=steps, step_size=0.05))
    if folder is not None:
        state.save(folder)
    return DeepThinkingEngine(state, folder)


def make_lm(engine, **settings):
    """An LM of both sides of an engine, without DSPy's cache."""
    both = {"engine": engine, "async_engine": AsyncDeepThinkingEngine(engine)}
    return dspy.LM(engine.model_string, **both, **{"max_tokens": 8, "cache": False, **settings})


def ask(engine, *messages, **config):
    """The request of some texts: one user message, or messages."""
    messages = [dspy.lm15.Message.user(one) if isinstance(one, str) else one for one in messages]
    return dspy.lm15.Request(
        model=engine.model_string,
        messages=tuple(messages),
        config=dspy.lm15.Config(**{"max_tokens": 4, **config}),
    )
