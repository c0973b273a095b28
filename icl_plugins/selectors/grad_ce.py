"""GradCE (arXiv 2508.19999): demonstrations for each query, those that its text is likeliest behind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.algorithms.honesty import EstimateQuality, Measured, estimate_quality
from icl_plugins.errors import BudgetError, NonFiniteError, SettingError
from icl_plugins.examples import Pool
from icl_plugins.progress import tell_progress
from icl_plugins.selectors._influence import Chosen, Influence, Sets
from icl_plugins.selectors._rankers import Ranker, VectorReader, Vectors, using
from icl_plugins.selectors._settings import load_proxy
from icl_plugins.selectors._study import Anchors, Study, slot_fit, slot_tokens

if TYPE_CHECKING:
    from icl_plugins.proxy.encoding import Encoded
    from icl_plugins.proxy.model import Proxy
    from icl_plugins.proxy.slots import Slots, SlotTexts


@dataclass(frozen=True)
class GradCE(Influence):
    """Choose for a query, of the `candidates` nearest, those that its text is estimated likeliest behind.

    One after the other: each is judged behind those already chosen. Nearest by the cosine of the proxy's mean
    hidden states; the outcome is -log p(question | demonstrations) in nats, which needs no answer, where the
    released code takes all tokens of the prompt. Around anchors that end in the `anchors` nearest candidates,
    or in the mean of all.

    `ranker` chooses for single queries, as `Hybrid` asks. As the selector of a fixed prompt every held-out
    query votes for `each` demonstrations; scores are the votes.
    """

    anchors: Anchors = 4
    candidates: int = 20
    each: int = 4

    @classmethod
    def paper(cls, **settings: Any) -> Self:
        """Return the published settings: the nearest candidate as the only anchor, no fallback."""
        return cls(**{"anchors": 1, "on_bad_estimate": "warn", **settings})

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.reduced is not None:
            raise SettingError(
                f"reduced={self.reduced!r}",
                expected="None: of the nearest candidates alone nothing is projected",
                fix="leave it out",
            )
        whole_number("candidates", self.candidates, 1)
        whole_number("each", self.each, 1)

    def ranker(self, pool: Pool, rows: Sequence[int]) -> Ranker:
        """Return the function from a question to those of its nearest rows, best first, `each` conditioned.

        Measures the estimates on questions of the pool; where they do not rank and the fallback is chosen,
        the nearest come in their own order. Raises what `select` raises.
        """
        proxy = load_proxy(self.proxy)
        with using(proxy):
            near = self._nearby(proxy, pool, np.asarray(rows, dtype=np.int64))
            asked = near.sample(max(4, -(-self.check // self.candidates)), self.candidates, self.seed)
            quality = self._quality(near, asked) if self.check and asked[1].size else None
            fell_back = quality is not None and not quality.trusted and self._acts_on(quality)

        def rank(question: str) -> np.ndarray:
            with using(proxy):
                places = near.nearest([question], self.candidates)
                if not fell_back:
                    places = self._picked(near, [question], places)
            ranked: np.ndarray = near.rows[places[0]]
            return ranked

        return rank

    @property
    def _at_once(self) -> int:
        return min(self.each, self.candidates)

    def _nearby(self, proxy: "Proxy", pool: Pool, rows: np.ndarray) -> "Nearby":
        """Return these rows in slots, as `prepare` makes them, with room for the longest question."""
        from icl_plugins.proxy.slot_gradients import check_fit
        from icl_plugins.proxy.slots import SlotTexts

        tokens = slot_tokens(proxy, pool, rows)
        asked = questions_of(proxy, [pool.questions[row] for row in rows])
        count = min(self._at_once, len(rows))
        room = (proxy.max_length - max(len(one.ids) for one in asked)) // count
        width, longer = slot_fit(tokens, room, self.slot_width, self.on_too_long)
        check_fit(proxy, (count, width), asked)
        if self.on_too_long == "skip":
            rows = rows[~np.isin(rows, longer)]
        if not len(rows):
            raise BudgetError(
                f"{len(longer)} examples, all of them longer than a slot of {width} tokens",
                expected="shorter ones",
                fix='set slot_width, or set on_too_long to "truncate"',
            )
        texts = SlotTexts.of(proxy, [tokens[row] for row in rows.tolist()], width)
        return Nearby.of(proxy, pool, rows, texts)

    def _measure(self, study: Study, surrogate: Any) -> tuple[EstimateQuality, None]:
        near = Nearby.of(study.proxy, study.request.pool, study.rows, study.texts)
        questions = list(study.queries.questions)[: max(4, -(-self.check // self.candidates))]
        return self._quality(near, near.asked(questions, self.candidates)), None

    def _choose(self, study: Study, surrogate: Any, sets: Sets | None) -> Chosen:
        near = Nearby.of(study.proxy, study.request.pool, study.rows, study.texts)
        questions, places = near.asked(list(study.queries.questions), self.candidates)
        picked = self._picked(near, questions, places)[:, : self.each]
        votes = np.bincount(picked.flatten(), minlength=len(study.rows))
        taken = study.take(np.argsort(-votes, kind="stable"))
        return Chosen(taken, votes[taken].tolist())

    def _quality(self, near: "Nearby", asked: "tuple[list[str], np.ndarray]") -> EstimateQuality:
        """Measure on single demonstrations, each query with an anchor of its own."""
        questions, places = asked
        estimates, anchors = near.estimates(questions, places[:, :0], places, self.anchors)
        real = near.losses([one for one in questions for _ in places[0]], places.reshape(-1, 1))
        real = real.reshape(places.shape)
        return estimate_quality([Measured(*one) for one in zip(estimates, real, anchors, strict=True)])

    def _picked(self, near: "Nearby", questions: list[str], places: np.ndarray) -> np.ndarray:
        """Return the nearest (Q, c) with those first that are chosen one after the other."""
        chosen, left = places[:, :0], places
        for done in range(min(self.each, places.shape[1])):
            estimates, _ = near.estimates(questions, chosen, left, self.anchors)
            if done + 1 == min(self.each, places.shape[1]):  # the last round ranks all that are left
                left = np.take_along_axis(left, estimates.argsort(1, kind="stable"), 1)
                break
            best = estimates.argmin(1)
            chosen = np.hstack([chosen, np.take_along_axis(left, best[:, None], 1)])
            stays = np.arange(left.shape[1]) != best[:, None]
            left = left[stays].reshape(len(left), -1)
            tell_progress("rounds", done + 1, self.each)
        return np.hstack([chosen, left])


@dataclass(frozen=True, eq=False)
class Nearby:
    """Candidates as slots and as vectors; rows: (n,) the pool's rows that they are."""

    proxy: "Proxy"
    pool: Pool
    rows: np.ndarray
    texts: "SlotTexts"
    vectors: Vectors

    @classmethod
    def of(cls, proxy: "Proxy", pool: Pool, rows: np.ndarray, texts: "SlotTexts") -> "Nearby":
        """Embed the questions of some rows of a pool, whose slots are `texts`."""
        vectors = Vectors.of(pool, rows.tolist(), VectorReader(proxy, "proxy", "truncate"))
        return cls(proxy, pool, rows, texts, vectors)

    def nearest(self, questions: Sequence[str], count: int, *, others: bool = False) -> np.ndarray:
        """Return the places (Q, c) of the nearest, best first; others: that do not ask the same."""
        where = {row: place for place, row in enumerate(self.rows.tolist())}
        found = []
        for question in questions:
            ranked = [
                where[row]
                for row in self.vectors(question)[: count + others * len(self.rows)].tolist()
                if not (others and self.pool.questions[row] == question)
            ]
            found.append(ranked[:count])
        return np.array([one[: min(map(len, found))] for one in found], dtype=np.int64)

    def asked(self, questions: list[str], count: int) -> tuple[list[str], np.ndarray]:
        """Return the questions and the nearest to each."""
        return questions, self.nearest(questions, count, others=True)

    def sample(self, size: int, count: int, seed: int) -> tuple[list[str], np.ndarray]:
        """Return some of the candidates' own questions, with the nearest others to each."""
        drawn = np.random.default_rng(seed).permutation(len(self.rows))[:size]
        return self.asked([self.pool.questions[row] for row in self.rows[drawn]], count)

    def losses(self, questions: Sequence[str], places: np.ndarray) -> np.ndarray:
        """Return the losses (Q,) of questions behind demonstrations (Q, r)."""
        from icl_plugins.proxy.slot_gradients import query_losses

        found: np.ndarray = query_losses(
            self.proxy, self.texts.at(places), questions_of(self.proxy, questions)
        ).numpy()
        return found

    def estimates(
        self, questions: Sequence[str], chosen: np.ndarray, left: np.ndarray, anchors: Anchors
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the estimated losses (Q, c) of each candidate left (Q, c) behind the chosen (Q, r).

        And the losses (Q,) at the anchors, the mean over them.
        """
        from icl_plugins.proxy.slot_gradients import query_gradients

        encoded, before = questions_of(self.proxy, questions), self.texts.at(chosen)
        ends = self._ends(left, anchors)
        estimates, at_anchor = np.zeros(left.shape), np.zeros(len(left))
        for end in ends:
            for rows, losses, gradients in query_gradients(self.proxy, before + end, encoded):
                gradient = gradients[:, -1]
                standing = (gradient * end.embeddings[rows, 0].float().cpu()).sum((1, 2))
                moved = self.texts.at(left[rows]).embeddings.float().cpu()
                change = (gradient[:, None] * moved).sum((2, 3)) - standing[:, None]
                estimates[rows] += (losses[:, None] + change).numpy() / len(ends)
                at_anchor[rows] += losses.numpy() / len(ends)
        if not np.isfinite(estimates).all():
            raise NonFiniteError(
                f"{(~np.isfinite(estimates)).sum()} of {estimates.size} estimates that are NaN or infinite",
                expected="finite estimates",
                fix='look at the examples, or load the proxy with dtype="float32"',
            )
        return estimates, at_anchor

    def _ends(self, left: np.ndarray, anchors: Anchors) -> "list[Slots]":
        """Return what stands in the last slot of each query's anchors, (Q, 1, T, h)."""
        if anchors == "mean":
            from icl_plugins.proxy.slots import Slots

            return [Slots.stack([self.texts.mean(1, own) for own in left])]
        return [self.texts.at(end[:, None]) for end in left[:, :anchors].T]


def questions_of(proxy: "Proxy", questions: Sequence[str]) -> "list[Encoded]":
    """Return questions as sequences whose answer they are themselves."""
    from icl_plugins.proxy.encoding import Encoded

    lead = proxy.encoder.leading
    return [Encoded(list(ids), lead, len(ids)) for ids, _ in proxy.encoder.tokenize(questions)]
