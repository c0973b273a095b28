"""What the methods of influence promise: held-out queries, slots, the honesty gate, each method's choice."""

import dataclasses
import warnings
from collections import Counter

import numpy as np
import pytest
from scipy.stats import spearmanr

from icl_plugins import GradCE, GradFS, GradRE, Pool, Proxy, SlotAssignment, Template
from icl_plugins.algorithms.honesty import EstimateQuality
from icl_plugins.errors import (
    BudgetError,
    DataError,
    EstimateError,
    EstimateWarning,
    NonFiniteError,
    SettingError,
    TooLongError,
)
from icl_plugins.proxy.slot_gradients import slot_gradients
from icl_plugins.selectors._common import Request
from icl_plugins.selectors._context import context_losses
from icl_plugins.selectors._joined import joined_table

KINDS = (GradCE, GradFS, GradRE, SlotAssignment)
QUICK = {"queries": 4, "check": 8, "anchors": 2}
OWN = {GradCE: {"candidates": 4, "each": 2}, SlotAssignment: {"rounds": 2}}
HELD_OUT = "held out as queries, or said by one of them"
PHONE = "lost_or_stolen_phone"

every = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@pytest.fixture
def make(reader):
    def make(kind, **settings):
        return kind(**{"proxy": reader, **QUICK, **OWN.get(kind, {}), **settings})

    return make


@pytest.fixture
def trust(monkeypatch):
    """Makes the gate say what a test needs."""
    return lambda verdict: monkeypatch.setattr(EstimateQuality, "trusted", verdict)


@pytest.fixture(scope="module")
def doubled(records, pool):
    return Pool.from_records([*records, *records], pool.template)


def study_of(selector, pool, shots, *, max_tokens=None, quotas=None, include=(), exclude=()):
    tokenizer = selector.tokenizer or selector.proxy
    return selector._study(Request.check(pool, shots, max_tokens, quotas, include, exclude, tokenizer))


def real_loss(proxy, pool, rows, queries):
    texts = [pool.texts[row] for row in rows]
    return context_losses(proxy, texts, pool.template.separator, queries.questions, queries.answers).mean()


def queries_of(pool, selection):
    return pool.subset(selection.details["skipped"][HELD_OUT])


def tokens_of(proxy, pool, rows):
    joined = "".join(pool.texts[row] + pool.template.separator for row in rows)
    return proxy.count_tokens([joined])[0]


# --- the pool ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::icl_plugins.errors.EstimateWarning")
@pytest.mark.parametrize("what", ["fallback", "warn"])
@pytest.mark.parametrize("slot_labels", [True, False])
@every
def test_a_shuffled_pool_gives_the_same_demonstrations_in_the_same_order(
    kind, slot_labels, what, make, trust, pool, records
):
    trust(False)
    for seed in range(3):
        selector = make(kind, queries=6, on_bad_estimate=what, slot_labels=slot_labels, seed=seed)
        expected = selector.select(pool, 5)
        assert expected.details["estimate"]["fell_back"] == (what == "fallback")
        order = np.random.default_rng(seed).permutation(len(records))
        found = selector.select(Pool.from_records([records[row] for row in order], pool.template), 5)
        assert found.examples == expected.examples
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-4, atol=1e-4)
        found, expected = found.details["estimate"], expected.details["estimate"]
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("verdict", [True, False], ids=["trusted", "fallback"])
@every
def test_what_a_query_says_is_never_chosen(kind, verdict, make, trust, pool, doubled):
    trust(verdict)
    for seed in range(4):
        selection = make(kind, seed=seed).select(doubled, 12, include=[3], exclude=[5, 7])
        held_out = selection.details["skipped"][HELD_OUT]
        said = {doubled.texts[row] for row in held_out}
        assert held_out and not said & {doubled.texts[row] for row in selection.indices}
        copies = [row for row in range(48) if doubled.texts[row] in said and row not in (5, 7)]
        assert sorted(held_out) == copies
        assert not {3, 5, 7} & set(held_out)
        assert len(said) == selection.details["queries"] == 4


@every
def test_no_more_than_a_quarter_is_held_out_and_what_is_included_or_excluded_never(kind, make, pool):
    limits = {"include": range(4), "exclude": range(12, 20)}
    for seed in range(4):
        selection = make(kind, queries=100, check=0, seed=seed).select(pool, 6, **limits)
        held_out = set(selection.details["skipped"][HELD_OUT])
        assert held_out <= {*range(4, 12), *range(20, 24)}
        assert len(held_out) == selection.details["queries"] == 6
        assert selection.indices[:4] == (0, 1, 2, 3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("shots", "quotas", "expected"),
    [
        (6, {PHONE: 4}, {PHONE: 4}),  # all there are
        (14, {"card_arrival": 2}, {"card_arrival": 2, "exchange_rate": 8, PHONE: 4}),
        (12, 4, {"card_arrival": 4, "exchange_rate": 4, PHONE: 4}),
        (18, "proportional", {"card_arrival": 9, "exchange_rate": 6, PHONE: 3}),
    ],
    ids=str,
)
@every
def test_queries_leave_what_the_quotas_need(kind, shots, quotas, expected, seed, make, pool):
    counts = Counter(make(kind, seed=seed, check=0).select(pool, shots, quotas=quotas).labels)
    assert {label: counts[label] for label in expected} == expected


