"""Error rates of labels, estimated and real; of the tables of all queries and labels only a block is held."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from icl_plugins.algorithms.offsets import OffsetTable
from icl_plugins.algorithms.slots import SlotTable
from icl_plugins.errors import NonFiniteError, SettingError
from icl_plugins.progress import tell_progress
from icl_plugins.selectors._context import context_scores
from icl_plugins.selectors._joined import joined_query_tables
from icl_plugins.selectors._study import Study
from icl_plugins.selectors.typicality import are_classes

if TYPE_CHECKING:
    from icl_plugins.proxy.slots import Slots

_BLOCK = 1 << 24  # estimated losses that are held at once
_TABLES = 20_000  # each takes milliseconds, and a pass forward and backward


def error_rates(
    study: Study, anchors: "Sequence[Slots] | np.ndarray", subsets: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the estimated error rates (m,) of ordered subsets (m, k), and that of the anchors.

    anchors: slots, or subsets (a, k) that stand there without slots. The share of the queries whose own
    answer has not the least estimated loss of all answers, the mean over the anchors. Raises SettingError
    where labels are no classes.
    """
    options, gold = _options(study)
    if len(options) * len(gold) * len(anchors) > _TABLES:
        raise SettingError(
            f"{len(gold)} queries, {len(options)} answers and {len(anchors)} anchors, each with a table",
            expected=f"a product of at most {_TABLES}",
            fix='take fewer queries or anchors, or outcome="loss"',
        )
    block = max(1, _BLOCK // (len(options) * (len(subsets) + 1)))
    rates, at_anchor = np.zeros(len(subsets)), 0.0
    for done, anchor in enumerate(anchors):
        for start in range(0, len(gold), block):
            asked = study.queries.questions[start : start + block]
            losses = np.empty((len(asked) * len(options), len(subsets) + 1))
            encoded = study.proxy.encoder.demonstrations(
                [question for question in asked for _ in options], options * len(asked)
            )
            tables: Iterator[tuple[int, SlotTable | OffsetTable, float]] = (
                joined_query_tables(study, anchor, encoded)
                if isinstance(anchor, np.ndarray)
                else study.query_tables(anchor, encoded)
            )
            for row, table, loss in tables:
                losses[row, 0], losses[row, 1:] = loss, table.outcomes(subsets)
            _check_finite(losses)
            named = losses.reshape(len(asked), len(options), -1).argmin(1)
            wrong = (named != gold[start : start + block, None]).sum(0) / (len(gold) * len(anchors))
            at_anchor, rates = at_anchor + float(wrong[0]), rates + wrong[1:]
        tell_progress("anchors", done + 1, len(anchors))
    return rates, at_anchor


def real_error_rates(study: Study, subsets: np.ndarray) -> np.ndarray:
    """Return the share (m,) of queries whose own answer is not the likeliest behind each subset."""
    options, gold = _options(study)
    pool, queries = study.request.pool, study.queries
    rates = np.empty(len(subsets))
    for at, subset in enumerate(subsets):
        texts = [pool.texts[row] for row in study.rows[subset]]
        choices = [options] * len(queries)
        scores = context_scores(study.proxy, texts, pool.template.separator, queries.questions, choices)
        _check_finite(scores)
        rates[at] = (np.argmax(scores, axis=1) != gold).mean()
        tell_progress("real subsets", at + 1, len(subsets))
    return rates


def _check_finite(losses: object) -> None:
    bad = ~np.isfinite(np.asarray(losses))
    if bad.any():
        raise NonFiniteError(
            f"{bad.sum()} losses of labels that are NaN or infinite",
            expected="finite losses",
            fix='look at the examples, or load the proxy with dtype="float32"',
        )


def _options(study: Study) -> tuple[list[str], np.ndarray]:
    """Return the answers there are, and which of them is each query's own."""
    pool = study.request.pool
    if not are_classes(pool):
        raise SettingError(
            f'outcome="accuracy" with {len(pool.label_counts)} labels of {len(pool)} examples',
            expected="labels that are classes",
            fix='pass outcome="loss", or name the field that holds the class',
        )
    options = sorted({*pool.answers, *study.queries.answers})
    return options, np.array([options.index(answer) for answer in study.queries.answers])
