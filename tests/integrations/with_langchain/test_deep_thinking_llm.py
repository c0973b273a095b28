"""DeepThinkingLLM: a text goes on behind the state."""

import copy
from dataclasses import replace

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.prompts import PromptTemplate
from langchain_icl import ChatDeepThinking, DeepThinkingLLM, as_string_prompt

from icl_plugins.errors import SettingError, TooLongError

FIELDS = [{"text": f"{'card ' * (row % 7)}{row}"} for row in range(40)]
QUESTIONS = [f"Query: {one['text']}\nIntent:" for one in FIELDS]


@pytest.fixture
def llm(state):
    return DeepThinkingLLM(state, max_tokens=9)


@pytest.mark.parametrize("made", ["question", "whole prompt"])
def test_a_chain_goes_on_behind_the_state(llm, state, made):
    question = PromptTemplate.from_template("Query: {text}\nIntent:")
    chain = (question if made == "question" else as_string_prompt(state.prompt)) | llm
    assert chain.batch(FIELDS[:4]) == state.generate(FIELDS[:4], max_new_tokens=9)


async def test_many_at_once_get_what_each_gets_alone(llm, state):
    alone = state.generate(FIELDS, max_new_tokens=9)
    assert [llm.invoke(question) for question in QUESTIONS[:4]] == alone[:4]
    assert llm.batch(QUESTIONS) == await llm.abatch(QUESTIONS) == alone
    chat = ChatDeepThinking(state, max_tokens=9)
    assert [answer.text for answer in chat.batch(QUESTIONS)] == alone


async def test_streams_joined_are_what_invoke_gives_and_callbacks_hear_them(llm):
    class Heard(BaseCallbackHandler):
        tokens = ()

        def on_llm_new_token(self, token, **others):
            self.tokens = (*self.tokens, token)

    heard, whole = Heard(), llm.invoke(QUESTIONS[0])
    assert "".join(llm.stream(QUESTIONS[0], {"callbacks": [heard]})) == whole == "".join(heard.tokens)
    assert "".join([piece async for piece in llm.astream(QUESTIONS[0])]) == whole
    assert len(heard.tokens) > 2


def test_tokens_and_ends_are_told(llm, state):
    result = llm.generate(QUESTIONS[:2])
    sent = [state.prompt.messages(one, "single") for one in FIELDS[:2]]
    read = sum(map(len, state.target.texts.tokens(sent)))
    usage = {"prompt_tokens": read, "completion_tokens": 18, "total_tokens": read + 18}
    assert result.llm_output == {"model_name": "tiny", "token_usage": usage}
    (first,), _ = result.generations
    assert first.generation_info == {"model_name": "tiny", "finish_reason": "length"}
    stopped = llm.generate(QUESTIONS[:1], stop=[first.text[2:4]]).generations[0][0]
    assert stopped.text == first.text[: first.text.index(first.text[2:4])]
    assert stopped.generation_info["finish_reason"] == "stop"
    assert llm.get_num_tokens(QUESTIONS[0]) == state.proxy.encoder.count(QUESTIONS[:1])[0]


def test_a_cache_never_mixes_states_or_stops(state, make_state):
    cache = InMemoryCache()
    settings = [{}, {"stop": []}, {"stop": ["a"]}, {"temperature": 2.0}, {"state": make_state(steps=9)}]
    llms = [DeepThinkingLLM(**{"state": state, "cache": cache, **one}) for one in settings]
    first = [llm.invoke(QUESTIONS[0]) for llm in llms]
    assert len(cache._cache) == len(llms)
    assert [llm.invoke(QUESTIONS[0]) for llm in llms] == first


def test_a_copy_shares_the_state(llm, state):
    assert copy.deepcopy(llm).state is state


def test_a_state_of_a_chat_layout_is_refused(make_state):
    with pytest.raises(SettingError, match="ChatDeepThinking"):
        DeepThinkingLLM(make_state("turns"))


def test_a_text_that_does_not_fit_is_refused(llm):
    for ask in (llm.invoke, lambda text: list(llm.stream(text))):
        with pytest.raises(TooLongError):
            ask("card " * 1200)


def test_questions_may_hold_what_looks_like_a_prompt(llm, state):
    begun = replace(state.prompt, demonstrations=state.prompt.demonstrations[:1], examples=({},))
    question = begun.prefix + QUESTIONS[0]
    whole = DeepThinkingLLM(state, max_tokens=9).invoke(state.prompt.prefix + question)
    assert llm.invoke(question) == whole
