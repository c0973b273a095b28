"""GradCE (arXiv 2508.19999): demonstrations for each query, those that its text is likeliest behind."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.algorithms.honesty import EstimateQuality, Measured, estimate_quality
from icl_plugins.errors import NonFiniteError, SettingError, TooLongError
from icl_plugins.examples import Pool
from icl_plugins.progress import tell_progress
from icl_plugins.selectors._context import context_losses
from icl_plugins.selectors._influence import Chosen, Influence, Sets
from icl_plugins.selectors._prepare import slot_fit, slot_tokens
from icl_plugins.selectors._rankers import VectorReader, Vectors, using
from icl_plugins.selectors._settings import load_proxy
from icl_plugins.selectors._study import Anchors, Study

if TYPE_CHECKING:
    from icl_plugins.proxy.encoding import Encoded
    from icl_plugins.proxy.model import Proxy
    from icl_plugins.proxy.slots import Slots, SlotTexts

_BLOCK = 2**24  # numbers of embeddings that estimates hold at once

# (chosen (Q, r), left (Q, c), estimates (Q, c), outcomes at the anchors (Q,)) as a round begins
Round = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class GradCE(Influence):
    """Choose for a query, of the `candidates` nearest, those that its text is estimated likeliest behind.

    One after the other: each is judged behind those already chosen. Nearest by the cosine of the proxy's mean
    hidden states; the outcome is -log p(question | demonstrations) in nats, which needs no answer, where the
    released code takes all tokens of the prompt. Around anchors that end in the `anchors` nearest candidates,
    or in the mean of all; the check is made on the other candidates, behind 0 to `each` - 1 chosen ones.

    `ranker` chooses for single queries, as `Hybrid` asks, which shows the first chosen last, next to the
    query, though the others were judged there. As the selector of a fixed prompt every held-out query votes
    for `each` demonstrations; scores are the votes. What is chosen by estimates has free labels:
    `slot_labels` has an effect on the random sets of the fallback only, and `arrangements` none.
    """

    anchors: Anchors = 4
    candidates: int = 20
    each: int = 4

    @classmethod
    def paper(cls, **settings: Any) -> Self:
        """Return the published settings: single demonstrations, the nearest as anchor, no fallback."""
        return cls(**{"anchors": 1, "each": 1, "on_bad_estimate": "warn", **settings})

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

    def ranker(self, pool: Pool, rows: Sequence[int]) -> "Likeliest":
        """Return the function from a question to these rows: its candidates, `each` conditioned, then others.

        The others come nearest first, and so do all where the estimates, which are measured on questions of
        the pool, do not rank and the fallback is chosen. Raises what `select` raises.
        """
        proxy = load_proxy(self.proxy)
        quality = None
        with using(proxy):
            near = self._nearby(proxy, pool, np.asarray(rows, dtype=np.int64))
            if self.check:
                drawn = np.random.default_rng(self.seed).permutation(near.rows)
                asked = self._asked(near, [pool.questions[row] for row in drawn.tolist()])
                quality = self._quality(near, *asked) if asked[1].size else None
        if quality is None:
            return Likeliest(near, self)
        fell_back = not quality.trusted and self._acts_on(quality)
        return Likeliest(near, self, fell_back, {"estimate": {**asdict(quality), "fell_back": fell_back}})

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
        texts = SlotTexts.of(proxy, [tokens[row] for row in rows.tolist()], width)
        return Nearby.of(proxy, pool, rows, texts)

    def _measure(self, study: Study, surrogate: Any) -> tuple[EstimateQuality, None]:
        near = Nearby.of(study.proxy, study.request.pool, study.rows, study.texts)
        return self._quality(near, *self._asked(near, list(study.queries.questions))), None

    def _choose(self, study: Study, surrogate: Any, sets: Sets | None) -> Chosen:
        near = Nearby.of(study.proxy, study.request.pool, study.rows, study.texts)
        questions = list(study.queries.questions)
        places = near.nearest(questions, self.candidates, others=True)
        picked = self._picked(near, questions, places)[:, : self.each]
        votes = np.bincount(picked.flatten(), minlength=len(study.rows))
        taken = study.take(np.argsort(-votes, kind="stable"))
        return Chosen(taken, votes[taken].tolist())

    def _asked(self, near: "Nearby", questions: list[str]) -> tuple[list[str], np.ndarray]:
        """Return as many of the questions as `check` takes, and the nearest to each that ask another one."""
        size = self._queries_for(max(1, min(self.candidates, len(near.rows) - 1)))
        while True:
            places = near.nearest(questions[:size], self.candidates, others=True)
            needed = self._queries_for(places.shape[1])
            if size >= min(needed, len(questions)):
                return questions[:size], places
            size = needed

    def _queries_for(self, candidates: int) -> int:
        """Return how many queries with so many candidates it takes to measure on `check` subsets."""
        rounds, queries, subsets = self._measured_rounds(candidates), 0, 0
        while candidates and subsets < self.check:
            left = candidates - queries % rounds
            subsets += left - self._exact(left)
            queries += 1
        return max(4, queries)

    def _measured_rounds(self, candidates: int) -> int:
        """Return how many rounds choose, of at least two candidates if there are."""
        return max(1, min(self.each, candidates - 1))

    def _exact(self, left: int) -> int:
        """Return how many of those left are anchors, not to be measured; 0 if fewer than two are none."""
        return self.anchors if self.anchors != "mean" and left - self.anchors >= 2 else 0

    def _quality(self, near: "Nearby", questions: list[str], places: np.ndarray) -> EstimateQuality:
        """Measure in prompts as they are sent, each query in one of the rounds, the rounds in turns."""
        rounds = self._measured_rounds(places.shape[1])
        groups = []
        for done in range(min(rounds, len(questions))):
            asked = questions[done::rounds]
            state = next(islice(self._rounds(near, asked, places[done::rounds]), done, None))
            for question, chosen, left, estimates, at_anchor in zip(asked, *state, strict=True):
                first = self._exact(len(left))
                fits, real = near.losses(question, chosen, left[first:])
                if len(real):
                    groups.append(Measured(estimates[first:][fits], real, float(at_anchor)))
            tell_progress("real subsets", done + 1, rounds)
        if not groups:
            raise TooLongError(
                f"no question fits behind up to {rounds} demonstrations to measure the estimates",
                expected=f"at most {near.proxy.max_length} tokens, the context of {near.proxy.name!r}",
                fix="lower each, set check=0, or choose a proxy with a longer context",
            )
        return estimate_quality(groups)

    def _rounds(self, near: "Nearby", questions: Sequence[str], places: np.ndarray) -> Iterator[Round]:
        """Yield each round of choosing among the candidates (Q, c), which takes the best of those left."""
        chosen, left = places[:, :0], places
        for _ in range(min(self.each, places.shape[1])):
            estimates, at_anchor = near.estimates(questions, chosen, left, self.anchors)
            yield chosen, left, estimates, at_anchor
            best = estimates.argmin(1)
            chosen = np.hstack([chosen, np.take_along_axis(left, best[:, None], 1)])
            left = left[np.arange(left.shape[1]) != best[:, None]].reshape(len(left), -1)

    def _picked(self, near: "Nearby", questions: Sequence[str], places: np.ndarray) -> np.ndarray:
        """Return the candidates (Q, c) with those first that are chosen one after the other.

        The last round ranks all that are left.
        """
        ranked = places
        for done, (chosen, left, estimates, _) in enumerate(self._rounds(near, questions, places)):
            order = estimates.argsort(1, kind="stable")
            ranked = np.hstack([chosen, np.take_along_axis(left, order, 1)])
            tell_progress("rounds", done + 1, self.each)
        return ranked


@dataclass(frozen=True, eq=False)
class Likeliest:
    """Ranks rows for a question as GradCE does; by similarity alone where it fell back.

    about: the quality of the estimates and whether it fell back, empty where nothing was measured.
    """

    near: "Nearby"
    method: GradCE
    fell_back: bool = False
    about: dict[str, object] = field(default_factory=dict)

    def __call__(self, question: str) -> np.ndarray:
        """Return the rows, best first."""
        near, count = self.near, self.method.candidates
        with using(near.proxy):
            places = near.nearest([question], len(near.rows))
            if not self.fell_back:
                picked = self.method._picked(near, [question], places[:, :count])
                places = np.hstack([picked, places[:, count:]])
        ranked: np.ndarray = near.rows[places[0]]
        return ranked


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

    def losses(self, question: str, chosen: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the real losses of a question behind the chosen and each of `last`, as texts.

        Only of those prompts that fit the proxy; which (c,) bool, and their losses.
        """
        shots = [self.pool.texts[row] + self.pool.template.separator for row in self.rows[chosen].tolist()]
        ends = [self.pool.texts[row] + self.pool.template.separator for row in self.rows[last].tolist()]
        fronts = ["".join([*shots, end]) for end in ends]
        room = self.proxy.max_length - self.proxy.encoder.leading
        fits = np.array(self.proxy.count_tokens([front + question for front in fronts])) <= room
        fronts = [front for front, one in zip(fronts, fits, strict=True) if one]
        if not fronts:
            return fits, np.zeros(0)
        return fits, context_losses(self.proxy, [], "", fronts, [question] * len(fronts))

    def estimates(
        self, questions: Sequence[str], chosen: np.ndarray, left: np.ndarray, anchors: Anchors
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the estimated losses (Q, c) of each candidate left (Q, c) behind the chosen (Q, r).

        And the losses (Q,) at the anchors, the mean over them.
        """
        numbers = (chosen.shape[1] + 1 + left.shape[1]) * self.texts.ids.shape[1]
        size = max(1, _BLOCK // (numbers * self.texts.embeddings.shape[1]))
        blocks = [slice(start, start + size) for start in range(0, len(left), size)]
        found = [self._estimates(questions[one], chosen[one], left[one], anchors) for one in blocks]
        estimates, at_anchor = (np.concatenate(part) for part in zip(*found, strict=True))
        if not np.isfinite(estimates).all():
            raise NonFiniteError(
                f"{(~np.isfinite(estimates)).sum()} of {estimates.size} estimates that are NaN or infinite",
                expected="finite estimates",
                fix='look at the examples, or load the proxy with dtype="float32"',
            )
        return estimates, at_anchor

    def _estimates(
        self, questions: Sequence[str], chosen: np.ndarray, left: np.ndarray, anchors: Anchors
    ) -> tuple[np.ndarray, np.ndarray]:
        from icl_plugins.proxy.slot_gradients import query_gradients

        encoded, before = questions_of(self.proxy, questions), self.texts.at(chosen)
        count = 1 if anchors == "mean" else min(anchors, left.shape[1])
        estimates, at_anchor = np.zeros(left.shape), np.zeros(len(left))
        for number in range(count):
            end = self._end(left, None if anchors == "mean" else number)
            for rows, losses, gradients in query_gradients(self.proxy, before + end, encoded):
                gradient = gradients[:, -1]
                standing = (gradient * end.embeddings[rows, 0].float().cpu()).sum((1, 2))
                moved = self.texts.at(left[rows]).embeddings.float().cpu()
                change = (gradient[:, None] * moved).sum((2, 3)) - standing[:, None]
                estimates[rows] += (losses[:, None] + change).numpy() / count
                at_anchor[rows] += losses.numpy() / count
        return estimates, at_anchor

    def _end(self, left: np.ndarray, number: int | None) -> "Slots":
        """Return what stands in the last slot (Q, 1, T, h): one of those left, None for their mean."""
        if number is None:
            from icl_plugins.proxy.slots import Slots

            return Slots.stack([self.texts.mean(1, own) for own in left])
        return self.texts.at(left[:, number, None])


def questions_of(proxy: "Proxy", questions: Sequence[str]) -> "list[Encoded]":
    """Return questions as sequences whose answer they are themselves."""
    from icl_plugins.proxy.encoding import Encoded

    lead = proxy.encoder.leading
    return [Encoded(list(ids), lead, len(ids)) for ids, _ in proxy.encoder.tokenize(questions)]
