"""Progress of long work: who does the work tells, who wants to show it listens; neither knows the other."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Progress = Callable[[str, int, int], None]

_listener: ContextVar[Progress | None] = ContextVar("icl_plugins_progress", default=None)


@contextmanager
def progress_to(listener: Progress) -> Iterator[None]:
    """Call ``listener(stage, done, total)`` for all work done in this block and this context."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell_progress(stage: str, done: int, total: int) -> None:
    """Tell whoever listens that ``done`` of ``total`` steps of a stage are finished; free if nobody does."""
    listener = _listener.get()
    if listener is not None:
        listener(stage, done, total)
