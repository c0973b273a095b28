"""GradRE by accuracy: error rates of labels, estimated from tables and real."""

import numpy as np
import pytest

from icl_plugins import GradRE, Pool, Template
from icl_plugins.errors import SettingError
from icl_plugins.proxy.slot_gradients import query_gradients
from icl_plugins.selectors import _error_rates
from icl_plugins.selectors._common import Request
from icl_plugins.selectors._context import context_losses
from icl_plugins.selectors._error_rates import error_rates, real_error_rates


@pytest.fixture(scope="module")
def close(records):
    """Answers of one token each, so that a random model takes now this one and now that."""
    names = dict(zip(dict.fromkeys(one["label"] for one in records), "abc", strict=True))
    template = Template(question="Query: {text}\nIntent:", answer=" {label}", separator="\n\n")
    return Pool.from_records([{**one, "label": names[one["label"]]} for one in records], template)


@pytest.fixture
def make(reader):
    settings = {"queries": 6, "check": 8, "anchors": 2, "subsets": 30, "outcome": "accuracy"}
    return lambda **own: GradRE(**{"proxy": reader, **settings, **own})


def study_of(selector, pool, shots=4):
    return selector._study(Request.check(pool, shots, None, None, (), (), selector.proxy))


def slow_rates(study, subsets):
    pool, queries = study.request.pool, study.queries
    options = sorted(set(pool.answers) | set(queries.answers))
    rates = []
    for subset in subsets:
        texts = [pool.texts[row] for row in study.rows[subset]]
        losses = [
            context_losses(
                study.proxy, texts, pool.template.separator, queries.questions, [option] * len(queries)
            )
            for option in options
        ]
        named = [options[at] for at in np.argmin(losses, axis=0)]
        rates.append(np.mean([one != own for one, own in zip(named, queries.answers, strict=True)]))
    return rates


def test_at_an_anchor_the_estimate_is_its_own_rate(make, close):
    seen = set()
    for seed in range(6):
        study = study_of(make(seed=seed), close)
        for subset in study.draw(2):
            rates, own = error_rates(study, [study.texts.at(subset)], subset[None])
            assert rates[0] == own
            seen.add(own)
    assert len(seen) > 1


def test_the_estimate_is_the_least_of_the_taylor_expansions_of_each_answer(make, close, reader):
    study = study_of(make(), close)
    subsets, anchors = study.draw(20, seed=9), study.anchors(2)
    wrong = np.zeros(20)
    everything = study.texts.at(range(len(study.rows))).embeddings.double()
    for anchor in anchors:
        losses = np.empty((20, len(study.queries), 3))
        for at, answer in enumerate((" a", " b", " c")):
            questions = list(study.queries.questions)
            encoded = reader.encoder.demonstrations(questions, [answer] * len(questions))
            for rows, values, gradients in query_gradients(reader, anchor, encoded):
                for row, value, gradient in zip(rows, values, gradients.double(), strict=True):
                    for place, subset in enumerate(subsets):
                        move = everything[subset] - anchor.embeddings.double()
                        losses[place, row, at] = float(value) + float((gradient * move).sum())
        named = np.array([" a", " b", " c"])[losses.argmin(2)]
        wrong += (named != np.array(study.queries.answers)).mean(1) / 2
    found, _ = error_rates(study, anchors, subsets)
    np.testing.assert_allclose(found, wrong, atol=1e-12)
    assert len(set(found)) > 1


def test_blocks_change_nothing(make, close, monkeypatch):
    study = study_of(make(), close)
    subsets = study.draw(12, seed=9)
    expected = error_rates(study, study.anchors(2), subsets)
    monkeypatch.setattr(_error_rates, "_BLOCK", 1)
    found = error_rates(study, study.anchors(2), subsets)
    np.testing.assert_allclose(found[0], expected[0])
    assert found[1] == pytest.approx(expected[1])


@pytest.mark.parametrize("which", ["pool", "close"])
def test_real_error_rates_are_those_of_the_likeliest_answer(which, make, request):
    study = study_of(make(), request.getfixturevalue(which))
    subsets = study.draw(6, seed=9)
    np.testing.assert_allclose(real_error_rates(study, subsets), slow_rates(study, subsets))


def test_scores_are_minus_the_mean_estimated_error_rate(make, close):
    selector = make(check=0, slot_labels=False)
    study = study_of(selector, close)
    subsets = study.draw(30, seed=3)
    rates, _ = error_rates(study, study.anchors(2), subsets)
    means = np.array([rates[(subsets == one).any(1)].mean() for one in range(len(study.rows))])
    best = np.argsort(means, kind="stable")[:4]
    selection = selector.select(close, 4)
    np.testing.assert_allclose(selection.scores, -means[best])
    assert selection.indices == tuple(study.rows[best].tolist())


def test_the_quality_told_is_that_of_error_rates(make, close):
    selector = make(check=12)
    told = selector.select(close, 4).details
    study = study_of(selector, close)
    checked = study.draw(12, seed=1)
    _, own = error_rates(study, study.anchors(2), checked)
    real = np.array(slow_rates(study, checked))
    larger = np.maximum(real, own)
    errors = np.divide(np.abs(real - own), larger, out=np.zeros(12), where=larger > 0)
    assert told["estimate"]["constant_relative_error"] == pytest.approx(errors.mean())
    assert told["estimate"]["subsets"] == 12
    assert "random_loss" not in told  # error rates are no losses


def test_queries_of_ones_own_may_have_answers_that_the_pool_lacks(make, close):
    own = Pool.from_records(
        [{"text": f"what now {row}", "label": "abd"[row % 3]} for row in range(5)], close.template
    )
    study = study_of(make(queries=own), close)
    subsets = study.draw(4, seed=9)
    np.testing.assert_allclose(real_error_rates(study, subsets), slow_rates(study, subsets))
    assert len(make(queries=own).select(close, 4)) == 4


def test_labels_that_are_no_classes_are_refused(make, records):
    template = Template(question="{label}:", answer=" {text}", separator="\n\n")
    with pytest.raises(SettingError, match='outcome="accuracy" with 24 labels of 24 examples'):
        make().select(Pool.from_records(records, template), 4)
