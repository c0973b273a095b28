"""The server of a state: many threads, one batch, and nothing mixed up."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from thinking_tools import make_prompt, queries

from icl_plugins import DeepThinking
from icl_plugins.errors import SettingError, TooLongError
from icl_plugins.proxy.locking import lock_of
from icl_plugins.thinking import serving
from icl_plugins.thinking.serving import StateServer


@pytest.fixture
def state(proxy_of):
    return DeepThinking(proxy_of(), steps=3, step_size=0.1).fit(make_prompt())


def test_answers_are_those_of_the_state(state):
    server = StateServer(state)
    texts = state.generate(queries(5), max_new_tokens=6, stop=["e"])
    for messages, text in zip(state.messages(queries(5)), texts, strict=True):
        answer = server.answer(messages, max_new_tokens=6, stop=["e"])
        assert (answer.text, answer.cached_tokens) == (text, len(state.ids))
        assert answer.prompt_tokens == len(state.target.texts.tokens([messages])[0])
        if answer.completion_tokens < 6:
            assert answer.finished
        assert "".join(server.stream(messages, max_new_tokens=6, stop=["e"])) == text


def test_what_waits_is_written_in_one_batch(state, monkeypatch):
    server, batches = StateServer(state), []
    write = StateServer._write

    def watched(self, batch):
        batches.append(len(batch))
        write(self, batch)

    monkeypatch.setattr(StateServer, "_write", watched)
    alone = [server.answer(messages, max_new_tokens=5) for messages in state.messages(queries(8))]
    batches.clear()
    with ThreadPoolExecutor(8) as pool:
        with lock_of(state.proxy):  # all of them come while the model is busy
            futures = [
                pool.submit(server.answer, messages, max_new_tokens=5)
                for messages in state.messages(queries(8))
            ]
            while len(server._waiting) < 8:
                threading.Event().wait(0.01)
        assert [future.result() for future in futures] == alone
    assert batches == [8]


def test_other_options_are_another_batch(state):
    server = StateServer(state)
    messages = state.messages(queries(6))
    options = [{"max_new_tokens": 3 + row % 2, "stop": ["a", "e"][: row % 3]} for row in range(6)]
    alone = [server.answer(one, **given) for one, given in zip(messages, options, strict=True)]
    with ThreadPoolExecutor(6) as pool:
        together = pool.map(
            lambda pair: server.answer(pair[0], **pair[1]), zip(messages, options, strict=True)
        )
        assert list(together) == alone


def test_what_is_sampled_does_not_depend_on_who_else_asks(state):
    server, messages = StateServer(state), state.messages(queries(6))
    given = {"max_new_tokens": 6, "do_sample": True, "seed": 4}
    alone = [server.answer(one, **given) for one in messages]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda one: server.answer(one, **given), messages)) == alone
    assert server.answer(messages[0], **{**given, "seed": 5}) != alone[0]


def test_messages_of_another_prompt_are_read_in_full(state, proxy_of):
    other = make_prompt(3)
    answer = StateServer(state).answer(other.messages(queries()[0], "single"), max_new_tokens=6)
    (text,) = DeepThinking(proxy_of(), steps=1).fit(other).generate(queries(1), max_new_tokens=6, stop=())
    assert (answer.text, answer.cached_tokens) == (text, 0)


def test_wrong_requests_are_refused_before_they_wait(state):
    server, (messages,) = StateServer(state), state.messages(queries(1))
    with pytest.raises(SettingError, match="max_length"):
        server.answer(messages, max_new_tokens=5, max_length=9)
    with pytest.raises(SettingError, match="num_return_sequences"):
        server.answer(messages, max_new_tokens=5, do_sample=True, num_return_sequences=2)
    with pytest.raises(SettingError, match="for a stream"):
        next(server.stream(messages, max_new_tokens=5, num_beams=2))
    with pytest.raises(TooLongError):
        server.answer(messages, max_new_tokens=600)
    assert not server._waiting


def test_a_failure_reaches_everyone_who_waits_for_it(state, monkeypatch):
    server = StateServer(state)

    def fail(proxy):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(serving, "generator_of", fail)
    with ThreadPoolExecutor(4) as pool:
        with lock_of(state.proxy):
            asked = [pool.submit(server.answer, one, max_new_tokens=3) for one in state.messages(queries(4))]
            while len(server._waiting) < 4:
                threading.Event().wait(0.01)
        for future in asked:
            with pytest.raises(RuntimeError, match="gone"):
                future.result()


def test_an_answer_is_finished_where_it_was_asked_to_end(state):
    server, (messages,) = StateServer(state), state.messages(queries(1))
    cut = server.answer(messages, max_new_tokens=3)
    first = state.target.texts.tokens([messages])[0]
    assert not cut.finished
    token = state.proxy.tokenizer(cut.text, add_special_tokens=False).input_ids[0]
    assert server.answer(messages, max_new_tokens=3, eos_token_id=token, min_new_tokens=0).finished
    assert len(first) == cut.prompt_tokens


def test_tokens_are_counted_the_same_whoever_else_is_written(proxy_of):
    """A row that a stop text ended is padded while others go on."""
    state = DeepThinking(proxy_of("gpt2"), steps=3, step_size=0.1).fit(make_prompt())
    server, messages = StateServer(state), state.messages(queries(8))
    given = {"max_new_tokens": 12, "stop": ["e", "no"]}
    alone = [server.answer(one, **given) for one in messages]
    assert len({one.completion_tokens for one in alone}) > 1
    with ThreadPoolExecutor(8) as pool, lock_of(state.proxy):
        asked = [pool.submit(server.answer, one, **given) for one in messages]
        while len(server._waiting) < 8:
            threading.Event().wait(0.01)
        lock_of(state.proxy).release()
        try:
            assert [one.result() for one in asked] == alone
        finally:
            lock_of(state.proxy).acquire()


def test_an_interrupt_of_the_writer_is_an_error_for_the_others(state, monkeypatch):
    server = StateServer(state)

    def interrupt(proxy):
        raise KeyboardInterrupt

    monkeypatch.setattr(serving, "generator_of", interrupt)
    errors = []

    def ask(messages):
        try:
            server.answer(messages, max_new_tokens=3)
        except BaseException as error:
            errors.append(type(error).__name__)

    threads = [threading.Thread(target=ask, args=(one,)) for one in state.messages(queries(3))]
    with lock_of(state.proxy):
        for thread in threads:
            thread.start()
        while len(server._waiting) < 3:
            threading.Event().wait(0.01)
    for thread in threads:
        thread.join()
    assert sorted(errors) == ["KeyboardInterrupt", "TargetError", "TargetError"]


def test_what_is_read_in_full_is_read_once(state, monkeypatch):
    read, lengths = serving.read, []

    def watched(proxy, ids, behind):
        lengths.append(len(ids))
        return read(proxy, ids, behind)

    monkeypatch.setattr(serving, "read", watched)
    StateServer(state).answer(make_prompt(3).messages(queries()[0], "single"), max_new_tokens=3)
    assert len(lengths) == 1
