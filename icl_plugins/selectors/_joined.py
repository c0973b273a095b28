"""Estimates as published: around demonstrations of different lengths that simply follow each other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from icl_plugins.algorithms.offsets import OffsetTable, offset_table, tails
from icl_plugins.progress import tell_progress
from icl_plugins.selectors._study import Study

if TYPE_CHECKING:
    from icl_plugins.proxy.encoding import Encoded


@dataclass(frozen=True, eq=False)
class MeanEstimate:
    """The mean of the estimates around several anchors."""

    tables: tuple[OffsetTable, ...]

    def outcomes(self, subsets: np.ndarray) -> np.ndarray:
        """Return the estimated outcomes (m,) of ordered subsets (m, k)."""
        found: np.ndarray = np.mean([table.outcomes(subsets) for table in self.tables], axis=0)
        return found


def joined_table(study: Study, anchors: np.ndarray) -> tuple[MeanEstimate, float]:
    """Return the mean loss's estimate around real subsets (a, k), and the mean of their losses."""
    embeddings = study.texts.embeddings.double().cpu().numpy()
    tables, losses = [], []
    for done, anchor in enumerate(anchors):
        parts = list(_gradients(study, anchor, study.encoded))
        count, longest = len(parts), max(len(gradient) for _, _, gradient, _ in parts)
        mean, tail, constant = np.zeros((longest, embeddings.shape[1])), np.zeros(longest + 1), 0.0
        for _, loss, gradient, query in parts:
            mean[: len(gradient)] += gradient / count
            tail[: len(gradient) + 1] += tails(gradient, query) / count
            constant += loss / count
        tables.append(offset_table(mean, study.texts.tokens, embeddings, tail, constant))
        losses.append(float(tables[-1].outcomes(anchor[None])[0]))
        tell_progress("anchors", done + 1, len(anchors))
    return MeanEstimate(tuple(tables)), float(np.mean(losses))


def joined_query_tables(
    study: Study, anchor: np.ndarray, queries: "Sequence[Encoded]"
) -> Iterator[tuple[int, OffsetTable, float]]:
    """Yield (query, its table, its loss at the anchor), each by itself, as `Study.query_tables` does."""
    embeddings = study.texts.embeddings.double().cpu().numpy()
    for row, constant, gradient, query in _gradients(study, anchor, queries):
        tail = tails(gradient, query)
        table = offset_table(gradient, study.texts.tokens, embeddings, tail, constant)
        yield row, table, float(table.outcomes(anchor[None])[0])


def _gradients(
    study: Study, anchor: np.ndarray, queries: "Sequence[Encoded]"
) -> Iterator[tuple[int, float, np.ndarray, np.ndarray]]:
    """Yield (query, constant, gradient (L, h), the query's own embeddings (T, h))."""
    from icl_plugins.proxy.joined_gradients import joined_gradients

    shown = np.concatenate([study.texts.vocabulary[study.texts.tokens[place]] for place in anchor])
    for row, loss, gradient, embeddings in joined_gradients(study.proxy, shown.tolist(), queries):
        of_prompt, whole = gradient.double().numpy(), embeddings.double().numpy()
        yield row, loss - float(np.sum(of_prompt * whole)), of_prompt, whole[len(shown) :]
