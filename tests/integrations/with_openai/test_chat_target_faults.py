"""ChatTarget against a server that fails in every way."""

import os
import signal
import threading
import time
from itertools import pairwise

import pytest
from fault_server import Reply, completion, refusal
from hypothesis import given
from hypothesis import strategies as st
from openai_icl.asking import Conversation
from openai_icl.failures import Failure, retry_after

from icl_plugins.errors import TargetError


def portals():
    return [thread for thread in threading.enumerate() if "portal" in thread.name]


@pytest.mark.parametrize(
    ("status", "body", "fix"),
    [
        (401, refusal(code="invalid_api_key"), "OPENAI_API_KEY"),
        (401, b"<html>", "OPENAI_API_KEY"),
        (402, refusal("Insufficient Balance"), "pay in credit"),
        (403, refusal(), "may use this model"),
        (404, refusal(code="model_not_found"), "correct model or base_url"),
        (400, refusal("Model Not Exist", type="invalid_request_error"), "correct the name of the model"),
        (400, {"detail": "Server is pinned to 'a'; requested 'b'."}, "correct the name of the model"),
        (429, refusal(code="insufficient_quota"), "raise the limit"),
        (400, refusal(code="unsupported_value", param="temperature"), "this temperature"),
    ],
)
def test_what_every_request_would_meet_stops_at_once(faults, ask, status, body, fix):
    faults.answer = lambda query, n: Reply(body, status, {"x-should-retry": "true"})
    with pytest.raises(TargetError, match=fix):
        ask("a", "b", "c", concurrency=1)
    assert len(faults.asked) == 1 and not portals()


def test_answers_that_came_before_the_stop_are_told(faults, ask):
    faults.answer = lambda query, n: Reply(status=401 if query == "c" else 200)
    told = []
    with pytest.raises(TargetError):
        ask("a", "b", "c", "d", concurrency=1, on_answer=lambda index, _: told.append(index))
    assert told == [0, 1]


def test_a_server_that_is_not_there_stops_at_once(faults, ask, monkeypatch):
    faults.close()
    monkeypatch.setattr("anyio.sleep", lambda _: pytest.fail("tried again"))
    with pytest.raises(TargetError, match=r"cannot be reached.*start the server"):
        ask("a", "b", "c")


def test_a_server_that_went_away_is_tried_again_and_then_stops_everything(faults, ask):
    slept = []
    wait = Conversation._wait

    def counted(self, failure, retries):
        slept.append(failure.unreachable)
        return wait(self, failure, retries)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(TargetError, match="cannot be reached"):
        patch.setattr(Conversation, "_wait", counted)
        ask(*"abc", concurrency=1, retries=2, on_answer=lambda *_: faults.close())
    # The first may find the connection cut; the others find nobody.
    assert len(slept) >= 3 and slept[-2:] == [True, True] and len(faults.asked) <= 2


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 529])
def test_what_may_pass_is_tried_again(faults, ask, status):
    faults.answer = lambda query, n: Reply(refusal(), status) if n < 2 else Reply()
    (answer,) = ask("a")
    assert answer.text == "yes" and len(faults.asked) == 3


def test_cut_connections_and_time_outs_are_tried_again(faults, ask):
    faults.answer = lambda query, n: (
        Reply(cut=query == "cut", delay=9 * (query == "slow")) if not n else Reply()
    )
    assert [answer.text for answer in ask("cut", "slow", timeout=0.3)] == ["yes", "yes"]
    assert len(faults.times("cut")) == len(faults.times("slow")) == 2


@pytest.mark.parametrize("headers", [{"Retry-After": "0.4"}, {"retry-after-ms": "400", "Retry-After": "9"}])
def test_the_wait_that_the_server_asks_for_is_kept(faults, ask, headers):
    faults.answer = lambda query, n: Reply() if n else Reply(refusal(), 429, headers)
    assert ask("a")[0].text == "yes"
    first, second = faults.times("a")
    assert 0.4 <= second - first < 9


def test_a_server_that_asks_for_more_patience_than_anybody_has_is_an_error_of_the_item(faults, ask):
    faults.answer = lambda query, n: Reply(refusal(), 429, {"Retry-After": "3600"})
    (answer,) = ask("a")
    assert answer.error == "status 429" and len(faults.asked) == 1


def test_what_fails_for_ever_is_an_error_of_its_item_and_the_rest_goes_on(faults, ask):
    broken = {
        "500": Reply(refusal("secret data", type="server_error"), 500),
        "cut": Reply(cut=True),
        "slow": Reply(delay=9),
        "teapot": Reply(refusal("secret data", code="Echo: my data"), 418),
    }
    faults.answer = lambda query, n: broken.get(query, Reply())
    answers = ask("a", *broken, "b", retries=1, timeout=0.3)
    assert [answer.text for answer in answers] == ["yes", None, None, None, None, "yes"]
    assert [answer.error for answer in answers[1:5]] == [
        "status 500 (server_error), after 1 retry",
        "the connection was cut (RemoteProtocolError), after 1 retry",
        "time-out, after 1 retry",
        "status 418",
    ]
    assert [len(faults.times(query)) for query in broken] == [2, 2, 2, 1]
    assert all(answer.seconds > 0 for answer in answers)


