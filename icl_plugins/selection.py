"""Selection: what a selector returns; Selector: what a selector is."""

import copy
import json
import math
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from icl_plugins.artefacts import canonical_json, fingerprint
from icl_plugins.errors import DataError, NonFiniteError, SettingError
from icl_plugins.examples import Pool
from icl_plugins.prompt import ManyShotPrompt
from icl_plugins.values import row_numbers

# details that are as true of the first k shots as of all of them
_HOLD_FOR_HEAD = (
    "objective_name",
    "device",
    "dtype",
    "reasons",
    "seconds",
    "skipped",
    "fingerprints",
    "proxy",
)
_SPREAD = ("random_spread", "random_rows")


@dataclass(frozen=True)
class Selection:
    """The demonstrations that a selector chose from a pool, in order, why, and how it was made.

    ``indices``: n distinct rows of the pool. ``scores``: n numbers, higher is better, in the unit that the
    selector documents. ``objective``: n numbers, of the first 1, 2, ... n demonstrations, lower is
    better; empty where the method has none. ``config``: the selector, its settings, seed and constraints.
    ``details``: what else is to be reported; these keys have a meaning here:

    * ``objective_name``; ``random_objective``: that of a random set of n, root mean square in closed form;
    * ``random_spread``, ``random_rows``: that of one row, and the number N of rows, where that of k rows is
      spread * sqrt((N - k) / (k (N - 1))), as it is for the distance of a mean from the mean of all N;
    * ``set_objective``: that of all n, where another order has made the trace void;
    * ``tokens``: of all demonstrations joined, a separator after each, or what a target's counter counts;
    * ``skipped``: reason -> rows left out of the candidates;
    * ``estimate``: how good first-order estimates were (EstimateQuality), and ``fell_back``; prompts keep it;
    * ``loss``, ``random_loss``: real loss of ``queries`` examples behind these and behind random sets;
    * ``fingerprints``: name -> sha256 of weights, tokenizer, ...;
    * ``proxy``: its name as given, where config has the last part of a folder only;
    * ``device``, ``dtype``, ``reasons``, ``seconds``.

    Config and details are copied as JSON would hold them. Raises SettingError for indices that repeat or are
    out of range, lengths that differ and values that JSON cannot hold; NonFiniteError for NaN or infinity.
    """

    pool: Pool = field(repr=False)
    indices: tuple[int, ...]
    scores: tuple[float, ...]
    objective: tuple[float, ...] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    details: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Turn numpy values into Python's own and check everything."""
        n = len(self.indices)
        checked = {
            "indices": _checked_indices(self.indices, len(self.pool)),
            "scores": _finite("scores", self.scores, (n,)),
            "objective": _finite("objective", self.objective, (0, n)),
            "config": _as_json("config", self.config),
            "details": _as_json("details", self.details),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        """Return the number of shots."""
        return len(self.indices)

    @property
    def examples(self) -> tuple[Mapping[str, object], ...]:
        """The chosen examples, in order."""
        return tuple(self.pool.examples[i] for i in self.indices)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the demonstrations, in order."""
        return tuple(self.pool.labels[i] for i in self.indices)

    @property
    def fingerprint(self) -> str:
        """The sha256 over the pool, the ordered indices and the configuration."""
        made = canonical_json([list(self.indices), self.config])
        return fingerprint("selection", self.pool.fingerprint, made)

    def head(self, k: int) -> "Selection":
        """Return the selection of the first k shots; raises SettingError unless 1 <= k <= shots.

        Scores refer to the selection they come from, and so do the settings in config, but for ``shots``,
        which is k; ``head_of`` is the number of shots of that selection. Details that no longer hold (tokens,
        convergence, ...) are dropped, the random baseline too unless ``random_spread`` gives that of k.
        """
        if isinstance(k, bool) or not hasattr(k, "__index__") or not 1 <= k <= len(self):
            raise SettingError(f"k={k!r}", expected=f"a whole number from 1 to {len(self)}", fix="pass one")
        k = operator.index(k)
        if k == len(self):
            return self
        config = {"head_of": len(self), **self.config, "shots": k}
        details = {key: self.details[key] for key in (*_HOLD_FOR_HEAD, *_SPREAD) if key in self.details}
        if all(key in details for key in _SPREAD):
            details["random_objective"] = _random_objective(details, k)
        kept = {name: getattr(self, name)[:k] for name in ("indices", "scores", "objective")}
        return replace(self, **kept, config=config, details=details)

    def reordered(
        self,
        positions: Iterable[int],
        order: Mapping[str, object],
        details: Mapping[str, object] | None = None,
    ) -> "Selection":
        """Return the same demonstrations in another order: first the one that is now at positions[0], ...

        positions: a permutation of 0 .. n-1; ``order``: how it came about, which config keeps; details: what
        else is to be told. Scores follow their demonstrations. The trace of the objective was that of the
        order before: it goes, but for its last value, which is the set's whatever the order
        (``set_objective`` in details). ``tokens`` go, since texts meet others now. ``head(k)`` is the first k
        in the new order. Raises SettingError unless positions is a permutation.
        """
        places = row_numbers(positions, len(self))
        if sorted(places) != list(range(len(self))):
            raise SettingError(
                f"positions {list(places[:5])}, ... for {len(self)} demonstrations",
                expected="each position once",
                fix="pass a permutation",
            )
        told = {key: value for key, value in self.details.items() if key != "tokens"}
        if self.objective:
            told["set_objective"] = self.objective[-1]
        return replace(
            self,
            indices=tuple(self.indices[place] for place in places),
            scores=tuple(self.scores[place] for place in places),
            objective=(),
            config={**self.config, "order": order},
            details={**told, **(details or {})},
        )

    def to_prompt(self, instruction: str = "") -> ManyShotPrompt:
        """Return the frozen prompt of these demonstrations, in this order.

        It keeps the examples' fields too. A field that JSON cannot hold in every demonstration (dates,
        images) is left out of them all and named under ``left_out_fields`` in the provenance.
        """
        examples, left_out = _json_fields(self.examples)
        return ManyShotPrompt(
            template=self.pool.template,
            demonstrations=tuple((self.pool.questions[i], self.pool.answers[i]) for i in self.indices),
            examples=examples,
            instruction=instruction,
            provenance={
                "selection": self.fingerprint,
                "pool": self.pool.fingerprint,
                "indices": self.indices,
                "scores": self.scores,
                "config": self.config,
                "fingerprints": _mapping(self.details.get("fingerprints")),
                "left_out_fields": left_out,
                **{key: self.details[key] for key in ("estimate",) if key in self.details},
            },
        )

    def report(self) -> dict[str, Any]:
        """Return what was chosen and how, as JSON can hold it.

        ``label_kl`` is KL(selection || pool) of the label distributions, in nats. ``tokens``, ``objective``,
        its ``first`` value and its ``random`` baseline are None where they are not known.
        """
        duplicates = self.pool.duplicates()
        chosen = dict(Counter(self.labels))
        report = {
            "shots": len(self),
            "pool_size": len(self.pool),
            "labels": {"pool": dict(self.pool.label_counts), "selection": chosen},
            "label_kl": label_kl(chosen, self.pool.label_counts),
            "objective": self._objective_report(),
            "tokens": self.details.get("tokens"),
            "skipped": self.details.get("skipped", {}),
            "duplicate_groups": {
                kind: len(getattr(duplicates, kind)) for kind in ("exact", "normalised", "conflicting")
            },
            "fingerprints": {
                **_mapping(self.details.get("fingerprints")),
                "pool": self.pool.fingerprint,
                "selection": self.fingerprint,
            },
            "config": self.config,
            "details": self.details,
        }
        return copy.deepcopy(report)

    def _objective_report(self) -> dict[str, object] | None:
        trace = self.objective or (None, self.details.get("set_objective"))
        if trace[-1] is None:
            return None
        return {
            "name": self.details.get("objective_name"),
            "first": trace[0],
            "final": trace[-1],
            "random": self.details.get("random_objective"),
        }


def label_kl(selection: Mapping[str, int], pool: Mapping[str, int]) -> float:
    """Return KL(selection || pool) in nats of two label counts; every label of the first is in the second."""
    n, total = sum(selection.values()), sum(pool.values())
    terms = (count / n * math.log(count / n * total / pool[label]) for label, count in selection.items())
    return max(0.0, math.fsum(terms))  # rounding may leave -1e-17


@runtime_checkable
class Selector(Protocol):
    """A method that picks demonstrations; a frozen dataclass of its hyper-parameters.

    ``shots`` or ``max_tokens`` or both; ``quotas`` is None, "proportional", a minimum per label, or
    label -> count; ``include`` and ``exclude`` are rows of the pool.
    """

    def select(
        self,
        pool: Pool,
        shots: int | None = None,
        *,
        max_tokens: int | None = None,
        quotas: str | int | Mapping[str, int] | None = None,
        include: Iterable[int] = (),
        exclude: Iterable[int] = (),
    ) -> Selection:
        """Return the demonstrations of ``pool`` in order; raises BudgetError if the limits cannot be met."""
        ...


def _json_fields(examples: Sequence[Mapping[str, object]]) -> tuple[tuple[dict[str, object], ...], list[str]]:
    names = dict.fromkeys(name for example in examples for name in example)
    left_out = [name for name in names if not all(_json_holds(example.get(name)) for example in examples)]
    kept = tuple({k: v for k, v in example.items() if k not in left_out} for example in examples)
    return kept, left_out


def _json_holds(value: object) -> bool:
    try:
        canonical_json(value)
    except DataError:
        return False
    return True


def _checked_indices(indices: Sequence[int], size: int) -> tuple[int, ...]:
    rows = row_numbers(indices, size)
    repeated = [row for row, count in Counter(rows).items() if count > 1]
    if not rows or repeated:
        raise SettingError(
            f"{len(rows)} indices, of which {repeated[:5]} occur more than once",
            expected="at least one index, each once",
            fix="correct the indices",
        )
    return rows


def _finite(name: str, values: Sequence[float], lengths: tuple[int, ...]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) not in lengths:
        raise SettingError(
            f"{len(numbers)} {name}",
            expected=f"{' or '.join(map(str, lengths))}",
            fix="one per demonstration",
        )
    wrong = [i for i, number in enumerate(numbers) if not math.isfinite(number)]
    if wrong:
        raise NonFiniteError(
            f"{len(wrong)} {name} that are NaN or infinite, at {wrong[:5]}",
            expected="finite numbers",
            fix="find the rows whose features are not finite",
        )
    return numbers


def _as_json(name: str, values: Mapping[str, object]) -> dict[str, object]:
    try:
        copy: dict[str, object] = json.loads(canonical_json(values))
    except DataError as error:
        raise SettingError(f"{name}: {error.got}", expected=error.expected, fix=error.fix) from error
    return copy


def _random_objective(details: Mapping[str, Any], k: int) -> float:
    spread, rows = (details[key] for key in _SPREAD)
    return float(spread * math.sqrt((rows - k) / (k * (rows - 1))))


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
