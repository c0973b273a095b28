"""Batches by token budget, and what happens when one of them does not fit into memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from icl_plugins.errors import ProxyError, SettingError

Result = TypeVar("Result")

# Allocators without an exception type of their own: torch's CPU allocator, CUDA libraries, MPS.
_MEMORY_MESSAGES = (
    "not enough memory",
    "can't allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


@dataclass
class TokenBudget:
    """What one batch may hold.

    tokens: padding included; shrinks for good after an out-of-memory error. overhead: the fixed cost of a
    batch, as the number of tokens that take as long.
    """

    tokens: int
    overhead: int = 64

    def __post_init__(self) -> None:
        """Refuse a budget in which nothing fits."""
        if self.tokens < 1:
            raise SettingError(
                f"got a budget of {self.tokens} tokens", expected="at least 1", fix="raise the token budget"
            )


def batches_by_tokens(lengths: Sequence[int], budget: int, overhead: int = 64) -> list[list[int]]:
    """Group rows of similar length, so that rows x longest stays within ``budget`` tokens.

    Of all such groupings the cheapest: fewest tokens, padding included, plus ``overhead`` for each batch.
    Longest first: a batch that does not fit fails at the start of a run, not at its end. Rows of equal
    length keep their order. A row longer than the budget is a batch of its own.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    cost = np.full(len(order) + 1, np.inf)  # of the first rows of the order, batched in the best way
    cost[0] = 0
    first_of = np.zeros(len(order) + 1, dtype=np.int64)
    for first, row in enumerate(order):
        most = max(1, min(budget // lengths[row], len(order) - first))
        with_batch = cost[first] + overhead + lengths[row] * np.arange(1, most + 1)
        stops = np.arange(first + 1, first + 1 + most)
        cheaper = with_batch <= cost[stops]  # ties fill the earlier batches
        cost[stops[cheaper]], first_of[stops[cheaper]] = with_batch[cheaper], first
    batches, stop = [], len(order)
    while stop:
        batches.append(order[first_of[stop] : stop])
        stop = int(first_of[stop])
    return batches[::-1]


def run_batches(
    lengths: Sequence[int], budget: TokenBudget, compute: Callable[[list[int]], Result]
) -> Iterator[tuple[list[int], Result]]:
    """Yield ``(rows, compute(rows))`` over all rows; out of memory halves that batch and retries only it.

    The reduced budget is remembered in ``budget``; what was already yielded stays. Raises ProxyError when a
    single row does not fit. Every error that is not about memory passes unchanged.
    """
    pending = batches_by_tokens(lengths, budget.tokens, budget.overhead)[::-1]
    while pending:
        rows = pending.pop()
        tokens = len(rows) * max(lengths[row] for row in rows)
        if tokens > budget.tokens and len(rows) > 1:
            pending.extend(_split(rows, lengths, budget)[::-1])
            continue
        try:
            result = compute(rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(rows) == 1:
                raise ProxyError(
                    f"out of memory on a single example of {tokens} tokens",
                    expected="room for one example at a time",
                    fix="shorten the example, choose a smaller proxy, or a device with more memory",
                ) from error
        else:
            yield rows, result
            continue
        # Outside the handler: its traceback would keep the failed batch's tensors alive.
        budget.tokens = max(1, min(budget.tokens, tokens) // 2)
        _release_memory()
        pending.append(rows)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell a lack of memory, on any device, from every other error."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MEMORY_MESSAGES)


def _split(rows: list[int], lengths: Sequence[int], budget: TokenBudget) -> list[list[int]]:
    parts = batches_by_tokens([lengths[row] for row in rows], budget.tokens, budget.overhead)
    return [[rows[index] for index in part] for part in parts]


def _release_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
