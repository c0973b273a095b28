"""Programs that run behind a state of deep thinking."""

import asyncio
import copy
import sys
import warnings
from pathlib import Path

import dspy
import pytest
from dspy_icl import DeepThinkingEngine, program_prompt, think_program
from dspy_programs import Classify, OneStage, TwoStages, right
from thinking_engines import make_engine, make_examples, make_lm, make_program

from icl_plugins import DeepThinking, Proxy
from icl_plugins.errors import SettingError
from icl_plugins.evaluation.local import LocalTarget

sys.path.append(str(Path(__file__).parents[3] / "examples"))

from plain_adapter import PlainAdapter  # noqa: E402

QUERIES = [example.text for example in make_examples(40)[10:]]


@pytest.fixture(scope="module")
def proxy():
    return Proxy.load("micro")


@pytest.fixture(autouse=True)
def plain():
    with dspy.context(adapter=PlainAdapter()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Passing OpenAI-style message", DeprecationWarning)
        yield


def prompted(program, text):
    predictor = program.predictor
    return PlainAdapter().format(predictor.signature, predictor.demos, {"text": text})


def usage_of(lm, program, text):
    with dspy.context(lm=lm), dspy.track_usage() as tracker:
        program(text=text)
    return tracker.get_total_tokens()[lm.model]


def test_a_state_read_once_answers_as_the_model_that_reads_everything(proxy):
    engine, program = make_engine(proxy), make_program()
    lm = make_lm(engine)
    with dspy.context(lm=lm):
        found = [program(text=text).area for text in QUERIES[:6]]
    plain = LocalTarget(proxy, layout="turns").generate(
        [prompted(program, text) for text in QUERIES[:6]], max_tokens=8
    )
    assert found == [answer.text.strip() for answer in plain]
    assert len(set(found)) > 1


def test_the_program_that_was_thought_over_is_served_from_the_state(proxy):
    engine, program = make_engine(proxy, steps=3), make_program()
    usage = usage_of(make_lm(engine), program, QUERIES[0])
    assert usage["prompt_tokens_details"]["cached_tokens"] == len(engine.state.ids)
    assert usage["prompt_tokens"] == len(engine.state.target.texts.tokens([prompted(program, QUERIES[0])])[0])
    assert usage["completion_tokens"] > 0


def test_thinking_changes_what_is_served(proxy):
    """Else any test of a state could be passed by the model alone."""
    query = [prompted(make_program(), QUERIES[0])]
    scores = [
        make_engine(proxy, steps=steps).state.target.score(query, [["card", "rate"]])[0].scores
        for steps in (1, 3)
    ]
    assert scores[0] != pytest.approx(scores[1], abs=1e-4)


@pytest.mark.parametrize("demos", [0, 3, 8])
def test_other_programs_are_read_in_full_and_rightly(proxy, demos):
    engine, other = make_engine(proxy, steps=3), make_program(demos)
    lm = make_lm(engine)
    with dspy.context(lm=lm):
        lm(messages=prompted(other, QUERIES[0]))
    (plain,) = LocalTarget(proxy, layout="turns").generate([prompted(other, QUERIES[0])], max_tokens=8)
    assert lm.history[-1]["outputs"] == [plain.text]
    assert lm.history[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_of_several_predictors_the_one_that_is_named_is_served(proxy):
    program = TwoStages()
    program.topic.demos = [dspy.Example(text=e.text, topic=e.area) for e in make_examples(4)]
    program.area.demos = [dspy.Example(text=e.text, topic=e.area, area=e.area) for e in make_examples(4)]
    thinking = DeepThinking(proxy, steps=2)
    with pytest.raises(SettingError, match="2 predictors .*'topic', 'area'"):
        think_program(program, thinking)
    with pytest.raises(SettingError, match="predictor='other'"):
        think_program(program, thinking, predictor="other")
    engine = DeepThinkingEngine(think_program(program, thinking, predictor="area"))
    lm = make_lm(engine)
    with dspy.context(lm=lm):
        program(text=QUERIES[0])
    cached = [entry["usage"]["prompt_tokens_details"]["cached_tokens"] for entry in lm.history]
    assert cached == [0, len(engine.state.ids)]


@pytest.mark.parametrize("adapter", [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()])
@pytest.mark.parametrize("module", [dspy.Predict, dspy.ChainOfThought])
def test_the_adapters_of_dspy_are_served_too(proxy, adapter, module):
    """Whatever micro then answers: it can write none of their formats."""
    program = module(Classify)
    (predictor,) = program.predictors()
    predictor.demos = [dspy.Example(reasoning="so.", **example) for example in make_examples(3)]
    with dspy.context(adapter=adapter):
        engine = DeepThinkingEngine(think_program(program, DeepThinking(proxy, steps=1)))
        lm = make_lm(engine)
        lm(messages=adapter.format(predictor.signature, predictor.demos, {"text": QUERIES[0]}))
    assert lm.history[-1]["usage"]["prompt_tokens_details"]["cached_tokens"] == len(engine.state.ids) > 100


def test_threads_get_what_one_by_one_gives(proxy):
    program, engine = make_program(), make_engine(proxy, steps=2)
    with dspy.context(lm=make_lm(engine)):
        expected = [program(text=text).area for text in QUERIES]
        examples = [dspy.Example(text=text).with_inputs("text") for text in QUERIES]
        parallel = dspy.Parallel(num_threads=12, disable_progress_bar=True)
        found = [prediction.area for prediction in parallel([(program, one) for one in examples])]
    assert len(QUERIES) == 30
    assert found == expected


def test_evaluate_runs_the_program_in_threads(proxy):
    devset, program = make_examples(40)[10:], make_program()
    with dspy.context(lm=make_lm(make_engine(proxy))):
        alone = sum(right(example, program(text=example.text)) for example in devset)
        result = dspy.Evaluate(devset=devset, metric=right, num_threads=8)(program)
    assert result.score == pytest.approx(100 * alone / 30, abs=0.01)
    assert 50 < result.score < 100


async def test_calls_that_are_awaited_get_the_same(proxy):
    program = make_program()
    with dspy.context(lm=make_lm(make_engine(proxy, steps=2))):
        expected = [program(text=text).area for text in QUERIES[:8]]
        found = await asyncio.gather(*(program.predictor.acall(text=text) for text in QUERIES[:8]))
    assert [prediction.area for prediction in found] == expected


async def test_dspy_streams_the_tokens_of_a_field(proxy):
    predictor = dspy.Predict(Classify)
    predictor.demos = make_program().predictor.demos
    streamed = dspy.streamify(predictor)
    with dspy.context(lm=make_lm(make_engine(proxy))):
        expected = predictor(text=QUERIES[0]).area
        chunks = [chunk async for chunk in streamed(text=QUERIES[0])]
    assert chunks[-1].area == expected
    written = [chunk.choices[0].delta["content"] or "" for chunk in chunks[:-1]]
    assert len(written) > 1
    assert "".join(written).strip() == expected


def test_answers_of_two_states_never_meet_in_the_cache(proxy):
    """DSPy's cache knows the model string and the request only."""
    query = prompted(make_program(), QUERIES[0])
    engines = [make_engine(proxy, steps=steps, demos=demos) for steps, demos in ((1, 9), (2, 9), (1, 8))]
    assert len({engine.model_string for engine in engines}) == 3
    lms = [make_lm(engine, cache=True) for engine in engines]
    for _ in range(2):
        for lm in lms:
            lm(messages=query)
    assert [[entry["response"].model for entry in lm.history] for lm in lms] == [
        [engine.model_string] * 2 for engine in engines
    ]
    assert [bool(lm.history[-1]["usage"]) for lm in lms] == [False] * 3  # from the cache


def test_equal_states_have_one_name(proxy):
    one, other = make_engine(proxy, steps=2), make_engine(proxy, steps=2)
    assert one.model_string == other.model_string
    assert one.model_string.startswith("deepthink/micro@")


def test_a_program_with_more_demonstrations_behind_those_of_the_state_is_served_from_it(proxy):
    engine = make_engine(proxy)
    usage = usage_of(make_lm(engine), make_program(10), QUERIES[0])
    assert usage["prompt_tokens_details"]["cached_tokens"] == len(engine.state.ids)


def test_copies_of_a_program_and_of_an_lm_share_the_weights(proxy):
    engine, program = make_engine(proxy), make_program()
    lm = make_lm(engine)
    program.set_lm(lm)
    holder = OneStage()
    holder.lm = lm  # what reset_copy does not reset
    copies = (program.deepcopy().predictor.lm, holder.reset_copy().lm, lm.copy(temperature=0.5))
    for copied in (*copies, copy.copy(lm), copy.deepcopy(lm)):
        assert copied is not lm
        assert copied.engine is engine
        assert copied._async_engine_spec.engine is engine
    assert copy.copy(engine) is engine


def test_a_program_without_demonstrations_has_nothing_to_think_over():
    with pytest.raises(SettingError, match="0 predictors .* compile the program"):
        program_prompt(OneStage())
    with pytest.raises(SettingError, match="student of type str"):
        program_prompt("text -> area")


class Shouting(PlainAdapter):
    """Puts a line break in front of answers."""

    def format_assistant_message_content(self, signature, outputs, missing_field_message=None):
        return "\n" + super().format_assistant_message_content(signature, outputs, missing_field_message)


def test_demonstrations_that_a_prompt_cannot_hold_as_they_are_sent_are_refused():
    with dspy.context(adapter=Shouting()), pytest.raises(SettingError, match="Shouting"):
        program_prompt(make_program())


def test_a_prompt_holds_what_the_program_sends():
    prompt = program_prompt(make_program(3))
    sent = prompted(make_program(3), QUERIES[0])
    assert prompt.messages({"question": sent[-1]["content"]}) == sent


def test_models_and_states_of_plain_text_are_refused(make_model, tokenizer):
    proxy = Proxy.from_model(make_model(), tokenizer)
    with pytest.raises(SettingError, match="chat template"):
        think_program(make_program(1), DeepThinking(proxy, steps=1))
    with pytest.raises(SettingError, match="think_program"):
        DeepThinkingEngine(DeepThinking("micro", steps=1).fit(program_prompt(make_program(1))))
