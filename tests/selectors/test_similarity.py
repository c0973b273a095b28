import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from icl_plugins import Similarity
from icl_plugins.selectors import similarity
from icl_plugins.selectors.similarity import mean_similarities


def mean_similarities_by_definition(vectors):
    def cosine(a, b):
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return a @ b / lengths if lengths else 0.0

    count = len(vectors)
    return [
        sum(cosine(vectors[i], vectors[j]) for j in range(count) if j != i) / max(1, count - 1)
        for i in range(count)
    ]


vectors = arrays(
    np.float64, st.tuples(st.integers(1, 7), st.integers(1, 4)), elements=st.integers(-3, 3).map(float)
)


@settings(max_examples=60, deadline=None)
@given(vectors=vectors)
def test_one_product_equals_the_cosines_of_all_pairs(vectors):
    """Zero vectors among them: they are similar to nothing, and never NaN."""
    expected = mean_similarities_by_definition(vectors)
    np.testing.assert_allclose(mean_similarities(vectors), expected, atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(vectors=vectors, scale=st.floats(1e-20, 1e20))
def test_the_length_of_a_vector_does_not_matter(vectors, scale):
    stretched = vectors * np.geomspace(1, scale, len(vectors))[:, None]
    np.testing.assert_allclose(mean_similarities(stretched), mean_similarities(vectors), atol=1e-11)


def test_the_most_central_comes_first(pool, reader, monkeypatch):
    angles = np.linspace(0, np.pi / 2, len(pool))
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    monkeypatch.setattr(similarity, "embed", lambda *args: (directions, {}))
    selection = Similarity().select(pool, 4)
    assert set(selection.indices) == {10, 11, 12, 13}
    assert selection.scores == tuple(sorted(selection.scores, reverse=True))
