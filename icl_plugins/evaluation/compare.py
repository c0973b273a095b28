"""compare: methods x shots x seeds x data sets on one target, resumable in a folder."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icl_plugins.algorithms.quotas import Quotas, quota_bounds
from icl_plugins.errors import (
    ArtefactError,
    BudgetError,
    DataError,
    IclError,
    SettingError,
    TooLongError,
)
from icl_plugins.evaluation.choosing import Cell, Chooser, Chosen
from icl_plugins.evaluation.config import Config
from icl_plugins.evaluation.datasets import DataSet
from icl_plugins.evaluation.evaluate import evaluate
from icl_plugins.evaluation.golds import golds_of, labels_of
from icl_plugins.evaluation.metrics import as_metric
from icl_plugins.evaluation.results import Comparison, Run
from icl_plugins.evaluation.room import Room
from icl_plugins.evaluation.states import States
from icl_plugins.evaluation.store import ResultStore
from icl_plugins.evaluation.target import Target
from icl_plugins.examples import Pool
from icl_plugins.progress import tell_progress
from icl_plugins.selectors._settings import load_proxy

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

Parts = Sequence[tuple[DataSet, Room]]


def compare(
    config: Config,
    parts: Parts,
    target: Target,
    folder: Path,
    *,
    source: Mapping[str, object],
    loaded: "Mapping[str, Proxy] | None" = None,
) -> Comparison:
    """Measure every method of the config on every data set; all work is kept in the folder and done once.

    parts: each data set with the room that the target has for its prompts. source: the config as read.
    loaded: proxies by name that are there already, such as the target itself. A run whose limits cannot be
    met, or whose prompt the proxy cannot read, is left out and told in the notes.
    Repeated, it gives an equal comparison: seconds, tokens and costs stay those of the first time.

    Raises SettingError, DataError and ProxyError before anything runs, StoreLockedError where another run has
    the folder, TargetError, and what selectors raise; the work so far is kept then, also on an interrupt.
    """
    states = States(config, target, folder / "states")
    for data, room in parts:
        _check(config, data, room)
        states.check(data)
    load = cache(lambda name: (loaded or {}).get(name) or load_proxy(name))
    for method in config.methods.values():
        if method.needs_proxy:
            load(method.proxy(config.proxy))  # it stays loaded; one that cannot be is told now
    runs: list[Run] = []
    notes: list[str] = []
    with _locked(folder), ResultStore(folder / "results.sqlite") as store:
        for data, room in parts:
            notes += data.notes
            chooser = Chooser(config, data, room, load, folder)
            cells = list(_cells(config, data, states))
            for done, cell in enumerate(cells, 1):
                try:
                    chosen, answering = states.answering(cell, data, chooser)
                except (BudgetError, TooLongError) as error:
                    notes.append(f"{data.config.name}: no {_words(cell)}: {error.got}")
                else:
                    runs.append(_run(cell, chosen, data, answering, store))
                    notes += _told(runs[-1])
                tell_progress(data.config.name, done, len(cells))
    return Comparison(tuple(runs), source, tuple(dict.fromkeys([*notes, *states.notes()])))


def _run(cell: Cell, chosen: Chosen, data: DataSet, target: Target, store: ResultStore) -> Run:
    evaluation = evaluate(
        chosen.prompt,
        data.items,
        target,
        metric=data.config.metric,
        choices=data.choices,
        max_tokens=data.config.max_tokens,
        store=store,
    )
    return Run(
        data=data.config.name,
        method=cell.method,
        shots=len(chosen.prompt.demonstrations),
        seed=cell.seed,
        evaluation=replace(evaluation, reused=0),  # that is of this attempt, not of the result
        tokens=chosen.tokens,
        label_kl=chosen.label_kl,
        select_seconds=chosen.select_seconds,
        objective=chosen.objective,
        asked=cell.asked,
    )


def _cells(config: Config, data: DataSet, states: States) -> Iterator[Cell]:
    for method in config.methods:
        for shots in states.shots(method, data):
            for seed in config.seeds_of(method):
                yield Cell(method, None if shots == "max" else shots, seed)


def _told(run: Run) -> Iterator[str]:
    evaluation, items = run.evaluation, len(run.evaluation.golds)
    if evaluation.errors:
        cell = _words(Cell(run.method, run.asked, run.seed))
        failed = f"{len(evaluation.errors)} of {items} requests failed and count as wrong"
        yield f"{run.data}: {cell}: {failed}: {next(iter(evaluation.errors.values()))}"
    if evaluation.unreachable:
        yield f"{run.data}: {evaluation.unreachable} of {items} items have an answer that is no choice"


def _words(cell: Cell) -> str:
    shots = "as many shots as fit" if cell.asked is None else f"{cell.asked} shots"
    return f"{cell.method} with {shots}, seed {cell.seed}"


def _check(config: Config, data: DataSet, room: Room) -> None:
    """Raise what would stop the comparison later on."""
    items, choices = data.items, data.choices
    most = max((shots for shots in config.shots if shots != "max"), default=1)
    if most >= len(data.pool):
        raise SettingError(
            f"{most} shots from the {len(data.pool)} examples of {data.config.name}",
            expected="more examples in the pool than shots",
            fix="lower shots, or raise pool",
        )
    if "max" in config.shots and room.limit is None:
        raise SettingError(
            f"shots max for {data.config.name}, and a target whose context is not known",
            expected="the number of tokens that the target reads at once",
            fix="set target.context, or leave out max",
        )
    if len(items) < 2:
        raise DataError(
            f"{data.config.name}: one item", expected="at least two, for an interval", fix="raise items"
        )
    try:
        golds_of(items, range(len(items)), labels_of(choices, len(items)), as_metric(data.config.metric))
        for method in config.methods.values():
            _check_quotas(data.pool, method.quotas)
    except IclError as error:
        got = f"{data.config.name}: {error.got}"
        raise type(error)(got, expected=error.expected, fix=error.fix) from error


def _check_quotas(pool: Pool, quotas: Quotas) -> None:
    """Raise SettingError for numbers that are none and labels that the pool lacks."""
    if not isinstance(quotas, str):
        with suppress(BudgetError):  # a run that they do not allow is left out and told
            quota_bounds(pool.labels, quotas, None, np.ones(len(pool), dtype=bool), ())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    from icl_plugins.proxy.store.locking import WriterLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = WriterLock(folder / "writer.lock")
    except OSError as error:
        raise ArtefactError(
            f"cannot write to {str(folder)!r}: {error.strerror or error}",
            expected="a folder that is there or can be made, and is writable",
            fix="choose another folder",
        ) from error
    try:
        yield
    finally:
        lock.release()
