import numpy as np
import pytest
from report_samples import make_selection

from icl_plugins import GradientMatching, Pool, Proxy, Template
from icl_plugins.algorithms.features import Features
from icl_plugins.algorithms.matching import match
from icl_plugins.errors import DataError, NonFiniteError
from icl_plugins.report.features_map import feature_map, project, sampled_rows


def test_the_map_is_the_principal_components_of_the_features(chosen):
    selection, features = chosen
    found = feature_map(selection, features)
    centred = features - features.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    expected = (left * singular)[:, :2][found.rows]
    signs = np.sign((expected * found.points).sum(axis=0))
    assert found.points * signs == pytest.approx(expected, abs=1e-4)
    assert found.explained == pytest.approx(tuple(singular[:2] ** 2 / (singular**2).sum()), abs=1e-6)


def test_blocks_side_by_side_give_the_map_of_the_whole(chosen):
    selection, features = chosen
    whole = feature_map(selection, features)
    blocks = feature_map(selection, Features.of([features[:, :5].copy(), features[:, 5:].copy()]))
    assert blocks.points == pytest.approx(whole.points, abs=1e-6)


def test_all_that_were_chosen_are_on_the_map_and_the_others_are_drawn_once():
    rows = sampled_rows(np.arange(0, 20_000, 2), [4, 0, 19_998])
    assert rows[:3].tolist() == [4, 0, 19_998]
    assert len(rows) == len(set(rows.tolist())) == 3000
    assert (rows % 2 == 0).all()
    assert (rows == sampled_rows(np.arange(0, 20_000, 2), [4, 0, 19_998])).all()


def test_more_chosen_than_points_are_all_shown():
    assert sampled_rows(np.arange(4000), range(3500)).tolist() == list(range(3500))


def test_rows_that_were_skipped_are_not_on_the_map(chosen):
    selection, features = chosen
    usable = np.union1d(np.arange(0, 200, 2), selection.indices)
    with_gaps = features.copy()
    with_gaps[np.setdiff1d(np.arange(200), usable)] = np.nan
    found = feature_map(selection, Features.of(with_gaps).take(usable))
    assert sorted(found.rows) == usable.tolist()
    assert found.available == len(usable)
    points, _, _ = project(Features.of(features[found.rows]))
    assert found.points == pytest.approx(points, abs=1e-6)


def test_features_of_another_pool_and_nan_are_refused(chosen):
    selection, features = chosen
    with pytest.raises(DataError, match="features of 199 rows for a pool of 200"):
        feature_map(selection, features[1:])
    unchosen = next(row for row in range(200) if row not in selection.indices)
    with pytest.raises(DataError):
        feature_map(selection, Features.of(features).take(np.arange(200) != selection.indices[0]))
    spoilt = features.copy()
    spoilt[unchosen] = np.nan
    with pytest.raises(NonFiniteError):
        feature_map(selection, spoilt)


@pytest.mark.parametrize("features", [np.ones((5, 3)), np.arange(5.0)[:, None] * np.ones((5, 3))])
def test_a_pool_without_spread_in_two_directions_has_a_map_too(features):
    selection, _ = make_selection(5, 2, labels=("a", "b"))
    found = feature_map(selection, features)
    assert np.isfinite(found.points).all() and np.abs(found.points[:, 1]).max() < 1e-6


def test_gradient_matching_gives_the_features_that_it_matches(make_model, tokenizer):
    proxy = Proxy.from_model(make_model(), tokenizer, name="tiny")
    records = [{"text": f"text {row} " * (90 if row == 3 else 1), "label": "ab"[row % 2]} for row in range(9)]
    pool = Pool.from_records(records, Template("{text}:", " {label}"))
    selector = GradientMatching(
        proxy=proxy, epochs=1, on_too_long="skip", scaling="checkpoint", swaps=0, typical=1.0
    )
    selection, features = selector.select(pool, 3), selector.features(pool)
    assert features.rows.tolist() == [0, 1, 2, 4, 5, 6, 7, 8]
    assert features.rows[match(features, 3, swaps=0).indices].tolist() == list(selection.indices)
    assert feature_map(selection, features).available == 8


def test_without_features_the_proxy_embeds_question_and_answer(chosen, monkeypatch):
    selection, _ = chosen
    asked = []

    def embed(texts, *settings):
        asked.append((texts, settings))
        return np.random.default_rng(0).normal(size=(len(texts), 4)), {}

    monkeypatch.setattr("icl_plugins.selectors._embeddings.embed", embed)
    found = feature_map(selection)
    assert asked == [([selection.pool.texts[row] for row in found.rows], ("proxy", "micro", "truncate"))]
    assert found.source == "embeddings of the proxy micro"
    assert found.random_range is None