@pytest.mark.parametrize("seed", range(4))
def test_copies_of_one_example_are_not_held_out_where_a_quota_needs_them(make, records, pool, seed):
    copies = Pool.from_records([*records, *[records[3]] * 3], pool.template)
    counts = Counter(make(GradRE, seed=seed, check=0).select(copies, 8, quotas={PHONE: 7}).labels)
    assert counts[PHONE] == 7


def test_copies_leave_as_many_shots_as_without_copies(make, doubled):
    assert len(make(GradRE, queries=12, check=0).select(doubled, 40)) == 40


@every
def test_queries_leave_the_cheapest_rows_that_a_quota_needs_within_a_budget(kind, make, pool, reader):
    cheapest = [
        min(
            (row for row in range(24) if pool.labels[row] == label),
            key=lambda row: tokens_of(reader, pool, [row]),
        )
        for label in sorted(set(pool.labels))
    ]
    budget = tokens_of(reader, pool, cheapest)
    for seed in range(4):
        chosen = make(kind, seed=seed, check=0).select(pool, 3, max_tokens=budget, quotas=1)
        assert sorted(chosen.labels) == sorted(set(pool.labels))
        assert tokens_of(reader, pool, chosen.indices) <= budget


@every
def test_queries_of_ones_own_are_used_as_they_are(kind, make, pool, trust, reader):
    trust(False)
    candidates, own = pool.subset(range(20)), pool.subset(range(20, 24))
    selection = make(kind, queries=own).select(candidates, 16)
    assert selection.details["queries"] == 4 and "skipped" not in selection.details
    assert selection.config["queries"] == {"examples": 4, "fingerprint": own.fingerprint}
    loss = real_loss(reader, candidates, selection.indices, own)
    assert selection.details["loss"] == pytest.approx(loss, rel=1e-5)
    assert study_of(make(kind, queries=own), candidates, 16).queries is own


@every
def test_queries_that_the_pool_holds_too_are_refused_by_their_rows(kind, make, pool):
    own = pool.subset([20, 3, 21, 5])
    with pytest.raises(DataError, match=r"2 of 4 queries .* rows \[1, 3\]"):
        make(kind, queries=own).select(pool.subset(range(20)), 3)


def test_there_is_no_empty_pool_of_queries(pool):
    with pytest.raises(DataError, match="no examples"):
        pool.subset([])


@every
def test_shots_beyond_the_pool_are_refused_before_the_proxy_is_loaded(kind, pool, monkeypatch):
    monkeypatch.setattr("icl_plugins.proxy.model.Proxy.load", lambda *args: pytest.fail("loaded"))
    with pytest.raises(BudgetError, match="shots=25"):
        kind().select(pool, 25)


# --- the gate ---------------------------------------------------------------------------------------------


@every
def test_the_fallback_takes_the_random_set_with_the_least_real_loss(kind, make, trust, pool, reader):
    trust(False)
    selection = make(kind).select(pool, 4)
    queries = queries_of(pool, selection)
    study = study_of(make(kind), pool, 4)
    drawn = [study.rows[subset].tolist() for subset in study.draw(8, seed=1)]
    losses = [real_loss(reader, pool, rows, queries) for rows in drawn]
    assert list(selection.indices) == drawn[int(np.argmin(losses))]
    assert selection.details["estimate"]["fell_back"] is True
    assert selection.details["loss"] == pytest.approx(min(losses), rel=1e-5)
    assert -selection.scores[0] == pytest.approx(min(losses), rel=1e-5)
    if kind in (GradRE, SlotAssignment):
        assert selection.details["random_loss"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings", "limits"),
    [
        (SlotAssignment, {}, {"include": [7, 2]}),
        (GradFS, {}, {"max_tokens": 120}),
        (GradRE, {"slot_labels": False}, {"quotas": 1}),
        (GradRE, {"subset_size": 2}, {}),
        (GradRE, {"outcome": "accuracy", "subsets": 8}, {}),
    ],
    ids=str,
)
def test_the_fallback_measures_what_may_be_chosen(kind, settings, limits, make, trust, pool, reader):
    """Random sets that constraints forbid, or of another size, are made lawful before they compete."""
    trust(False)
    selection = make(kind, **settings).select(pool, 6, **limits)
    loss = real_loss(reader, pool, selection.indices, queries_of(pool, selection))
    assert selection.details["loss"] == pytest.approx(loss, rel=1e-5)
    assert -selection.scores[0] == pytest.approx(loss, rel=1e-5)
    assert selection.indices[: len(limits.get("include", ()))] == tuple(limits.get("include", ()))
    if "max_tokens" in limits:
        assert tokens_of(reader, pool, selection.indices) <= 120
    else:
        assert len(selection) == 6


