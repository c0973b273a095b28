"""Batches hold what the budget allows, and out of memory costs a retry of that batch only."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_plugins.errors import ProxyError, SettingError
from icl_plugins.proxy.batching import TokenBudget, batches_by_tokens, run_batches

OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: you tried"),
]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 120))
def test_every_row_once_and_no_batch_above_the_budget_unless_of_one_row(lengths, budget):
    batches = batches_by_tokens(lengths, budget)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= budget
    longest = [lengths[batch[0]] for batch in batches]
    assert longest == sorted(longest, reverse=True)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=9), st.integers(50, 200), st.integers(0, 100))
def test_no_other_grouping_by_length_is_cheaper(lengths, budget, overhead):
    """Against all ways to cut the rows, longest first, into batches."""
    ordered = sorted(lengths, reverse=True)

    def cost(sizes_with_longest):
        return sum(size * longest + overhead for size, longest in sizes_with_longest)

    every = []
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        edges = [0, *[at + 1 for at, cut in enumerate(cuts) if cut], len(lengths)]
        sizes = [(stop - start, ordered[start]) for start, stop in itertools.pairwise(edges)]
        if all(size * longest <= budget for size, longest in sizes):
            every.append(cost(sizes))
    batches = batches_by_tokens(lengths, budget, overhead)
    assert cost((len(batch), lengths[batch[0]]) for batch in batches) == min(every)


def test_equal_lengths_keep_the_order_of_the_rows():
    assert batches_by_tokens([5, 5, 5, 5, 5], 10) == [[0, 1], [2, 3], [4]]


def fails_above(tokens, lengths, error, tried):
    def compute(rows):
        tried.append(tuple(rows))
        if len(rows) * max(lengths[row] for row in rows) > tokens:
            raise error
        return sum(rows)

    return compute


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_that_batch_and_is_remembered(error):
    lengths, budget, tried = [10] * 12, TokenBudget(80), []
    done = list(run_batches(lengths, budget, fails_above(40, lengths, error, tried)))
    assert tried == [tuple(range(8)), tuple(range(4)), tuple(range(4, 8)), tuple(range(8, 12))]
    assert [rows for rows, _ in done] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert budget.tokens == 40


def test_what_was_done_before_is_kept_and_only_the_failing_batch_runs_again():
    lengths, budget, tried = [10] * 4, TokenBudget(20), []
    calls = iter([None, MemoryError(), None, None])

    def compute(rows):
        tried.append(tuple(rows))
        error = next(calls)
        if error:
            raise error

    list(run_batches(lengths, budget, compute))
    assert tried == [(0, 1), (2, 3), (2,), (3,)]


def test_halving_starts_from_the_batch_when_it_is_below_the_budget():
    lengths, budget, tried = [10] * 4, TokenBudget(10_000), []
    list(run_batches(lengths, budget, fails_above(20, lengths, MemoryError(), tried)))
    assert tried == [(0, 1, 2, 3), (0, 1), (2, 3)]


def test_a_single_row_that_does_not_fit_is_an_error_with_its_length():
    lengths, tried = [10, 77], []
    with pytest.raises(ProxyError, match="77 tokens"):
        list(run_batches(lengths, TokenBudget(1000), fails_above(50, lengths, MemoryError(), tried)))
    assert tried[-1] == (1,)


def test_other_errors_pass_unchanged_and_leave_the_budget():
    budget, error = TokenBudget(80), RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError) as caught:
        list(run_batches([10] * 8, budget, fails_above(0, [10] * 8, error, [])))
    assert caught.value is error
    assert budget.tokens == 80


def test_a_budget_without_room_is_refused():
    with pytest.raises(SettingError):
        TokenBudget(0)
