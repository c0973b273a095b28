import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ortho_group

from icl_plugins.algorithms import typicality
from icl_plugins.algorithms.typicality import label_by_label, margins


def draw(seed, size=40, width=6, labels=4):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(size, width)), [
        f"label {at}" for at in generator.integers(labels, size=size)
    ]


def cosine(a, b):
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / lengths if lengths > 1e-9 else 0.0


def slow(vectors, labels):
    """The definition, row by row."""
    centred = vectors - vectors.mean(axis=0)
    units = [row / np.linalg.norm(row) for row in centred]
    found = []
    for row, own in enumerate(labels):

        def like(label, row=row):
            others = [unit for at, unit in enumerate(units) if at != row and labels[at] == label]
            return cosine(units[row], np.mean(others, axis=0)) if others else 0.0

        found.append(like(own) - max((like(label) for label in set(labels) - {own}), default=0.0))
    return np.array(found)


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_margins_are_those_of_the_definition(seed, labels):
    vectors, names = draw(seed, 24, labels=labels)
    np.testing.assert_allclose(margins(vectors, names), slow(vectors, names), atol=1e-10)


@given(st.integers(0, 10_000))
def test_rotation_scale_and_translation_change_nothing(seed):
    vectors, names = draw(seed)
    moved = 7.5 * vectors @ ortho_group.rvs(6, random_state=seed) + np.arange(6)
    np.testing.assert_allclose(margins(moved, names), margins(vectors, names), atol=1e-9)


@given(st.integers(0, 10_000))
def test_margins_and_ranking_follow_the_rows_and_not_their_order(seed):
    vectors, names = draw(seed)
    order = np.random.default_rng(seed).permutation(len(names))
    shuffled = [names[at] for at in order]
    scores = margins(vectors, names)
    np.testing.assert_allclose(margins(vectors[order], shuffled), scores[order], atol=1e-12)
    ranked = order[label_by_label(scores[order], shuffled)]
    assert [scores[at] for at in ranked] == [scores[at] for at in label_by_label(scores, names)]


def test_tiles_change_nothing(monkeypatch):
    vectors, names = draw(3)
    whole = margins(vectors, names)
    monkeypatch.setattr(typicality, "_LARGEST_TILE", 9)
    assert (margins(vectors, names) == whole).all()


def test_a_row_at_the_centre_and_one_alone_with_its_label_are_like_nothing():
    vectors = np.array([[1.0, 0], [2, 0], [-3, 0], [0, 0], [0, 4], [0, -4]])
    found = margins(vectors, ["a", "a", "b", "a", "c", "c"])
    assert found[3] == 0
    assert found[0] == pytest.approx(1)  # like the other a, and the opposite of b, while c is at the centre
    assert found[2] <= 0


@given(st.lists(st.sampled_from("aaaabbc"), min_size=1, max_size=60), st.integers(0, 100))
def test_the_first_of_a_ranking_have_the_shares_of_the_labels(labels, seed):
    scores = np.random.default_rng(seed).integers(4, size=len(labels)).astype(float)
    ranked = label_by_label(scores, labels).tolist()
    assert sorted(ranked) == list(range(len(labels)))
    for count in range(1, len(labels) + 1):
        for label in set(labels):
            shown = sum(labels[row] == label for row in ranked[:count])
            assert abs(shown - count * labels.count(label) / len(labels)) < len(set(labels))
    for label in set(labels):
        own = [row for row in ranked if labels[row] == label]
        assert own == sorted(own, key=lambda row: (-scores[row], row))