def test_an_answer_that_drips_is_timed_out_as_a_whole(faults, ask):
    """The client's own time-out counts from byte to byte."""
    faults.answer = lambda query, n: Reply(drip=0.1)
    (answer,) = ask("a", timeout=0.5, retries=0)
    assert answer.error == "time-out"


def test_half_an_answer_is_a_cut_connection(faults, ask):
    faults.answer = lambda query, n: Reply(half=n == 0)
    assert ask("a")[0].text == "yes" and len(faults.asked) == 2


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, refusal(code="context_length_exceeded", type="invalid_request_error")),
        (400, refusal("This model's maximum context length is 4096 tokens.", type="BadRequestError")),
        (400, {"object": "error", "message": "This model's maximum context length is 9 tokens"}),
        (413, b"too large"),
    ],
)
def test_context_overflow_is_an_error_of_its_item(faults, ask, status, body):
    faults.answer = lambda query, n: Reply(body, status) if query == "long" else Reply()
    long, short = ask("long", "short")
    assert long.error.startswith("context overflow") and short.text == "yes"
    assert len(faults.times("long")) == 1


@pytest.mark.parametrize(
    "body", [b"", b"{", b"<html>", b"\xff\xfe", b"[]", b"null", b'"yes"', b"[" * 10**5, b'{"choices": NaN}']
)
@pytest.mark.parametrize("kind", ["application/json", "text/html; charset=wrong"])
def test_garbage_is_an_error_of_its_item(faults, ask, body, kind):
    faults.answer = lambda query, n: Reply(body, headers={"Content-Type": kind}) if query == "a" else Reply()
    broken, whole = ask("a", "b")
    assert broken.error in ("the reply is not JSON", "no choices in the reply") and whole.text == "yes"


def test_a_wrong_content_encoding_is_an_error_of_its_item(faults, ask):
    faults.answer = lambda query, n: Reply(b"no gzip", headers={"Content-Encoding": "gzip"})
    assert ask("a", retries=0)[0].error


def test_an_error_of_the_caller_ends_what_is_under_way(faults, ask):
    def answer(query, n):
        until = time.monotonic() + 20
        while query == "a" and faults.under_way < 2 and time.monotonic() < until:
            time.sleep(0.005)  # on a busy machine the others may not have come yet
        return Reply(delay=30 * (query != "a"))

    def fail(*_):
        raise RuntimeError("of the caller")

    faults.answer = answer

    with pytest.raises(RuntimeError, match="of the caller"):
        ask(*"abcd", on_answer=fail)
    assert faults.under_way and not portals()  # the server still works on what nobody waits for


@pytest.fixture
def interruptible():
    """SIGINT interrupts, also in a test run that was started in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_ends_what_is_under_way(faults, ask):
    def interrupted(query, n):
        if query == "c":
            os.kill(os.getpid(), signal.SIGINT)
        return Reply(delay=30)

    faults.answer = interrupted
    with pytest.raises(KeyboardInterrupt):
        ask(*"abcdef", concurrency=3)
    assert faults.under_way and not portals()
    assert not {query for query, *_ in faults.asked} & set("def")


@given(st.floats(0, 10), st.integers(0, 1500), st.none() | st.floats(0, 1000))
def test_waits_double_with_jitter_up_to_two_minutes_and_never_undercut_the_server(backoff, tried, after):
    conversation = Conversation("http://a", "KEY", 1, 1.0, 2000, backoff, reached=True)
    wait = conversation._wait(Failure("status 429", retry=True, after=after), tried)
    doubled = min(backoff * 2 ** min(tried, 30), 120.0)
    if after and after > 120:
        assert wait is None
    else:
        assert max(doubled / 2, after or 0) <= wait <= max(doubled, after or 0)


def test_retry_after_is_read_as_number_or_date_and_junk_is_nothing():
    now = 1_000_000_000.0
    dates = {"Sun, 09 Sep 2001 01:46:45 GMT": 5.0, "Sun, 09 Sep 2001 01:46:00 GMT": 0.0}
    for text, seconds in {"7": 7.0, "0.5": 0.5, "0": 0.0, **dates}.items():
        assert retry_after({"retry-after": text}, lambda: now) == seconds
    for junk in ("soon", "", "-1", "nan", "inf", "1 2", "Sun"):
        assert retry_after({"retry-after": junk}, lambda: now) is None
    assert retry_after({}) is None
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25


def test_requests_are_sent_in_order(faults, ask):
    faults.answer = lambda query, n: Reply(completion(query))
    ask(*map(str, range(9)), concurrency=1)
    assert all(int(one) < int(other) for (one, *_), (other, *_) in pairwise(faults.asked))
