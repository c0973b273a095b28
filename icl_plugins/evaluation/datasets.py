"""The data sets of a comparison: pool and items drawn, and no item in the pool."""

from dataclasses import dataclass

import numpy as np

from icl_plugins.errors import DataError
from icl_plugins.evaluation.answers import item_choices, label_choices
from icl_plugins.evaluation.config import Config, DataConfig
from icl_plugins.evaluation.golds import Choices
from icl_plugins.examples import Pool
from icl_plugins.held_out import asked_by, drawn, rows_apart


@dataclass(frozen=True)
class DataSet:
    """A data set as it is compared on: what may be chosen, what is asked, and which answers there are.

    notes: rows that were left out. Selectors see the pool alone.
    """

    config: DataConfig
    pool: Pool
    items: Pool
    choices: Choices | None
    notes: tuple[str, ...]


def load_data(config: Config, data: DataConfig) -> DataSet:
    """Read one data set and draw its pool and items, each by a generator of its own, from the config's seed.

    Pool rows that ask what a row of test asks (letters and digits compared) are dropped and counted, or
    refused. Without test the items are drawn from train first. Raises DataError and TemplateError for files
    and rows, SettingError for choices that are none.
    """
    train = Pool.from_file(data.train, data.template, label_field=data.label)
    choices: Choices | None = label_choices(train) if data.choices == "labels" else None
    wanted = data.items or config.items
    if data.test is None:
        order = np.random.default_rng([config.seed, 0]).permutation(len(train)).tolist()
        test, train = train.subset(sorted(order[:wanted])), _subset(train, order[wanted:], data)
    else:
        test = Pool.from_file(data.test, data.template, label_field=data.label)
    items = drawn(test, wanted, [config.seed, 0])
    apart = rows_apart(train, asked_by([test]))
    overlap = len(train) - len(apart)
    if overlap and config.on_overlap == "error":
        raise DataError(
            f"{data.name}: {overlap} rows of train ask what a row of test asks",
            expected="evaluation rows that are no demonstrations",
            fix="remove them, or set on_overlap to drop",
        )
    pool = drawn(_subset(train, apart, data), data.pool or config.pool, [config.seed, 1])
    if data.choices not in ("labels", None):
        choices = item_choices(items, choices=data.choices, answer=data.correct)
    note = f"{data.name}: {overlap} rows of train that ask what a row of test asks are left out"
    return DataSet(data, pool, items, choices, (note,) if overlap else ())


def _subset(pool: Pool, rows: list[int], data: DataConfig) -> Pool:
    if not rows:
        raise DataError(
            f"{data.name}: no row of train is left for the pool",
            expected="rows that are not asked about",
            fix="lower items, or name other files",
        )
    return pool.subset(rows)
