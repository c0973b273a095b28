import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icl_plugins.algorithms.offsets import offset_table, tails
from icl_plugins.errors import DataError, NonFiniteError

LENGTH, WIDTH, WORDS, CANDIDATES = 14, 3, 9, 5


def draw(seed):
    """Gradient, embeddings, candidates of 1 to 5 tokens, a query of 3."""
    generator = np.random.default_rng(seed)
    tokens = [generator.integers(0, WORDS, generator.integers(1, 6)) for _ in range(CANDIDATES)]
    parts = [generator.normal(size=(rows, WIDTH)) for rows in (LENGTH, WORDS, 3)]
    return *parts, tokens


def written_out(gradient, embeddings, query, tokens, subset):
    """<G, phi(S, x)>, phi being all tokens side by side, cut or padded to the length of the gradient."""
    row = np.concatenate([*(embeddings[tokens[candidate]] for candidate in subset), query])[:LENGTH]
    return float(np.sum(gradient[: len(row)] * row))


@given(st.integers(0, 10_000), st.integers(0, 4))
def test_look_ups_by_offset_are_the_expansion_written_out(seed, shots):
    gradient, embeddings, query, tokens = draw(seed)
    table = offset_table(gradient, tokens, embeddings, tails(gradient, query), 2.5)
    generator = np.random.default_rng(seed)
    subsets = np.array([generator.permutation(CANDIDATES)[:shots] for _ in range(6)])
    direct = [2.5 + written_out(gradient, embeddings, query, tokens, subset) for subset in subsets]
    np.testing.assert_allclose(table.outcomes(subsets), direct, atol=1e-10)


def test_the_order_of_demonstrations_matters_where_lengths_differ():
    gradient, embeddings, query, tokens = draw(3)
    table = offset_table(gradient, tokens, embeddings, tails(gradient, query), 0.0)
    assert len(set(np.round(table.outcomes(np.array([[0, 1, 2], [2, 1, 0], [1, 0, 2]])), 9))) == 3


def test_what_does_not_belong_together_is_refused():
    gradient, embeddings, query, tokens = draw(0)
    for tail, words in (
        (tails(gradient, query)[1:], embeddings),
        (tails(gradient, query), embeddings[:, :2]),
    ):
        with pytest.raises(DataError, match="tails of"):
            offset_table(gradient, tokens, words, tail, 0.0)


def test_what_is_not_finite_or_not_there_is_refused():
    gradient, embeddings, query, tokens = draw(0)
    with pytest.raises(NonFiniteError, match="candidates"):
        offset_table(gradient * np.nan, tokens, embeddings, tails(gradient, query), 0.0)
    table = offset_table(gradient, tokens, embeddings, tails(gradient, query), 0.0)
    for rows in ([[0, 5]], [[-1, 0]], [0, 1]):
        with pytest.raises(DataError, match="from 0 to 4"):
            table.outcomes(np.array(rows))
