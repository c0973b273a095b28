"""States in folders behind models of LangChain: weights that are there once, and models not found."""

import gc
import pickle
from weakref import WeakSet, ref

import pytest
from langchain_icl import ChatDeepThinking, DeepThinkingLLM

from icl_plugins import DeepThinking, Proxy
from icl_plugins.errors import ProxyError
from icl_plugins.thinking import living

QUESTION = "Query: my card\nIntent:"


@pytest.fixture(autouse=True)
def nothing_in_memory(monkeypatch):
    """Forget the models of other tests."""
    monkeypatch.setattr(living, "_live", type(living._live)())


@pytest.fixture
def save(shots, tmp_path):
    """Save a state of the shipped model in a folder of some name."""

    def save(name, model="micro", steps=1):
        DeepThinking(model, steps=steps).fit(shots).save(tmp_path / name)
        return tmp_path / name

    return save


def again(model):
    return pickle.loads(pickle.dumps(model))  # noqa: S301


def test_weights_are_in_memory_once_whatever_is_unpickled(save):
    one, other = save("one"), save("other", steps=2)
    chat = ChatDeepThinking(one, max_tokens=4)
    proxies = [again(chat).state.proxy, ChatDeepThinking(one).state.proxy, DeepThinkingLLM(other).state.proxy]
    assert all(proxy is chat.state.proxy for proxy in proxies)
    assert again(chat).invoke(QUESTION).text == chat.invoke(QUESTION).text


def test_a_model_that_was_given_is_found_again(save, state, tmp_path):
    state.save(tmp_path)
    for chat in (
        ChatDeepThinking(tmp_path, model=state.proxy),
        ChatDeepThinking(save("of micro"), model="micro"),
    ):
        assert again(chat).state.proxy is chat.state.proxy


def test_weights_go_with_the_last_model_that_uses_them(save):
    folder = save("state")
    chat = ChatDeepThinking(folder)
    proxy = ref(chat.state.proxy)
    data = pickle.dumps(chat)
    del chat
    gc.collect()
    assert proxy() is None
    assert pickle.loads(data).state.proxy.name == "micro"  # noqa: S301


def test_another_model_of_the_same_name_is_not_taken_for_it(save, state, monkeypatch):
    chat = ChatDeepThinking(state)
    monkeypatch.setattr(state.proxy, "name", "micro")
    assert ChatDeepThinking(save("state")).state.proxy is not chat.state.proxy


def test_a_state_of_a_lower_precision_is_loaded_in_it(save):
    folder = save("state", Proxy.load("micro", dtype="bfloat16"))
    chat = ChatDeepThinking(folder, max_tokens=4)
    assert str(chat.state.proxy.dtype) == "torch.bfloat16"
    full = ChatDeepThinking(save("full"))
    assert str(full.state.proxy.dtype) == "torch.float32"
    assert again(chat).state.proxy is chat.state.proxy


def test_a_model_that_was_made_in_memory_is_asked_for_and_not_looked_for(state, tmp_path, monkeypatch):
    state.save(tmp_path)
    data = pickle.dumps(ChatDeepThinking(tmp_path, model=state.proxy))
    monkeypatch.setattr(living, "_live", WeakSet())
    monkeypatch.setattr("icl_plugins.proxy.model.load_checkpoint", lambda *_: pytest.fail("looked for"))
    for load in (lambda: ChatDeepThinking(tmp_path), lambda: pickle.loads(data)):  # noqa: S301
        with pytest.raises(ProxyError, match="'tiny'.*pass model=.*the Proxy of a model that is in memory"):
            load()
    assert ChatDeepThinking(tmp_path, model=state.proxy).state.proxy is state.proxy


def test_a_model_whose_folder_was_moved_is_asked_for(save, make_model, tokenizer, tmp_path):
    make_model(max_position_embeddings=1024).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    folder = save("state", str(tmp_path / "model"))
    gc.collect()
    (tmp_path / "model").rename(tmp_path / "moved")
    with pytest.raises(ProxyError, match="no folder .*the folder to which it was moved"):
        ChatDeepThinking(folder)
    chat = ChatDeepThinking(folder, model=tmp_path / "moved")
    assert again(chat).state.proxy is chat.state.proxy
