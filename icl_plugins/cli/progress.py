"""Progress on stderr: bars on a terminal; elsewhere a line for each finished stage, and now and then."""

import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from time import perf_counter

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from icl_plugins.progress import progress_to

_SILENCE = 60.0  # seconds after which an unfinished stage gets a line


@contextmanager
def shown_progress(*, downloads: bool, stages: Container[str] | None = None) -> Iterator[None]:
    """Show the progress of all work in this block; Hugging Face's own bars only where it has to download.

    stages: which of them get a line where there is no terminal; None for all.
    """
    if not downloads:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    console = Console(stderr=True, highlight=False)
    with _bars(console) if console.is_terminal else _lines(console, stages):
        yield


@contextmanager
def _bars(console: Console) -> Iterator[None]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        waiting = bars.add_task("getting ready", total=None)
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                bars.update(waiting, visible=False)
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        with progress_to(show):
            yield
        bars.update(waiting, visible=False)


@contextmanager
def _lines(console: Console, stages: Container[str] | None) -> Iterator[None]:
    started: dict[str, float] = {}
    told: dict[str, float] = {}

    def show(stage: str, done: int, total: int) -> None:
        now = perf_counter()
        start = started.setdefault(stage, now)
        late = now - told.setdefault(stage, start) > _SILENCE
        if (done == total or late) and (stages is None or stage in stages):
            told[stage] = now
            console.print(f"{stage}: {done} of {total}, {now - start:.1f} s", markup=False)

    with progress_to(show):
        yield