@every
def test_estimates_that_rank_are_used(kind, make, trust, pool):
    trust(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EstimateWarning)
        chosen = make(kind).select(pool, 4)
    assert chosen.details["estimate"]["fell_back"] is False
    unchecked = make(kind, check=0).select(pool, 4)
    if kind is not SlotAssignment:  # which has more to begin with if sets were measured
        assert chosen.indices == unchecked.indices


@every
def test_warn_warns_the_caller_and_goes_on(kind, make, trust, pool):
    trust(False)
    with pytest.warns(EstimateWarning, match="rank correlation of .* real subsets") as caught:
        selection = make(kind, on_bad_estimate="warn").select(pool, 4)
    assert caught[0].filename == __file__ and len(caught) == 1
    assert selection.details["estimate"]["fell_back"] is False
    trust(True)
    assert selection.indices == make(kind).select(pool, 4).indices


@every
def test_error_raises_the_figures(kind, make, trust, pool):
    trust(False)
    with pytest.raises(EstimateError) as caught:
        make(kind, on_bad_estimate="error").select(pool, 4)
    trust(True)
    quality = make(kind).select(pool, 4).details["estimate"]
    for figure in (
        f"{quality['rank_correlation']:+.2f}",
        f"{quality['regret']:.3f}",
        str(quality["subsets"]),
    ):
        assert figure in str(caught.value)


@every
def test_without_a_check_nothing_is_measured(kind, make, trust, pool, monkeypatch):
    monkeypatch.setattr(kind, "_measure", lambda *args: pytest.fail("measured"))
    selection = make(kind, check=0, on_bad_estimate="error").select(pool, 4)
    assert not {"estimate", "random_loss"} & set(selection.details)
    assert np.isfinite(selection.details["loss"])


