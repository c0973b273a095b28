"""What may be kept between two choices from a growing pool, so that only added rows are computed."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Item = TypeVar("Item", bound=Hashable)
Value = TypeVar("Value")

Memory = dict[Hashable, dict[Any, Any]]

_memory: ContextVar[Memory | None] = ContextVar("icl_plugins_kept", default=None)


@contextmanager
def keeping(memory: Memory) -> Iterator[None]:
    """Keep what is computed in this block, and take from ``memory`` what an earlier block computed."""
    token = _memory.set(memory)
    try:
        yield
    finally:
        _memory.reset(token)


def kept(
    key: Hashable, items: Sequence[Item], compute: Callable[[list[Item]], Iterable[Value]]
) -> list[Value]:
    """Return the value of each item; ``compute`` gets those that are not kept under ``key``, each once.

    Outside of `keeping` nothing outlives the call. ``key`` names all that the values depend on.
    """
    memory = _memory.get()
    known: dict[Item, Value] = {} if memory is None else memory.setdefault(key, {})
    new = [item for item in dict.fromkeys(items) if item not in known]
    if new:
        known.update(zip(new, compute(new), strict=True))
    return [known[item] for item in items]
