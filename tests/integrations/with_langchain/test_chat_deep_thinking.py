"""ChatDeepThinking: what it answers is what the state writes, however it is asked."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.messages import HumanMessage, SystemMessage, trim_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_icl import ChatDeepThinking, RunnableTarget, as_chat_prompt

from icl_plugins.errors import DataError, IclError, SettingError, TooLongError

FIELDS = [{"text": text} for text in ("my card", "the exchange rate today", "what now?", "{braces}")]
QUESTIONS = [f"Query: {one['text']}\nIntent:" for one in FIELDS]


@pytest.fixture
def chat(state):
    return ChatDeepThinking(state, max_tokens=9)


@pytest.fixture
def folder(chat, tmp_path):
    """The state in a folder, whose model is in memory behind `chat`."""
    chat.state.save(tmp_path / "state")
    return tmp_path / "state"


def joined(chunks):
    first, *others = chunks
    return sum(others, start=first)


def known(message):
    return message.content, message.usage_metadata, message.response_metadata


def test_a_chain_asks_the_question_behind_the_state(chat, state):
    chain = ChatPromptTemplate([("human", "Query: {text}\nIntent:")]) | chat | StrOutputParser()
    assert chain.batch(FIELDS) == state.generate(FIELDS, max_new_tokens=9)


@pytest.mark.parametrize("layout", ["single", "turns", "json"])
def test_a_chain_with_the_prompt_itself_answers_as_the_state_of_each_layout_does(make_state, shots, layout):
    state = make_state(layout)
    chain = as_chat_prompt(shots) | ChatDeepThinking(state, max_tokens=9)
    answers = chain.batch(FIELDS)
    assert [answer.text for answer in answers] == state.generate(FIELDS, max_new_tokens=9)
    for answer in answers:
        assert answer.usage_metadata["input_token_details"] == {"cache_read": len(state.ids)}


def test_it_is_a_target_of_an_evaluation(chat, state):
    requests = [state.prompt.messages(one) for one in FIELDS]
    answers = RunnableTarget(chat, "behind a state").generate(requests, max_tokens=5)
    assert [answer.text for answer in answers] == state.generate(FIELDS, max_new_tokens=5)
    assert {answer.usage.cached_tokens for answer in answers} == {len(state.ids)}


async def test_streams_joined_are_what_invoke_gives(chat):
    for settings in ({}, {"temperature": 1.5}, {"stop": ["a"]}, {"max_tokens": 1}):
        whole = chat.invoke(QUESTIONS[0], **settings)
        assert known(joined(chat.stream(QUESTIONS[0], **settings))) == known(whole)
        assert known(await chat.ainvoke(QUESTIONS[0], **settings)) == known(whole)
        chunks = [chunk async for chunk in chat.astream(QUESTIONS[0], **settings)]
        assert known(joined(chunks)) == known(whole)
    assert len([chunk for chunk in chat.stream(QUESTIONS[0]) if chunk.content]) > 1


async def test_many_threads_get_what_each_question_gets_alone(chat):
    questions = [f"Query: {'card ' * (row % 7)}{row}\nIntent:" for row in range(40)]
    alone = [known(chat.invoke(question)) for question in questions]
    assert [known(one) for one in chat.batch(questions, {"max_concurrency": 40})] == alone
    assert [known(one) for one in await chat.abatch(questions)] == alone
    with ThreadPoolExecutor(8) as threads:
        streams = threads.map(lambda question: known(joined(chat.stream(question))), questions[:8])
        assert list(streams) == alone[:8]


def test_a_stream_that_is_closed_early_leaves_the_model_to_the_next(chat):
    expected = known(chat.invoke(QUESTIONS[0]))
    stream = chat.stream(QUESTIONS[1])
    next(stream)
    stream.close()
    assert known(chat.invoke(QUESTIONS[0])) == expected


def test_stop_texts_end_an_answer_and_never_show(chat, state):
    whole = chat.invoke(QUESTIONS[0], stop=[]).text
    stop = whole[3:5]
    model = ChatDeepThinking(state, max_tokens=9, stop=[stop])
    for ended in (model, chat.bind(stop=[stop])):
        answer = ended.invoke(QUESTIONS[0])
        assert answer.text == whole[: whole.index(stop)]
        assert answer.response_metadata["finish_reason"] == "stop"
        assert all(stop[0] not in chunk.text[-1:] for chunk in ended.stream(QUESTIONS[0]))
    assert model.invoke(QUESTIONS[0], stop=[]).text == whole  # those of a call stand in their place
    assert chat.invoke(QUESTIONS[0]).response_metadata["finish_reason"] == "length"


def test_temperature_draws_with_the_seed_and_zero_takes_the_likeliest(chat):
    likeliest = chat.invoke(QUESTIONS[0]).text
    assert chat.invoke(QUESTIONS[0], temperature=0).text == likeliest
    drawn = [chat.invoke(QUESTIONS[0], temperature=5.0, seed=seed).text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] and len({*drawn, likeliest}) == 3
    narrow = ChatDeepThinking(chat.state, max_tokens=9, temperature=5.0, model_kwargs={"top_k": 1})
    assert narrow.invoke(QUESTIONS[0]).text == likeliest


class Heard(BaseCallbackHandler):
    def __init__(self):
        self.tokens, self.results = [], []

    def on_llm_new_token(self, token, **others):
        self.tokens.append(token)

    def on_llm_end(self, response, **others):
        self.results.append(response.generations[0][0].text)


def test_callbacks_hear_each_piece_and_the_end(chat):
    heard = Heard()
    chunks = [chunk.text for chunk in chat.stream(QUESTIONS[0], {"callbacks": [heard]})]
    assert heard.tokens == chunks and heard.results == ["".join(chunks)]
    streaming, again = ChatDeepThinking(chat.state, max_tokens=9, streaming=True), Heard()
    assert streaming.invoke(QUESTIONS[0], {"callbacks": [again]}).text == again.results[0]
    assert again.tokens == heard.tokens


def models(state, make_state):
    """Models of which any two may answer differently."""
    settings = [{}, {"stop": []}, {"stop": ["a"]}, {"max_tokens": 3}, {"temperature": 2.0}]
    settings += [{"temperature": 2.0, "seed": 1}, {"model_kwargs": {"repetition_penalty": 1.5}}]
    both = ({"state": make_state(steps=9)}, *settings)
    return [ChatDeepThinking(**{"state": state, "max_tokens": 9, **one}) for one in both]


def test_caches_never_mix_states_or_settings(state, make_state):
    try:
        set_llm_cache(cache := InMemoryCache())
        answers = [model.invoke(QUESTIONS[0]).text for model in models(state, make_state)]
        assert len(cache._cache) == len(answers)
        again = [model.invoke(QUESTIONS[0]) for model in models(state, make_state)]
        assert [answer.text for answer in again] == answers
        assert all("total_cost" in answer.usage_metadata for answer in again)  # they came from the cache
    finally:
        set_llm_cache(None)
    for one, other in combinations(models(state, make_state), 2):
        assert one._identifying_params != other._identifying_params


def test_a_cache_of_two_models_gives_each_its_own_answer(state, make_state):
    cache = InMemoryCache()
    both = [ChatDeepThinking(one, cache=cache, max_tokens=30) for one in (state, make_state(steps=9))]
    first = [model.invoke(QUESTIONS[2]).text for model in both]
    assert first[0] != first[1]
    assert [model.invoke(QUESTIONS[2]).text for model in both] == first


def test_tokens_are_counted_by_the_models_own_tokenizer(chat, state):
    assert state.proxy.tokenizer.decode(chat.get_token_ids(QUESTIONS[1])) == QUESTIONS[1]
    messages = [HumanMessage(QUESTIONS[0])]
    counted = chat.get_num_tokens_from_messages(messages)
    assert counted == chat.invoke(messages).usage_metadata["input_tokens"]
    long = [HumanMessage("card " * 400)] * 9
    assert chat.get_num_tokens_from_messages(long) > state.proxy.max_length
    assert trim_messages([*long, *messages], max_tokens=counted, token_counter=chat) == messages
    with pytest.raises(SettingError, match="tools"):
        chat.get_num_tokens_from_messages(messages, tools=[{"name": "search"}])


def test_copies_share_the_state_and_have_settings_of_their_own(chat, state):
    answer = known(chat.invoke(QUESTIONS[0]))
    for copied in (copy.deepcopy(chat), copy.copy(chat), chat.model_copy()):
        assert copied.state is state and known(copied.invoke(QUESTIONS[0])) == answer
    deep = copy.deepcopy(chat)
    deep.model_kwargs["top_k"] = 1
    assert not chat.model_kwargs


def test_a_copy_with_another_state_answers_from_it(state, make_state):
    chat, other = ChatDeepThinking(state, max_tokens=30), make_state(steps=9)
    chat.invoke(QUESTIONS[0])
    copied = chat.model_copy(update={"state": other})
    answers = [model.invoke(QUESTIONS[2]).text for model in (chat, copied, copied.model_copy())]
    assert answers[1:] == other.generate(FIELDS[2:3], max_new_tokens=30) * 2 and answers[0] != answers[1]


def test_a_state_is_read_from_its_folder_and_from_there_again_after_a_pickle(folder, chat):
    model = ChatDeepThinking(folder, max_tokens=9, tags=["mine"])
    again = pickle.loads(pickle.dumps(model))  # noqa: S301
    assert again.state.fingerprint == chat.state.fingerprint and again.tags == ["mine"]
    assert known(again.invoke(QUESTIONS[0])) == known(chat.invoke(QUESTIONS[0]))
    assert len(pickle.dumps(model)) < 2000


def test_a_state_in_memory_or_changed_on_disk_is_not_pickled(chat, folder, make_state):
    model = ChatDeepThinking(folder)
    make_state(steps=9).save(folder)
    for unsaved in (chat, model):
        with pytest.raises(SettingError, match=r"state\.save\(folder\)"):
            pickle.dumps(unsaved)


def test_it_takes_what_all_chat_models_take_and_keeps_no_key(folder, state):
    names = {"timeout": 60, "max_retries": 2, "api_key": "sk-MARKER", "streaming": False, "stop": []}
    model = ChatDeepThinking(state=folder, model=state.proxy, temperature=0, max_tokens=100, **names)
    told = [
        repr(model),
        str(model._identifying_params),
        str(vars(model)),
        pickle.dumps(model).decode("latin-1"),
    ]
    assert not any("MARKER" in text for text in told)
    assert model._get_ls_params(stop=["x"])["ls_stop"] == ["x"]
    assert ChatDeepThinking(state, stop=["y"])._get_ls_params()["ls_stop"] == ["y"]


@pytest.mark.parametrize(
    "settings",
    [
        *({"state": "no/such/folder"}, {"state": None}, {"model": "micro"}, {"temprature": 1}),
        *({"temperature": -1}, {"max_tokens": 0}, {"stop": [""]}, {"seed": -1}),
        *({"model_kwargs": {"max_length": 9}}, {"model_kwargs": {"top_p": 0.5}}),
        {"model_kwargs": {"stop": ["a"]}},
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(state, settings):
    with pytest.raises(IclError):
        ChatDeepThinking(**{"state": state, **settings})


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"model": "micro"}, SettingError),
        ({"tools": [{"name": "search"}]}, SettingError),
        ({"logits_processor": []}, SettingError),
        ({"num_return_sequences": 2, "temperature": 1}, SettingError),
        ({"max_tokens": 5000}, TooLongError),
        ({"temperature": "hot"}, SettingError),
        ({"seed": -1}, SettingError),
    ],
)
def test_calls_that_cannot_be_are_refused_whole_or_streamed(chat, given, error):
    with pytest.raises(error):
        chat.invoke(QUESTIONS[0], **given)
    with pytest.raises(error):
        list(chat.stream(QUESTIONS[0], **given))
    assert chat.invoke(QUESTIONS[0]).text


def test_questions_that_the_state_cannot_stand_in_front_of_are_refused(chat, state, make_state):
    turns = ChatDeepThinking(make_state("turns"))
    with pytest.raises(DataError, match="system"):
        turns.invoke([SystemMessage("Be brief."), HumanMessage(QUESTIONS[0])])
    with pytest.raises(DataError, match="image"):
        chat.invoke([HumanMessage([{"type": "image", "url": "http://x"}])])
    close = replace(state.prompt, template=replace(state.prompt.template, separator=" "))
    joined_to_it = ChatDeepThinking(make_state(prompt=close))
    for ask in (joined_to_it.invoke, lambda text: list(joined_to_it.stream(text))):
        with pytest.raises(DataError, match="changes the tokens in front"):
            ask("card")
    assert joined_to_it.invoke(QUESTIONS[0]).usage_metadata["input_token_details"]["cache_read"]
