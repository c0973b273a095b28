"""What a selection tells of its own estimates: how they agree with real losses, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeGuard

from icl_plugins.algorithms.honesty import EstimateQuality
from icl_plugins.report.markup import Table

_LOSS = "mean loss of the queries"
_ERRORS = "share of the queries that are answered wrong"
_TEXT = "loss of a query's own text"


@dataclass(frozen=True)
class Estimates:
    """The estimates of a selection as text.

    table: how they and a constant agree with what was measured. verdict: what that means, and what was done.
    loss: the real loss behind the chosen set, beside random sets, in short; "" where it is not known.
    notes: name -> further sentences.
    """

    table: Table
    verdict: str
    loss: str
    notes: dict[str, str]


def estimates_of(report: Mapping[str, Any]) -> Estimates | None:
    """Return what `Selection.report` tells of estimates; None where the method has made or checked none."""
    details, config = report["details"], report["config"]
    quality = _quality(details.get("estimate"))
    if quality is None:
        return None
    outcome = _outcome(config)
    notes = {
        "loss": _losses(details, config),
        "rounds": _rounds(details.get("trace")),
        "cut": _cut(details.get("cut")),
    }
    return Estimates(
        _table(quality, outcome),
        _verdict(quality, details, config),
        _loss(details),
        {name: text for name, text in notes.items() if text},
    )


def _quality(estimate: object) -> EstimateQuality | None:
    """Read it; what another method keeps under the same name is none."""
    if not isinstance(estimate, Mapping):
        return None
    found: dict[str, Any] = {one.name: estimate.get(one.name) for one in fields(EstimateQuality)}
    return EstimateQuality(**found) if all(map(_is_number, found.values())) else None


def _outcome(config: Mapping[str, Any]) -> str:
    if config.get("selector") == "GradCE":
        return _TEXT
    return _ERRORS if config.get("outcome") == "accuracy" else _LOSS


def _table(quality: EstimateQuality, outcome: str) -> Table:
    low, high = quality.low, quality.high
    regrets = [
        f"{100 * regret:.1f} points" if outcome == _ERRORS else f"{regret:.3g} nats"
        for regret in (quality.regret, quality.constant_regret)
    ]
    errors = (
        ("relative error, mean", quality.relative_error, quality.constant_relative_error),
        (
            "relative error, mean of squares",
            quality.squared_relative_error,
            quality.constant_squared_relative_error,
        ),
    )
    return Table(
        f"Estimated and real {outcome}, and one constant for all",
        (f"on {quality.subsets:,} real subsets", "estimate", "constant"),
        (
            *((name, f"{estimate:.3g}", f"{constant:.3g}") for name, estimate, constant in errors),
            (
                "rank correlation, 95 % interval",
                f"{quality.rank_correlation:+.2f} ({low:+.2f} to {high:+.2f})",
                "0",
            ),
            ("regret of the tenth estimated best", *regrets),
            ("squared error explained", f"{100 * quality.explained:,.0f} %", "0 %"),
        ),
    )


def _verdict(quality: EstimateQuality, details: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    fell_back = details["estimate"].get("fell_back") is True
    by = "chosen by them and by real losses" if "trace" in details else "chosen by them"
    if quality.trusted and not fell_back:
        worse = " (as values they are worse than a constant)" if quality.explained < 0 else ""
        return f"The estimates rank real subsets{worse}; {by}."
    found = "The estimates do not rank real subsets beyond chance"
    if quality.low > 0:
        found = "The estimates rank real subsets, but the tenth they put first is no better than the mean"
    if not fell_back:
        return f"{found}; {by} all the same."
    sets = config.get("check", quality.subsets)
    return f"{found}: the best of {sets:,} random sets by real losses was taken instead."


def _loss(details: Mapping[str, Any]) -> str:
    loss, random = details.get("loss"), details.get("random_loss")
    if not _is_number(loss):
        return ""
    return f"{loss:.4g} nats" + (f"; random {random:.4g}" if _is_number(random) else "")


def _losses(details: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Say what the queries lose behind the chosen set and behind random ones."""
    loss, random = details.get("loss"), details.get("random_loss")
    if not _is_number(loss):
        return ""
    queries = f"{details['queries']:,} queries" if _is_number(details.get("queries")) else "queries"
    text = f"The {queries} lose {loss:.4g} nats on average behind the set chosen for them"
    if "order" in config:
        text += ", in its first order"
    return text + (f"; {random:.4g} behind random sets, which were not." if _is_number(random) else ".")


def _rounds(trace: object) -> str:
    if not isinstance(trace, list) or len(trace) < 2 or not all(map(_is_number, trace)):
        return ""
    return f"Real losses proved one set better after the other: {', '.join(f'{one:.4g}' for one in trace)}."


def _cut(cut: object) -> str:
    if not _is_number(cut):
        return ""
    return f"{cut:,} examples are longer than a slot; the estimates saw the end of them only."


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