@pytest.mark.parametrize("kind", [GradRE, SlotAssignment], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("slot_labels", [True, False])
def test_the_quality_told_is_that_of_the_estimates(kind, slot_labels, make, trust, pool, reader):
    trust(True)
    selector = make(kind, check=24, slot_labels=slot_labels)
    selection = selector.select(pool, 4)
    study = study_of(selector, pool, 4)
    table, anchor = study.table(study.anchors(2))
    subsets = study.draw(24, seed=1)
    real = [real_loss(reader, pool, study.rows[subset], queries_of(pool, selection)) for subset in subsets]
    told = selection.details["estimate"]
    assert told["subsets"] == 24
    expected = spearmanr(table.outcomes(subsets), real).statistic
    assert told["rank_correlation"] == pytest.approx(expected, abs=1e-6)
    assert told["low"] < expected < told["high"]
    errors = [abs(anchor - one) / max(anchor, one) for one in real]
    assert told["constant_relative_error"] == pytest.approx(np.mean(errors), rel=1e-4)


@every
def test_fewer_than_four_measurable_subsets_are_not_trusted(kind, make, pool):
    """Of two candidates there is not enough to measure on."""
    chosen = make(kind, check=4).select(pool, 1, exclude=range(3, 24)).details["estimate"]
    if chosen["subsets"] < 4:
        assert chosen["fell_back"] is True


# --- slots ------------------------------------------------------------------------------------------------


WIDTH = 22  # about half of the examples are longer


def wide_rows(reader, pool, width):
    return {row for row in range(len(pool)) if tokens_of(reader, pool, [row]) > width}


@every
def test_examples_longer_than_a_slot_are_named(kind, make, pool, reader):
    wide = wide_rows(reader, pool, WIDTH)
    with pytest.raises(BudgetError, match=r"longer than a slot, rows \[") as caught:
        make(kind, slot_width=WIDTH, on_too_long="error", check=0).select(pool, 3)
    named = {int(row) for row in str(caught.value).split("rows [")[1].split("]")[0].split(",")}
    assert named and named <= wide
    longest = int(str(caught.value).split("up to ")[1].split()[0])
    study = study_of(make(kind), pool, 3)
    assert longest == max(tokens_of(reader, pool, [row]) for row in study.rows)
    assert str(WIDTH) in str(caught.value)


@every
def test_examples_longer_than_a_slot_are_left_out(kind, make, pool, reader):
    wide = wide_rows(reader, pool, WIDTH)
    selection = make(kind, slot_width=WIDTH, on_too_long="skip").select(pool, 5)
    skipped = selection.details["skipped"]
    assert set(skipped["longer than a slot"]) == wide - set(skipped[HELD_OUT])
    assert not wide & set(selection.indices)
    assert "cut" not in selection.details


@every
def test_examples_longer_than_a_slot_are_cut_for_the_estimate_only(kind, make, pool, reader):
    selection = make(kind, slot_width=16).select(pool, 5)
    held_out = set(selection.details["skipped"][HELD_OUT])
    assert selection.details["cut"] == len(wide_rows(reader, pool, 16) - held_out)
    assert set(selection.to_prompt().demonstrations) <= set(zip(pool.questions, pool.answers, strict=True))
    loss = real_loss(reader, pool, selection.indices, queries_of(pool, selection))
    assert selection.details["loss"] == pytest.approx(loss, rel=1e-5)
    assert "cut" not in make(kind).select(pool, 5).details


@every
def test_slots_that_do_not_fit_the_proxy_are_refused_before_any_pass(kind, make, pool, reader, monkeypatch):
    settings = {"slot_width": 600, **({"each": 4} if kind is GradCE else {})}
    monkeypatch.setattr(type(reader.model), "forward", lambda *args, **kwargs: pytest.fail("ran"))
    with pytest.raises(TooLongError, match="slots of 600 tokens"):
        make(kind, **settings).select(pool, 4)


@every
def test_slots_are_as_wide_as_the_proxy_has_room_for(kind, make, pool, make_model, tokenizer, trust):
    trust(True)
    model = make_model(max_position_embeddings=256)
    narrow = Proxy.from_model(model, tokenizer, name="narrow")
    short = study_of(make(kind, proxy=narrow), pool, 4)
    own = max(len(query.ids) for query in short.encoded)
    longest = max(tokens_of(narrow, pool, [row]) for row in short.rows)
    at_once = 2 if kind is GradCE else 4
    assert short.texts.ids.shape[1] == min(longest, (256 - own) // at_once)


@every
def test_a_model_with_nan_chooses_nothing(kind, make, pool, make_model, tokenizer):
    import torch

    for weight in ("model.layers.1.mlp.up_proj.weight", "lm_head.weight"):
        model = make_model("qwen2", max_position_embeddings=2048, tie_word_embeddings=False)
        broken = Proxy.from_model(model, tokenizer, name="broken")
        with torch.no_grad():
            dict(model.named_parameters())[weight][0, 0] = torch.nan
        for check in (0, 8):
            with pytest.raises(NonFiniteError):
                make(kind, proxy=broken, check=check).select(pool, 3)


@pytest.mark.parametrize("kind", [GradFS, GradRE, SlotAssignment], ids=lambda kind: kind.__name__)
def test_a_projection_that_is_no_narrower_changes_nothing(kind, make, pool):
    expected = make(kind).select(pool, 4)
    for reduced in (16, 400):
        found = make(kind, reduced=reduced).select(pool, 4)
        assert found.indices == expected.indices and found.scores == expected.scores


@pytest.mark.parametrize("kind", [GradFS, GradRE, SlotAssignment], ids=lambda kind: kind.__name__)
def test_a_narrow_projection_still_selects(kind, make, pool, trust):
    trust(True)
    found = [make(kind, reduced=8).select(pool, 4) for _ in range(2)]
    assert found[0] == found[1] and len(found[0]) == 4
    exact = make(kind).select(pool, 4).details["estimate"]
    assert found[0].details["estimate"]["relative_error"] != exact["relative_error"]


@every
def test_slots_are_for_labels_by_their_shares(kind, make, pool, trust):
    study = study_of(make(kind), pool, 6)
    counts = Counter(study.slots.tolist())
    assert sorted(counts.values()) == [1, 2, 3]
    free = study_of(make(kind, slot_labels=False), pool, 6)
    assert set(free.slots) == set(free.labels) == {0}
    assert free.allowed.all()
    trust(True)
    if kind in (GradFS, SlotAssignment):
        labels = make(kind).select(pool, 6).labels
        name = dict(zip(study.labels.tolist(), [pool.labels[row] for row in study.rows], strict=True))
        assert labels == tuple(name[number] for number in study.slots.tolist())
    if kind is GradRE:
        assert Counter(make(kind).select(pool, 6).labels) == {
            name: n for name, n in zip(("card_arrival", "exchange_rate", PHONE), (3, 2, 1), strict=True)
        }


@every
def test_labels_that_are_no_classes_leave_slots_free(kind, make, records, pool):
    template = Template(question="{label}:", answer=" {text}", separator="\n\n")
    study = study_of(make(kind), Pool.from_records(records, template), 4)
    assert set(study.slots) == set(study.labels) == {0}


# --- SlotAssignment ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_slot_assignment_is_never_worse_than_what_was_measured(make, trust, pool, reader, seed):
    trust(True)
    selector = make(SlotAssignment, seed=seed, rounds=8, check=16)
    selection = selector.select(pool, 4)
    queries = queries_of(pool, selection)
    study = study_of(selector, pool, 4)
    table, _ = study.table(study.anchors(2))
    first = study.rows[table.best(study.allowed)[0]]
    measured = min(real_loss(reader, pool, study.rows[subset], queries) for subset in study.draw(16, seed=1))
    trace = selection.details["trace"]
    loss = real_loss(reader, pool, selection.indices, queries)
    assert loss == pytest.approx(selection.details["loss"], rel=1e-6) == trace[-1]
    assert trace[0] == pytest.approx(min(measured, real_loss(reader, pool, first, queries)), rel=1e-5)
    assert all(after < before for before, after in zip(trace, trace[1:], strict=False))
    assert loss <= measured * (1 + 1e-6)


def test_rounds_find_better_sets(make, trust, pool):
    trust(True)
    made = [make(SlotAssignment, anchors=4, seed=seed, rounds=8) for seed in range(6)]
    assert max(len(selector.select(pool, 4).details["trace"]) for selector in made) > 2


@pytest.mark.parametrize("slot_labels", [True, False])
def test_without_rounds_it_is_the_assignment_of_the_table(make, pool, slot_labels):
    selector = make(SlotAssignment, rounds=0, check=0, slot_labels=slot_labels)
    study = study_of(selector, pool, 4)
    table, _ = study.table(study.anchors(2))
    places, _ = table.best(study.allowed)
    selection = selector.select(pool, 4)
    assert selection.indices == tuple(study.rows[places].tolist())
    means = [table.table[slot][study.allowed[slot]].mean() for slot in range(4)]
    gains = [means[slot] - table.table[slot, place] for slot, place in enumerate(places)]
    np.testing.assert_allclose(selection.scores, gains, rtol=1e-5)


@pytest.mark.parametrize("anchors", [2, "mean"])
def test_slot_assignment_obeys_a_token_budget_and_puts_the_included_first(make, trust, pool, reader, anchors):
    trust(True)
    for seed in range(3):
        for budget in (120, 170, 260):
            selection = make(SlotAssignment, seed=seed, anchors=anchors).select(
                pool, 5 if budget > 200 else None, max_tokens=budget, include=[9]
            )
            assert tokens_of(reader, pool, selection.indices) <= budget
            assert selection.indices[0] == 9 and len(set(selection.indices)) == len(selection)
            if budget > 200:
                assert len(selection) == 5


# --- GradRE -----------------------------------------------------------------------------------------------


def test_the_closed_form_ranks_like_twenty_thousand_subsets(make, pool):
    selector = make(GradRE, slot_labels=False)
    study = study_of(selector, pool, 4)
    size, generator = len(study.rows), np.random.default_rng(7)
    subsets = np.array([generator.permutation(size)[:4] for _ in range(20_000)])
    table, _ = study.table(study.anchors(2))
    outcomes = table.outcomes(subsets)
    sampled = [outcomes[(subsets == one).any(1)].mean() for one in range(size)]
    closed = selector._estimate(study).outcomes
    assert spearmanr(closed, sampled).statistic > 0.98
    best = study.rows[np.argsort(closed)[:4]]
    assert make(GradRE, slot_labels=False, check=0).select(pool, 4).indices == tuple(best.tolist())


def test_within_labels_the_closed_form_ranks_like_many_subsets(make, pool):
    closed = make(GradRE)
    sampled = make(GradRE, subsets=20_000)
    study = study_of(closed, pool, 6)
    outcomes = [one._estimate(study).outcomes for one in (closed, sampled)]
    for label in set(study.labels.tolist()):
        members = study.labels == label
        assert np.corrcoef([one[members] for one in outcomes])[0, 1] > 0.98


@pytest.mark.parametrize("outcome", ["loss", "accuracy"])
@pytest.mark.parametrize("slot_labels", [True, False])
def test_every_candidate_is_in_a_subset_even_if_one_is_asked_for(make, pool, slot_labels, outcome):
    selector = make(GradRE, subsets=1, slot_labels=slot_labels, outcome=outcome, check=0)
    study = study_of(selector, pool, 6)
    drawn = selector._drawn(study)
    assert set(drawn.flatten().tolist()) == set(range(len(study.rows)))
    assert (study.labels[drawn] == study.slots).all()
    assert len(selector.select(pool, 6)) == 6


def test_subsets_of_another_size_than_shots(make, trust, pool):
    trust(True)
    selector = make(GradRE, subset_size=2, slot_labels=False)
    study = study_of(selector, pool, 6)
    assert study.slots.shape == (2,)
    selection = selector.select(pool, 6)
    assert selector.select(pool, 3).indices == selection.indices[:3]  # scores do not depend on shots
    assert "random_loss" not in selection.details
    for limits in ({"quotas": "proportional"}, {"quotas": 1}, {"include": [4, 5, 6]}):
        assert len(make(GradRE, subset_size=2).select(pool, 6, **limits)) == 6
    with pytest.raises(BudgetError, match="30"):
        make(GradRE, subset_size=30).select(pool, 6)


def test_scores_are_minus_the_mean_outcome_of_the_subsets_with_a_demonstration(make, pool):
    selector = make(GradRE, subsets=40, slot_labels=False, check=0)
    study = study_of(selector, pool, 4)
    table, _ = study.table(study.anchors(2))
    subsets = study.draw(40, seed=3)
    outcomes = table.outcomes(subsets)
    means = [outcomes[(subsets == one).any(1)].mean() for one in range(len(study.rows))]
    selection = selector.select(pool, 4)
    np.testing.assert_allclose(selection.scores, -np.sort(means)[:4], rtol=1e-6)


def test_published_settings():
    paper = GradRE.paper(seed=3)
    assert (paper.subsets, paper.anchors, paper.outcome, paper.seed) == (100, 5, "accuracy", 3)
    assert not paper.slot_labels and paper.on_bad_estimate == "warn"
    assert GradRE.paper(subsets=7).subsets == 7
    assert (GradFS.paper().anchors, GradFS.paper().slot_labels, GradFS.paper().true_steps) == (1, False, 0)
    assert (GradCE.paper().anchors, GradCE.paper().candidates) == (1, 20)
    assert GradFS.paper(anchors=3).anchors == 3


@every
def test_published_settings_select(kind, pool, reader, recwarn):
    if kind is SlotAssignment:
        pytest.skip("is ours")
    selection = kind.paper(proxy=reader, queries=4, check=8).select(pool, 3)
    assert len(selection) == 3 and selection.details["estimate"]["fell_back"] is False


# --- GradFS -----------------------------------------------------------------------------------------------


def test_true_steps_are_greedy_forward_selection(make, pool, reader):
    selection = make(GradFS, true_steps=4, slot_labels=False, check=0).select(pool, 4)
    queries = queries_of(pool, selection)
    chosen, losses = [], []
    left = [row for row in range(24) if row not in selection.details["skipped"][HELD_OUT]]
    for _ in range(4):
        tried = {row: real_loss(reader, pool, [*chosen, row], queries) for row in left if row not in chosen}
        chosen.append(min(tried, key=tried.get))
        losses.append(tried[chosen[-1]])
    assert list(selection.indices) == chosen
    np.testing.assert_allclose(selection.objective, losses, rtol=1e-5)
    np.testing.assert_allclose(selection.scores, np.negative(losses), rtol=1e-5)


def test_true_steps_within_labels_try_those_of_the_slot_only(make, pool, reader):
    selection = make(GradFS, true_steps=3, check=0).select(pool, 3)
    queries = queries_of(pool, selection)
    chosen = []
    for label in selection.labels:
        left = [
            row
            for row in range(24)
            if row not in (*selection.details["skipped"][HELD_OUT], *chosen) and pool.labels[row] == label
        ]
        chosen.append(min(left, key=lambda row: real_loss(reader, pool, [*chosen, row], queries)))
    assert list(selection.indices) == chosen
    assert len(set(selection.labels)) > 1


def taylor(study, before, standing, proxy):
    """Loss at the anchor and the difference of embeddings in the last slot times the gradient there."""
    losses, gradient = slot_gradients(proxy, study.texts.at([*before, standing]), study.encoded)
    gradient = gradient[-1].double()
    there = study.texts.at([standing]).embeddings[0].double()
    others = study.texts.at(range(len(study.rows))).embeddings.double()
    return float(losses.mean()) + ((others - there) * gradient).sum((1, 2)).numpy()


def test_the_estimated_steps_are_taylor_expansions_at_the_longest(make, pool, reader):
    selector = make(GradFS, anchors=1, slot_labels=False, check=0)
    study = study_of(selector, pool, 3)
    lengths = np.array([tokens_of(reader, pool, [row]) for row in study.rows])
    chosen, losses = [], []
    for _ in range(3):
        left = np.setdiff1d(np.arange(len(study.rows)), chosen)
        longest = left[lengths[left].argmax()]
        estimates = taylor(study, chosen, longest, reader)
        best = int(left[estimates[left].argmin()])
        chosen.append(best)
        losses.append(estimates[best])
    selection = selector.select(pool, 3)
    assert selection.indices == tuple(study.rows[chosen].tolist())
    np.testing.assert_allclose(selection.objective, losses, rtol=1e-4)


def test_a_true_step_comes_before_the_estimated_ones(make, pool, reader):
    selector = make(GradFS, anchors=1, true_steps=1, slot_labels=False, check=0)
    study = study_of(selector, pool, 2)
    queries = study.queries
    losses = [real_loss(reader, pool, [row], queries) for row in study.rows]
    selection = selector.select(pool, 2)
    assert selection.indices[0] == study.rows[int(np.argmin(losses))]
    assert selection.objective[0] == pytest.approx(min(losses), rel=1e-5)


def test_the_mean_of_all_that_are_left_may_be_the_anchor(make, pool, reader):
    selector = make(GradFS, anchors="mean", slot_labels=False, check=0)
    study = study_of(selector, pool, 2)
    every = study.texts.at(range(len(study.rows)))
    anchor = study.texts.mean(1, range(len(study.rows)))
    shares = every.shown.double().mean(0)
    assert (anchor.shown[0] == (shares >= 0.5)).all()
    losses, gradient = slot_gradients(reader, anchor, study.encoded)
    moved = ((every.embeddings.double() - anchor.embeddings[0].double()) * gradient[-1].double()).sum((1, 2))
    estimates = float(losses.mean()) + moved.numpy()
    selection = selector.select(pool, 2)
    assert selection.indices[0] == study.rows[estimates.argmin()]
    assert selection.objective[0] == pytest.approx(estimates.min(), rel=1e-4)


@pytest.mark.parametrize("limits", [{}, {"include": [7, 2]}, {"quotas": 2}, {"max_tokens": 500}], ids=str)
def test_the_objective_has_the_loss_of_every_round(make, trust, pool, reader, limits):
    trust(True)
    selection = make(GradFS).select(pool, 6, **limits)
    assert len(selection.objective) == 6
    assert selection.scores == tuple(-loss for loss in selection.objective)
    queries = queries_of(pool, selection)
    for at in range(len(limits.get("include", ()))):  # nothing to estimate: the real loss
        real = real_loss(reader, pool, selection.indices[: at + 1], queries)
        assert selection.objective[at] == pytest.approx(real, rel=1e-5)


@pytest.mark.parametrize("quotas", ["proportional", 2, {PHONE: 3, "card_arrival": 1}], ids=str)
def test_forward_selection_meets_quotas(make, trust, pool, quotas):
    trust(True)
    counts = Counter(make(GradFS).select(pool, 6, quotas=quotas).labels)
    expected = {
        "proportional": {"card_arrival": 3, "exchange_rate": 2, PHONE: 1},
        2: {"card_arrival": 2, "exchange_rate": 2, PHONE: 2},
    }.get(quotas if not isinstance(quotas, dict) else None, {"card_arrival": 1, "exchange_rate": 2, PHONE: 3})
    assert counts == expected


# --- settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("queries", value) for value in (0, -1, True, 1.5, "128", None)],
        *[("slot_labels", value) for value in (1, 0, "yes", None)],
        *[("slot_width", value) for value in (0, -3, True, 2.5, "wide")],
        *[("anchors", value) for value in (0, -1, True, 1.5, "median", None)],
        *[("reduced", value) for value in (0, -1, True, 2.0, "small")],
        *[("check", value) for value in (1, 2, 3, -1, True, 8.0, None)],
        *[("on_bad_estimate", value) for value in ("ignore", "", None, True)],
        *[("on_too_long", value) for value in ("cut", "", None)],
        *[("seed", value) for value in (-1, 1.0, None)],
    ],
    ids=str,
)
@every
def test_bad_settings_are_named(kind, name, value):
    with pytest.raises(SettingError, match=name):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *[(GradRE, "subsets", value) for value in (0, -1, True, 2.0, "all")],
        *[(GradRE, "subset_size", value) for value in (0, -1, True, 2.0, "all")],
        *[(GradRE, "outcome", value) for value in ("f1", None, "")],
        *[(GradFS, "true_steps", value) for value in (-1, True, 1.0, None)],
        *[(SlotAssignment, "rounds", value) for value in (-1, True, 1.0, None)],
        *[(GradCE, name, value) for name in ("candidates", "each") for value in (0, -1, True, 1.0, None)],
    ],
    ids=str,
)
def test_bad_settings_of_one_method_are_named(kind, name, value):
    with pytest.raises(SettingError, match=name):
        kind(**{name: value})


