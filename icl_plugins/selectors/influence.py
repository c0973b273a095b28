"""GradE (arXiv 2508.19999): demonstrations chosen by first-order estimates of held-out losses.

Around anchors, prompts that were run forward and backward once, the loss behind every other ordered subset of
the same slots is a constant and one look-up for each slot (algorithms/slots.py).
"""

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from icl_plugins.algorithms.assignment import assign, assign_near
from icl_plugins.algorithms.checks import whole_number
from icl_plugins.algorithms.constraints import Constraints, Feasible
from icl_plugins.algorithms.honesty import EstimateQuality, Measured, estimate_quality
from icl_plugins.algorithms.slots import SlotTable
from icl_plugins.errors import SettingError
from icl_plugins.progress import tell_progress
from icl_plugins.selectors._common import by_score
from icl_plugins.selectors._error_rates import error_rates, real_error_rates
from icl_plugins.selectors._influence import Chosen, Influence, Sets
from icl_plugins.selectors._joined import joined_table
from icl_plugins.selectors._settings import check_choice
from icl_plugins.selectors._study import Anchors, Study


@dataclass(frozen=True)
class GradRE(Influence):
    """Score an example by the mean estimated outcome of random subsets that hold it; take the best.

    subsets: how many are drawn, at least so many that every example is in one; None takes the limit of all
    ordered subsets, which has a closed form: the mean of the example's estimates over its slots.
    subset_size: None for as many as shots. outcome: "loss", or "accuracy": one less the share of queries
    whose answer has the least estimated loss of all labels, which takes `subsets`. layout: "slots", or
    "joined": demonstrations follow each other without pads, which takes `subsets` too.
    Scores are minus the mean outcome, less what is the same for all in closed form.
    """

    subsets: int | None = None
    subset_size: int | None = None
    outcome: Literal["loss", "accuracy"] = "loss"
    layout: Literal["slots", "joined"] = "slots"

    @classmethod
    def paper(cls, **settings: Any) -> Self:
        """Return the published settings: accuracy on 100 subsets around 5 anchors, labels free, no fallback.

        What differs: subsets cover every example and are not sorted, losses are those of the whole answer at
        its place, and anchors are drawn apart from the subsets (faults of the released code).
        """
        published: dict[str, Any] = {
            "subsets": 100,
            "outcome": "accuracy",
            "layout": "joined",
            "anchors": 5,
            "slot_labels": False,
            "on_bad_estimate": "warn",
        }
        return cls(**{**published, **settings})

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        for name in ("subsets", "subset_size"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), 1)
        check_choice("outcome", self.outcome, ("loss", "accuracy"))
        check_choice("layout", self.layout, ("slots", "joined"))
        if self.subsets is None and (self.outcome, self.layout) != ("loss", "slots"):
            raise SettingError(
                f"outcome={self.outcome!r} and layout={self.layout!r} with subsets=None",
                expected="a number of subsets",
                fix="pass subsets=100",
            )
        if self.layout == "joined" and (self.anchors == "mean" or self.reduced is not None):
            raise SettingError(
                f'layout="joined" with anchors={self.anchors!r} and reduced={self.reduced!r}',
                expected="a number of anchors, and nothing reduced",
                fix='pass layout="slots"',
            )

    @property
    def _slots(self) -> int | None:
        return self.subset_size

    def _estimate(self, study: Study) -> "_Scored":
        drawn, checked = self._drawn(study), study.draw(self.check, seed=1)
        if self.subsets is None:
            table, anchor = study.table(study.anchors(self.anchors))
            scores = table.mean_scores(study.slots[:, None] == study.labels)
            return _Scored(scores, checked, table.outcomes(checked), anchor)
        outcomes, anchor = self._outcomes(study, np.concatenate([drawn, checked]))
        return _Scored(_means(study, drawn, outcomes), checked, outcomes[len(drawn) :], anchor)

    def _outcomes(self, study: Study, subsets: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the estimated outcomes (m,) of subsets, and that of the anchors."""
        if self.layout == "joined" and self.anchors != "mean":
            around = study.draw(self.anchors)
            if self.outcome == "accuracy":
                return error_rates(study, around, subsets)
            estimate, anchor = joined_table(study, around)
            return estimate.outcomes(subsets), anchor
        anchors = study.anchors(self.anchors)
        if self.outcome == "accuracy":
            return error_rates(study, anchors, subsets)
        table, anchor = study.table(anchors)
        return table.outcomes(subsets), anchor

    def _measure(self, study: Study, surrogate: "_Scored") -> tuple[EstimateQuality, Sets | None]:
        measure = real_error_rates if self.outcome == "accuracy" else Study.losses
        real = measure(study, surrogate.checked)
        quality = estimate_quality([Measured(surrogate.estimates, real, surrogate.anchor)])
        whole = self.outcome == "loss" and self.subset_size is None  # losses, and of sets that may be chosen
        return quality, (surrogate.checked, real) if whole else None

    def _choose(self, study: Study, surrogate: "_Scored", sets: Sets | None) -> Chosen:
        scores = -surrogate.outcomes
        places = study.take(study.ranked(scores))
        return Chosen(places, scores[places].tolist())

    def _drawn(self, study: Study) -> np.ndarray:
        """Return the subsets (m, k) that are scored, none of them where there is a closed form."""
        if self.subsets is None:
            return study.draw(0)
        sizes = zip(np.bincount(study.labels), np.bincount(study.slots), strict=False)
        covering = max(-(-int(members) // int(places)) for members, places in sizes if places)
        return study.draw(max(self.subsets, covering), seed=3)


@dataclass(frozen=True, eq=False)
class _Scored:
    """The mean outcome (n,) of the subsets with each candidate; subsets to check, and their estimates."""

    outcomes: np.ndarray
    checked: np.ndarray
    estimates: np.ndarray
    anchor: float


def _means(study: Study, subsets: np.ndarray, outcomes: np.ndarray) -> np.ndarray:
    """Return the mean outcome (n,) of the subsets that hold a candidate; of those in none, the worst."""
    size, members = len(study.rows), subsets.flatten()
    held = np.bincount(members, minlength=size)
    weights = np.repeat(outcomes[: len(subsets)], subsets.shape[1])
    sums = np.bincount(members, weights=weights, minlength=size)
    return np.asarray(np.where(held > 0, sums / np.maximum(held, 1), outcomes.max(initial=0.0)))


@dataclass(frozen=True)
class GradFS(Influence):
    """Add one demonstration after the other: the one that the estimated loss is least with.

    In each round the prompt so far stands in front of `anchors` other demonstrations, the longest one first,
    or of their mean, and the loss of every demonstration in their place is estimated. `true_steps`: in that
    many first rounds all of them are tried instead. Scores are minus the loss of the round; the objective is
    that loss.
    """

    anchors: Anchors = 4
    true_steps: int = 0

    @classmethod
    def paper(cls, **settings: Any) -> Self:
        """Return the published settings: the longest example as the only anchor, labels free, no fallback."""
        return cls(**{"anchors": 1, "slot_labels": False, "on_bad_estimate": "warn", **settings})

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        whole_number("true_steps", self.true_steps, 0)

    def _measure(self, study: Study, surrogate: None) -> tuple[EstimateQuality, None]:
        """Measure on single additions to the beginnings of random sets."""
        beginnings, groups = min(8, self.check // 2), list[Measured]()
        for at, subset in enumerate(study.draw(4 * beginnings, seed=1)):
            if sum(len(one.real) for one in groups) >= self.check:
                break
            before = subset[: at % beginnings * len(subset) // beginnings]
            open_ = np.random.default_rng((self.seed, at)).permutation(self._open(study, before))
            tried = open_[: max(1, min(self.check // beginnings, len(open_) - self._ends))]
            # anchors are others where there are some: at an anchor the estimate is exact
            others = np.setdiff1d(open_, tried)
            estimates, anchor = self._added(study, before, others if len(others) else open_)
            real = study.losses([np.append(before, one) for one in tried])
            groups.append(Measured(estimates[tried], real, anchor))
        return estimate_quality(groups), None

    def _choose(self, study: Study, surrogate: None, sets: Sets | None) -> Chosen:
        def forward(constraints: Constraints) -> tuple[list[int], list[float]]:
            feasible, included = Feasible(constraints), [study.place[row] for row in constraints.include]
            losses = study.losses([included[: at + 1] for at in range(len(included))], "included").tolist()
            while feasible.allowed().any():
                places = np.array([study.place[row] for row in feasible.indices], dtype=np.int64)
                open_ = np.flatnonzero(feasible.allowed()[study.rows])
                of_slot = np.intersect1d(open_, self._open(study, places))
                open_ = of_slot if len(of_slot) else open_
                if len(places) < self.true_steps:
                    found = study.losses([np.append(places, one) for one in open_])
                else:
                    found = self._added(study, places, open_)[0][open_]
                feasible.take(int(study.rows[open_[found.argmin()]]))
                losses.append(float(found.min()))
                tell_progress("rounds", len(losses), len(study.slots))
            return feasible.indices, losses

        rows, losses = study.request.choose(forward, lambda found: found[0])
        return Chosen([study.place[row] for row in rows], [-loss for loss in losses], losses)

    @property
    def _ends(self) -> int:
        return 1 if self.anchors == "mean" else self.anchors

    def _open(self, study: Study, places: np.ndarray) -> np.ndarray:
        """Return the candidates with the label of the next slot that are not there yet."""
        label = study.slots[min(len(places), len(study.slots) - 1)]
        return np.setdiff1d(np.flatnonzero(study.labels == label), places)

    def _added(self, study: Study, before: np.ndarray, open_: np.ndarray) -> tuple[np.ndarray, float]:
        """Return the estimated loss (n,) of each candidate behind some others, and that of the anchors."""
        if self.anchors == "mean":
            ends = [study.texts.mean(1, open_)]
        else:
            lengths = (study.texts.ids[open_] >= 0).sum(1)
            longest = int(open_[lengths.argmax()])
            others = np.random.default_rng((self.seed, len(before))).permutation(open_[open_ != longest])
            ends = [study.texts.at([one]) for one in [longest, *others[: self.anchors - 1]]]
        table, anchor = study.table([study.texts.at(before) + end for end in ends], last=1)
        return table.constant + table.table[0], anchor


@dataclass(frozen=True)
class SlotAssignment(Influence):
    """Put into the slots the demonstrations whose estimated loss is the least of all ordered subsets.

    The best subset of a table is a linear assignment (within a token budget nearly the best); it is made anew
    around each subset that real losses prove better, with as many changes as these bear: of the subsets with
    at most k, k/2, ... 1 changes that the table finds best (one exactly, more nearly) the one with the least
    real loss is taken, up to `rounds` times, until there is none. The first incumbent is the best by real
    losses of the random sets that were measured, the arrangement and the first assignment.
    Scores are how many nats less the estimate says than of the mean candidate of the slot.
    """

    rounds: int = 16

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        whole_number("rounds", self.rounds, 0)

    def _estimate(self, study: Study) -> tuple[SlotTable, float]:
        return study.table(study.anchors(self.anchors))

    def _measure(self, study: Study, surrogate: tuple[SlotTable, float]) -> tuple[EstimateQuality, Sets]:
        return _measured(study, surrogate, self.check)

    def _choose(self, study: Study, surrogate: tuple[SlotTable, float], sets: Sets | None) -> Chosen:
        table, allowed = surrogate[0], study.allowed
        costs = study.request.constraints.costs

        def climb(constraints: Constraints) -> tuple[np.ndarray, list[float]]:
            tokens, most = (
                (study.lengths, study.room) if costs is None else (costs[study.rows], constraints.max_cost)
            )
            limits: dict[str, Any] = {"allowed": allowed, "tokens": tokens, "most": most}
            finalists = [assign(table.table, **limits), *_lawful_best(study, sets, limits)]
            finalists += [] if study.arrangement is None else [study.arrangement]
            losses = study.losses(finalists, "finalists")
            incumbent, trace = finalists[int(losses.argmin())], [float(losses.min())]
            for round_ in range(self.rounds):
                near, _ = study.table([study.texts.at(one) for one in self._near(study, incumbent, round_)])
                tried = {
                    tuple(assign_near(near.table, incumbent, changes, **limits).tolist())
                    for changes in _halves(len(incumbent))
                } - {tuple(incumbent.tolist())}
                losses = study.losses(sorted(tried), "finalists")
                if not tried or losses.min() >= trace[-1]:
                    break
                incumbent = np.array(sorted(tried)[int(losses.argmin())])
                trace.append(float(losses.min()))
                tell_progress("rounds", round_ + 1, self.rounds)
            return incumbent, trace

        places, trace = study.request.choose(climb, lambda found: study.rows[found[0]].tolist())
        less = (
            np.where(allowed, table.table, 0).sum(1, keepdims=True) / allowed.sum(1, keepdims=True)
            - table.table
        )
        scores = SlotTable(less, 0.0).mean_scores(allowed)
        others = by_score(scores, np.setdiff1d(np.arange(len(scores)), places).tolist())
        scores[places] = less[np.arange(len(places)), places]
        taken = study.take([*places, *others])  # more than there are slots where a budget has room for them
        return Chosen(taken, scores[taken].tolist(), details={"trace": trace})

    def _near(self, study: Study, incumbent: np.ndarray, round_: int) -> np.ndarray:
        """Return the incumbent and, for the other anchors, sets that share half of its slots."""
        if self.anchors == "mean":
            return incumbent[None]
        drawn = study.draw(self.anchors, seed=2 + round_)
        stays = np.random.default_rng((self.seed, round_)).random(drawn.shape) < 0.5
        stays[0] = True
        mixed = np.where(stays, incumbent, drawn)
        distinct = [row for row in mixed if len(set(row.tolist())) == len(row)]
        return np.array(distinct)


def _halves(count: int) -> list[int]:
    return [count >> shift for shift in range(count.bit_length()) if count >> shift]


def _lawful_best(study: Study, sets: Sets | None, limits: dict[str, Any]) -> list[np.ndarray]:
    """Return the best of the measured sets that may be taken as it is."""
    if sets is None:
        return []
    tokens, most, allowed = limits["tokens"], limits["most"], limits["allowed"]
    for subset in sets[0][np.argsort(sets[1], kind="stable")]:
        if allowed[np.arange(len(subset)), subset].all() and (
            tokens is None or most is None or tokens[subset].sum() <= most
        ):
            return [subset]
    return []


def _measured(study: Study, surrogate: tuple[SlotTable, float], check: int) -> tuple[EstimateQuality, Sets]:
    """Measure a table on random sets with the labels of its slots."""
    table, anchor = surrogate
    subsets = study.draw(check, seed=1)
    real = study.losses(subsets)
    return estimate_quality([Measured(table.outcomes(subsets), real, anchor)]), (subsets, real)
