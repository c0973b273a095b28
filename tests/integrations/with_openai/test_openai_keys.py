"""The key is sent to the server, and shown to nobody."""

import copy
import logging
import pickle
import traceback
from dataclasses import asdict, astuple, replace

import pytest
from fault_server import Reply, refusal
from openai_icl import ChatTarget
from openai_icl.providers import Key, find_key, resolve_url

from icl_plugins.errors import IclError, TargetError

KEY = "sk-MARKER-0123456789"


def sent(faults):
    return {headers["authorization"] for *_, headers, _ in faults.asked}


def with_locals(error):
    """The traceback with all local variables but those of the test itself."""
    below = error.__traceback__.tb_next
    return [*traceback.TracebackException(type(error), error, below, capture_locals=True).format()]


def test_the_key_is_sent(faults, ask, monkeypatch):
    ask("a", api_key=KEY)
    assert sent(faults) == {f"Bearer {KEY}"}
    faults.asked.clear()
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}-2\n")
    ask("a")
    assert sent(faults) == {f"Bearer {KEY}-2"}
    faults.asked.clear()
    monkeypatch.setenv("MY_KEY", f"{KEY}-3")
    ask("a", api_key_env="MY_KEY")
    assert sent(faults) == {f"Bearer {KEY}-3"}


def test_a_target_shows_its_key_in_no_form(make_target):
    target = make_target(api_key=KEY)
    shown = [repr(target), str(target), repr(asdict(target)), repr(astuple(target)), str(vars(target))]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        shown.append(pickle.dumps(target, protocol).decode("latin-1"))
    assert not [form for form in shown if "MARKER" in form]
    assert target == make_target() and target.fingerprint == make_target().fingerprint
    assert hash(target) == hash(make_target())


def test_changed_and_copied_targets_keep_the_key_and_pickled_ones_look_in_the_environment(
    faults, make_target, monkeypatch
):
    target = make_target(api_key=KEY)
    request = [[{"role": "user", "content": "a"}]]
    for other in (replace(target, seed=1), copy.copy(target), copy.deepcopy(target)):
        other.generate(request, max_tokens=1)
    assert sent(faults) == {f"Bearer {KEY}"}
    faults.asked.clear()
    monkeypatch.setenv("OPENAI_API_KEY", "of-the-environment")
    pickle.loads(pickle.dumps(target)).generate(request, max_tokens=1)  # noqa: S301
    assert sent(faults) == {"Bearer of-the-environment"}


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 418, 429, 500])
@pytest.mark.parametrize("body", [refusal(f"wrong: {KEY}", code=KEY, type=KEY, param=KEY), KEY.encode()])
def test_a_server_that_quotes_the_key_does_not_get_it_into_errors_or_logs(
    faults, make_target, caplog, capfd, status, body
):
    faults.answer = lambda query, n: Reply(body, status, {"x-request-id": "1"})
    target = make_target(api_key=KEY, retries=1)
    told = []
    with caplog.at_level(logging.DEBUG):
        try:
            answers = target.generate([[{"role": "user", "content": "a"}]], max_tokens=1)
            told += [repr(answers)]
        except TargetError as error:
            for shown in (error, error.__context__, error.__cause__):
                told += [str(shown), repr(shown)]
            told += traceback.format_exception(error)
            told += with_locals(error)
    assert told and not [text for text in told if "MARKER" in text]
    ours = [record for record in caplog.records if record.name.split(".")[0] in ("icl_plugins", "openai_icl")]
    sent = [record.getMessage() for record in caplog.records if f"Bearer {KEY}" in record.getMessage()]
    assert not ours and not sent and not capfd.readouterr().err


def test_a_server_that_is_not_there_tells_nobody_the_key(faults, make_target):
    faults.close()
    with pytest.raises(TargetError) as stopped:
        make_target(api_key=KEY).generate([[{"role": "user", "content": "a"}]], max_tokens=1)
    assert "MARKER" not in "".join(with_locals(stopped.value))


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        ({"model": "gpt-4o-mini"}, "OPENAI_API_KEY"),
        ({"model": "deepseek-chat"}, "DEEPSEEK_API_KEY"),
        ({"model": "m", "base_url": "https://api.deepseek.com/v1"}, "DEEPSEEK_API_KEY"),
        ({"model": "m", "base_url": "http://127.0.0.1:1", "api_key_env": "MY_KEY"}, "MY_KEY"),
    ],
)
def test_a_missing_key_is_named_before_any_request(settings, variable, monkeypatch):
    monkeypatch.setenv("OTHER", KEY)
    with pytest.raises(TargetError, match=f"set {variable}") as stopped:
        ChatTarget(**settings).generate([[{"role": "user", "content": "a"}]], max_tokens=1)
    assert "no key for" in str(stopped.value)


def test_each_provider_gets_its_own_key_and_no_other_host_that_of_deepseek(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "of-openai")
    monkeypatch.setenv("DEEPSEEK_API_KEY", "of-deepseek")
    hosts = {
        "https://api.openai.com/v1": "of-openai",
        "https://eu.api.openai.com/v1": "of-openai",
        "https://api.deepseek.com": "of-deepseek",
        "https://api.deepseek.com.evil.org": "of-openai",
        "https://fakeapi.deepseek.com": "of-openai",
        "http://127.0.0.1:8000/v1": "of-openai",  # as every client of OpenAI's does
    }
    for url, key in hosts.items():
        assert find_key(None, None, url).reveal() == key


def test_the_server_follows_from_the_model_unless_it_is_named(monkeypatch):
    assert resolve_url("gpt-4o-mini", None) == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1/")
    assert resolve_url("gpt-4o-mini", None) == "http://127.0.0.1:8000/v1"
    assert resolve_url("deepseek-chat", None) == "https://api.deepseek.com"
    assert resolve_url("deepseek-chat", "http://b") == "http://b"


def test_a_key_that_no_header_can_hold_is_refused_unseen():
    for key in ("MARKER\nsecond", "MARKER\u2013", "MARKER\x00"):
        with pytest.raises(IclError, match="no header can hold") as refused:
            find_key(key, None, "http://b")
        assert "MARKER" not in str(refused.value)


def test_a_key_shows_that_it_is_there_and_nothing_else():
    assert (repr(Key(KEY)), repr(Key())) == ("Key(***)", "Key()")