def test_accuracy_needs_subsets():
    with pytest.raises(SettingError, match="subsets"):
        GradRE(outcome="accuracy")


# --- a real effect ----------------------------------------------------------------------------------------


def test_on_the_shipped_proxy_estimates_rank_and_slot_assignment_gains():
    """micro and 218 questions of Banking77 with 6 labels: better than the mean random set by half a nat."""
    import json
    from importlib.resources import files

    lines = files("icl_plugins").joinpath("data/banking77.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    names = [name for name, _ in Counter(one["label"] for one in records).most_common(6)]
    template = Template("Query: {text}\nIntent:", " {label}", "\n\n")
    pool = Pool.from_records([one for one in records if one["label"] in names], template)
    settings = {"proxy": Proxy.load("micro"), "queries": 32, "check": 60, "anchors": 8}
    selection = SlotAssignment(**settings, rounds=1).select(pool, 6)
    estimate = selection.details["estimate"]
    assert estimate["low"] > 0 and not estimate["fell_back"]
    assert selection.details["loss"] < selection.details["random_loss"] - 0.5
    assert Counter(selection.labels) == dict.fromkeys(names, 1)


def test_joined_demonstrations_are_estimated_by_their_offsets(pool, reader):
    """At an anchor the estimate is its real loss, in a prompt without pads."""
    method = GradRE(reader, queries=4, check=0, layout="joined", subsets=12)
    study = method._study(Request.check(pool, 3, None, None, (), (), reader))
    subsets = study.draw(4)
    for subset in subsets:
        table, anchor = joined_table(study, subset[None])
        (real,) = study.losses([subset])
        assert anchor == pytest.approx(real, abs=1e-4)
        assert table.outcomes(subset[None])[0] == pytest.approx(real, abs=1e-4)
    mean, _ = joined_table(study, subsets[:2])
    each = [joined_table(study, subset[None])[0].outcomes(subsets) for subset in subsets[:2]]
    np.testing.assert_allclose(mean.outcomes(subsets), np.mean(each, axis=0), atol=1e-8)
    assert len(method.select(pool, 3)) == 3
    with pytest.raises(SettingError, match="reduced"):
        GradCE(reduced=8)
    for settings in ({"subsets": None}, {"anchors": "mean"}, {"reduced": 8}):
        with pytest.raises(SettingError, match="joined"):
            GradRE(**{"layout": "joined", "subsets": 12, **settings})


def test_labels_without_a_slot_do_not_come_before_those_with_one(pool, reader):
    """Also where a subset has fewer slots than there are labels: then labels are free, and all are scored."""
    chosen = GradRE(reader, queries=4, check=0, anchors=2, arrangements=1).select(pool, 2)
    assert len(set(chosen.labels)) == 2 and all(score != 0 for score in chosen.scores)
    small = GradRE(reader, queries=4, check=0, anchors=2, subset_size=2).select(pool, 12)
    assert len(set(small.scores)) == 12 and 0.0 not in small.scores


def test_where_labels_are_more_than_slots_they_are_those_of_the_best_random_set(make, pool, reader):
    selector = SlotAssignment(reader, queries=4, check=0, anchors=2, rounds=0, arrangements=6)
    study = study_of(selector, pool, 2)
    arranged = study.arranged(6)
    assert arranged.slots.tolist() == study.labels[arranged.arrangement].tolist()
    again = study.arranged(1)
    losses = study.losses([arranged.arrangement, again.arrangement])
    assert losses[0] <= losses[1]
    assert study.losses([study.arranged(12).arrangement])[0] <= losses[0]
    selection = selector.select(pool, 2)
    assert selection.details["loss"] <= losses[0] + 1e-9


def test_random_sets_fit_the_proxy_whatever_the_token_budget(pool, reader):
    """Lengths that a budget allows on the whole, but not for every set that may be drawn."""
    study = study_of(GradRE(reader, queries=4, check=0), pool, 3)
    longest = int(np.sort(study.lengths)[-3:].sum())
    tight = dataclasses.replace(study, room=longest - 1)
    assert (study.lengths[tight.draw(50)].sum(1) < longest).all()
    with pytest.raises(TooLongError, match="none within"):
        dataclasses.replace(study, room=2).draw(5)


def test_queries_of_ones_own_ask_something_else_in_the_same_form(pool, records, reader):
    shouted = [{**record, "text": str(record["text"]).upper() + " "} for record in records[:4]]
    with pytest.raises(DataError, match="4 of 4 queries"):
        GradRE(reader, queries=Pool.from_records(shouted, pool.template)).select(pool, 3)
    other = Template("Totally: {text}\nIntent:", " {label}")
    with pytest.raises(DataError, match="template"):
        GradRE(reader, queries=Pool.from_records(records[:4], other)).select(pool, 3)
    own = GradRE(reader, queries=Pool.from_records(records[:4], pool.template), check=0, anchors=1)
    assert not set(own.select(pool, 3, exclude=range(4)).indices) & set(range(4))


def test_a_prompt_keeps_what_was_measured(pool, reader):
    selection = GradRE(reader, queries=4, check=8, anchors=1).select(pool, 3)
    assert selection.to_prompt().provenance["estimate"] == selection.details["estimate"]
    unmeasured = GradRE(reader, queries=4, check=0, anchors=1).select(pool, 3)
    assert "estimate" not in unmeasured.to_prompt().provenance
