"""The report of a selection, and of a prompt, which knows its demonstrations but not its pool."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from icl_plugins.artefacts import canonical_json
from icl_plugins.errors import SettingError
from icl_plugins.provenance import origin_of
from icl_plugins.report.demonstrations import Shot, demonstrations_list
from icl_plugins.report.estimates import Estimates, estimates_of
from icl_plugins.report.features_map import FeatureMap, feature_map
from icl_plugins.report.markup import Markup, Table, element, joined, scrolling_table
from icl_plugins.report.page import Report, Section, facts_list, paragraph
from icl_plugins.report.plot import Plot, require_matplotlib
from icl_plugins.report.random_sets import expected_label_kl
from icl_plugins.report.selection_plots import balance_plot, map_plot, objective_plot

if TYPE_CHECKING:
    from icl_plugins.prompt import ManyShotPrompt
    from icl_plugins.selection import Selection


def selection_report(
    selection: "Selection",
    *,
    features: Any = None,
    tokens: Sequence[int] | None = None,
    rows: Sequence[int] | None = None,
    cost: Mapping[str, str] | None = None,
) -> Report:
    """Report a selection: label balance, map of the pool, objective, estimates, demonstrations, cost.

    features: (N, d) of the pool, those that the objective is made of, as `GradientMatching.features` returns
    them; None: proxy embeddings, which runs the proxy. tokens: (n,) of each demonstration. rows: (N,) the
    number to show for each row of the pool (default: its own). cost: further names and values of the section
    on cost. Raises SettingError for another number of tokens or rows, OptionalDependencyError without
    matplotlib, and what `feature_map` raises.
    """
    pool = selection.pool
    _check_length("tokens", tokens, len(selection))
    _check_length("rows", rows, len(pool))
    require_matplotlib()
    report = selection.report()
    found = feature_map(selection, features)
    estimates = estimates_of(report)
    numbers = range(len(pool)) if rows is None else rows
    counts: Sequence[int | None] = [None] * len(selection) if tokens is None else tokens
    shots = [
        Shot(pool.questions[row], pool.answers[row], pool.labels[row], numbers[row], score, count)
        for row, score, count in zip(selection.indices, selection.scores, counts, strict=True)
    ]
    return Report(
        f"{len(selection):,} demonstrations chosen from {len(selection.pool):,} examples",
        _facts(report, estimates),
        (
            Section("pool", "Beside the pool", tuple(_plots(selection, found)), paragraph(_left_out(report))),
            *([] if estimates is None else [Section("estimates", "Estimates", (), _estimates(estimates))]),
            Section("demonstrations", "Demonstrations", (), demonstrations_list(shots)),
            Section("cost", "Cost", (), _cost(report["details"], tokens, cost or {})),
            Section("made", "How it was made", (), made_table(report["config"], report["fingerprints"])),
        ),
    )


def prompt_report(prompt: "ManyShotPrompt", *, tokens: Sequence[int] | None = None) -> Report:
    """Report what a saved prompt holds: its demonstrations with their scores, and how it was made.

    The pool is not in it, so there is neither balance nor map. tokens: (n,) of each demonstration; raises
    SettingError for another number of them.
    """
    _check_length("tokens", tokens, len(prompt.demonstrations))
    told = origin_of(prompt)
    counts: Sequence[int | None] = [None] * len(prompt.demonstrations) if tokens is None else tokens
    shots = [
        Shot(question, answer, answer.strip(), row, score, count)
        for (question, answer), row, score, count in zip(
            prompt.demonstrations, told.rows, told.scores, counts, strict=True
        )
    ]
    facts = {
        "Method": str(told.config.get("selector", "")),
        "Distinct answers": f"{len({shot.label for shot in shots}):,}",
        "Tokens": f"{sum(tokens):,}" if tokens else "",
        "Instruction": prompt.instruction,
    }
    fingerprints = {"prompt": prompt.fingerprint, **told.fingerprints}
    return Report(
        f"A prompt of {len(shots):,} demonstrations",
        facts,
        (
            Section("demonstrations", "Demonstrations", (), demonstrations_list(shots)),
            Section("made", "How it was made", (), made_table(told.config, fingerprints)),
        ),
    )


def _check_length(name: str, values: Sequence[int] | None, length: int) -> None:
    if values is not None and len(values) != length:
        raise SettingError(f"{len(values)} {name}", expected=f"{length}, or None", fix=f"pass {length}")


def _facts(report: Mapping[str, Any], estimates: Estimates | None) -> dict[str, str]:
    config, details, objective = report["config"], report["details"], report["objective"]
    labels = report["labels"]
    random_kl = expected_label_kl(labels["pool"], report["shots"])
    facts = {
        "Method": str(config.get("selector", "")),
        "Labels shown": f"{len(labels['selection']):,} of {len(labels['pool']):,}",
        "Label KL to the pool": f"{report['label_kl']:.4f} nats; random {random_kl:.4f}",
    }
    if objective is not None:
        name = str(objective["name"] or "objective")
        random = "" if objective["random"] is None else f"; random {objective['random']:.4g}"
        facts[name[:1].upper() + name[1:]] = f"{objective['final']:.4g}{random}"
    if estimates is not None:
        facts["Loss of the queries"] = estimates.loss
    return {**facts, "Proxy": str(config.get("proxy", "")), "Device": str(details.get("device", ""))}


def _plots(selection: "Selection", found: FeatureMap) -> Iterator[Plot]:
    if not _mostly_distinct(selection.pool.label_counts):
        yield balance_plot(selection.pool.label_counts, Counter(selection.labels))
    if selection.objective:
        yield objective_plot(selection, found.random_range)
    yield map_plot(selection, found)


def _left_out(report: Mapping[str, Any]) -> str:
    """Say what of the pool and of the plots is not there, and why."""
    pool = report["labels"]["pool"]
    parts = [f"{len(rows):,} examples were left out: {reason}." for reason, rows in report["skipped"].items()]
    if _mostly_distinct(pool):
        parts.append(f"Label balance: none, since most of the {len(pool):,} labels occur only once.")
    if report["objective"] is None:
        parts.append("Objective: none, since the method has none.")
    elif report["objective"]["first"] is None:
        parts.append("Objective against shots: none, since it is not known in this order.")
    return " ".join(parts)


def _mostly_distinct(counts: Mapping[str, int]) -> bool:
    return 2 * len(counts) > sum(counts.values())


def _estimates(estimates: Estimates) -> Markup:
    about = (
        "The constant is the outcome at the anchors, where nothing is estimated. Relative error: the "
        "difference over the larger of both. Rank correlation: Spearman's, 1 where all are in the right "
        "order. Regret: by how much the tenth that the estimates put first is worse than the best tenth; "
        "for the constant, by how much all are. Squared error explained: how much of the constant's the "
        "estimates do away with; below 0 where they are further off."
    )
    told = map(paragraph, (about, *estimates.notes.values()))
    return joined([paragraph(estimates.verdict), scrolling_table(estimates.table), *told])


def _cost(details: Mapping[str, Any], tokens: Sequence[int] | None, more: Mapping[str, str]) -> Markup:
    facts = {}
    if details.get("tokens") is not None:
        facts["Tokens of the prompt"] = f"{details['tokens']:,}"
    if tokens:
        shortest, longest = min(tokens), max(tokens)
        facts["Tokens of a demonstration"] = (
            f"{sum(tokens) / len(tokens):.1f} on average, {shortest:,} to {longest:,}"
        )
    for stage, seconds in (details.get("seconds") or {}).items():
        facts[f"Time of {stage}"] = f"{seconds:,.1f} s"
    facts |= more
    return facts_list(facts) if facts else element("p", "Nothing was counted.")


def made_table(config: Mapping[str, object], fingerprints: Mapping[str, object]) -> Markup:
    """Return settings and fingerprints as a table."""
    settings = [(name, canonical_json(value)) for name, value in config.items()]
    made = [(f"fingerprint of {name}", str(value)) for name, value in fingerprints.items()]
    return scrolling_table(Table("Settings and fingerprints", ("name", "value"), (*settings, *made)))
