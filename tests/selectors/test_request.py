"""Token budgets, however the tokenizer behaves where texts meet."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_plugins import Random
from icl_plugins.errors import BudgetError, ProxyError, SettingError
from icl_plugins.selectors._common import Request, by_score
from icl_plugins.selectors._tokens import token_counter


def request(pool, shots=None, max_tokens=None, quotas=None, include=(), exclude=(), *, count=None):
    tokenizer = SimpleNamespace(count_tokens=count or (lambda texts: [len(text) for text in texts]))
    return Request.check(pool, shots, max_tokens, quotas, include, exclude, tokenizer)


def splitting(texts):
    """Joined texts cost 3 tokens more at each seam than one by one."""
    return [len(text) // 4 + 1 + 3 * max(0, text.count("\n\n") - 1) for text in texts]


def merging(texts):
    """Joined texts cost less than one by one."""
    return [len(text) // 4 + 10 for text in texts]


@settings(max_examples=60, deadline=None)
@given(
    max_tokens=st.integers(1, 400),
    shots=st.none() | st.integers(1, 24),
    count=st.sampled_from([splitting, merging]),
    seed=st.integers(0, 99),
    include=st.sets(st.integers(0, 23), max_size=2),
)
def test_no_budget_is_ever_exceeded(pool, max_tokens, shots, count, seed, include):
    try:
        made = request(pool, shots, max_tokens, include=sorted(include), count=count)
        indices = made.take(np.random.default_rng(seed).permutation(24))
    except BudgetError:
        return
    assert indices and set(include) <= set(indices)
    assert count(["".join(pool.texts[i] + "\n\n" for i in indices)])[0] <= max_tokens


def test_seams_that_cost_tokens_leave_room_for_fewer(pool):
    plain = request(pool, max_tokens=150, count=lambda texts: [len(text) // 4 + 1 for text in texts])
    assert (
        1 < len(request(pool, max_tokens=150, count=splitting).take(range(24))) < len(plain.take(range(24)))
    )


def test_tokens_are_counted_once_per_call(pool):
    calls = []

    def count(texts):
        calls.append(len(texts))
        return [len(text) for text in texts]

    made = request(pool, max_tokens=300, count=count)
    made.take(range(24))
    assert calls == [24, 1]
    assert made.constraints.costs.tolist() == [len(text) + len("\n\n") for text in pool.texts]


def test_rows_that_cannot_be_used_are_left_out_and_reported(pool):
    made = request(pool, 4, exclude=[0]).without([1, 2], "too long")
    indices = made.take(range(24))
    assert indices == (3, 4, 5, 6)
    selection = made.selection(Random(), indices, [0.0] * 4)
    assert selection.config["exclude"] == [0]
    assert selection.report()["skipped"] == {"too long": [1, 2]}


def test_ties_go_to_the_lowest_index():
    assert by_score(np.array([1.0, 3.0, 1.0, 3.0])).tolist() == [1, 3, 0, 2]
    assert by_score(np.array([1.0, np.nan, 2.0]), [0, 2]).tolist() == [2, 0]


def test_the_tokenizer_alone_counts_as_the_proxy_does(tokenizer_folder, reader, pool):
    assert token_counter(tokenizer_folder)(pool.texts) == reader.count_tokens(pool.texts)


def test_a_tokenizer_that_is_not_there_is_named(pool, tmp_path):
    with pytest.raises(ProxyError, match="no tokenizer"):
        token_counter(str(tmp_path))


def test_a_tokenizer_that_is_not_to_be_had_is_answered_with_what_counts_for_an_api(monkeypatch):
    def load(name):
        raise ProxyError(f"{name}: no tokenizer", expected="one", fix="check the name")

    monkeypatch.setattr("icl_plugins.proxy.loading.load_tokenizer", load)
    with pytest.raises(ProxyError, match="gpt-4o-mini.*check the name; .*ChatTokens.*--target"):
        token_counter("gpt-4o-mini")


def test_neither_shots_nor_budget(pool):
    with pytest.raises(SettingError, match="neither"):
        request(pool)
