"""HybridPrompt: the fixed block, the same bytes for every query, then the nearest demonstrations to it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from icl_plugins.artefacts import canonical_json, fingerprint
from icl_plugins.duplicates import plain_text
from icl_plugins.errors import SettingError
from icl_plugins.examples import Pool
from icl_plugins.prompt import Layout, ManyShotPrompt
from icl_plugins.selection import Selection
from icl_plugins.selectors._hybrid_parts import Budget
from icl_plugins.selectors._rankers import Ranker
from icl_plugins.template import Template


@dataclass(frozen=True, eq=False)
class HybridPrompt:
    """A prompt for each query: the fixed block, then `m` demonstrations nearest to it, the nearest last.

    Made by `Hybrid.fit` and `Hybrid.around`. Whatever the query, ``messages`` begins with the same messages,
    and ``text`` with the same ``prefix``, as those of `fixed`, to the byte. What is shown with a query is in
    neither the fixed block nor twice there; there are fewer than m where no more are left, or fit the budget.
    Equal queries get equal prompts, from any number of threads.

    fixed: to be saved as any prompt; ``Hybrid(...).around(ManyShotPrompt.load(path), pool)`` gives it
    its nearest ones back. pool: where they come from; rows: which of it they may be. config: the settings
    that decide. selection: of the fixed block, where it is known.
    """

    fixed: ManyShotPrompt
    pool: Pool
    rows: tuple[int, ...]
    ranker: Ranker
    m: int
    budget: Budget | None = None
    leave_out_same: bool = False
    config: Mapping[str, object] = field(default_factory=dict)
    selection: Selection | None = None

    @property
    def template(self) -> Template:
        """How examples and queries become texts."""
        return self.fixed.template

    @property
    def prefix(self) -> str:
        """The text that stands before every query's own demonstrations: that of the fixed block."""
        return self.fixed.prefix

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of all that decides what a target reads of a query, models included."""
        rows = canonical_json(self.rows)
        return fingerprint(
            "hybrid", self.fixed.fingerprint, self.pool.fingerprint, rows, canonical_json(self.config)
        )

    def rows_for(self, fields: Mapping[str, object]) -> tuple[int, ...]:
        """Return the rows of the pool that are shown for a query besides the fixed block, nearest last.

        Only the question's fields are needed. Raises TemplateError for a missing one, SettingError for a
        ranker that returns no rows of the pool, and what the ranker raises (a query too long for the model).
        """
        question = self.template.render_question(fields)
        ranking = self._ranked(question)
        chosen = ranking[: self.m].tolist() if self.budget is None else self.budget.fill(ranking, self.m)
        return tuple(reversed(chosen))

    def text(self, fields: Mapping[str, object]) -> str:
        """Return one string for completion models: ``prefix``, the nearest demonstrations, the question."""
        return self.prefix + self.tail(fields)

    def tail(self, fields: Mapping[str, object]) -> str:
        """Return what of ``text`` differs between queries: all that stands behind ``prefix``."""
        shots = (self.pool.texts[row] + self.template.separator for row in self.rows_for(fields))
        return "".join(shots) + self.template.render_question(fields)

    def messages(self, fields: Mapping[str, object], layout: Layout = "turns") -> list[dict[str, str]]:
        """Return chat messages as ``ManyShotPrompt.messages`` does: fixed block, nearest, query.

        "json": the system message is that of the fixed block; the nearest are a JSON array of their own in
        front of the question, in the user's message, since many models take one system message only.
        Raises SettingError for another layout, and what ``rows_for`` raises.
        """
        if layout == "single":
            return [{"role": "user", "content": self.text(fields)}]
        *fixed, query = self.fixed.messages(fields, layout)
        shots = [(self.pool.questions[row], self.pool.answers[row].lstrip()) for row in self.rows_for(fields)]
        if layout == "json":
            lines = ",\n".join(
                json.dumps({"question": question, "answer": answer}, ensure_ascii=False)
                for question, answer in shots
            )
            array = f"[\n{lines}\n]{self.template.separator}" if shots else ""
            return [*fixed, {"role": "user", "content": array + query["content"]}]
        turns = zip(
            ("user", "assistant") * len(shots), (text for shot in shots for text in shot), strict=True
        )
        return [*fixed, *({"role": role, "content": text} for role, text in turns), query]

    def prompt_for(self, fields: Mapping[str, object]) -> ManyShotPrompt:
        """Return the prompt of one query, fixed block and nearest in one, to be looked at or saved.

        It reads as ``text`` and ``messages`` do, but for layout "json", where it is one array.
        """
        rows = self.rows_for(fields)
        if not rows:
            return self.fixed
        nearest = Selection(self.pool, rows, (0.0,) * len(rows)).to_prompt()
        return ManyShotPrompt(
            template=self.template,
            demonstrations=self.fixed.demonstrations + nearest.demonstrations,
            examples=self.fixed.examples + nearest.examples,
            instruction=self.fixed.instruction,
            provenance={"config": self.config, "fixed": self.fixed.provenance, "nearest": rows},
        )

    @cached_property
    def _open(self) -> np.ndarray:
        mask = np.zeros(len(self.pool), dtype=bool)
        mask[list(self.rows)] = True
        return mask

    def _ranked(self, question: str) -> np.ndarray:
        """Return the rows that may be shown with a question, best first, each once."""
        ranking = np.asarray(self.ranker(question))
        if ranking.size and not self._are_rows(ranking):
            raise SettingError(
                f"a ranker that returns {ranking.tolist()!r:.80}",
                expected=f"rows of the pool, whole numbers from 0 to {len(self.pool) - 1}",
                fix="mend the ranker",
            )
        ranking = ranking.astype(np.int64)
        ranking = ranking[self._open[ranking]]
        if self.leave_out_same:
            ranking = ranking[~np.isin(ranking, self._same.get(plain_text(question), ()))]
        _, first = np.unique(ranking, return_index=True)
        once: np.ndarray = ranking[np.sort(first)]
        return once

    def _are_rows(self, ranking: np.ndarray) -> bool:
        whole = ranking.ndim == 1 and ranking.dtype.kind in "iu"
        return whole and bool(ranking.min() >= 0 and ranking.max() < len(self.pool))

    @cached_property
    def _same(self) -> Mapping[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row in self.rows:
            rows.setdefault(plain_text(self.pool.questions[row]), []).append(row)
        return rows
