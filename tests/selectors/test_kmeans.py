import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_plugins import KMeans
from icl_plugins.selectors import kmeans
from icl_plugins.selectors.kmeans import in_turns

SIZES = (9, 6, 5, 4)  # of planted clusters, together the 24 examples of the pool


@pytest.fixture
def planted(pool, monkeypatch):
    """Four far clusters; in each, the middle row lies on the centroid and the others ever farther out."""
    centres = np.repeat(np.eye(4) * 100, SIZES, axis=0)
    steps = np.concatenate([np.arange(size) - (size - 1) / 2 for size in SIZES])
    vectors = centres + np.outer(steps, [0, 0, 0, 1])
    monkeypatch.setattr(kmeans, "embed", lambda *args: (vectors, {}))
    return np.repeat(np.arange(4), SIZES)


def test_the_middle_of_each_cluster_is_taken_largest_cluster_first(pool, planted):
    selection = KMeans().select(pool, 4)
    assert selection.indices == (4, 11, 17, 21)  # rows 11 and 21: the lower of two equally near
    assert selection.scores == tuple(size / 24 for size in SIZES)


def test_the_next_nearest_stands_in_for_an_excluded_row(pool, planted):
    assert KMeans().select(pool, 4, exclude=[4, 21]).indices == (3, 11, 17, 22)


def test_an_included_row_stands_for_its_cluster(pool, planted):
    indices = KMeans().select(pool, 4, include=[0]).indices
    assert indices == (0, 11, 17, 21)


def test_a_budget_alone_makes_as_many_clusters_as_fit_at_mean_length(pool, planted, reader):
    costs = reader.count_tokens([text + pool.template.separator for text in pool.texts])
    selection = KMeans(proxy=reader).select(pool, max_tokens=int(np.mean(costs) * 4.5))
    assert sorted(set(planted[list(selection.indices)])) == [0, 1, 2, 3]


def test_more_shots_than_distinct_vectors_still_gives_distinct_rows(pool, monkeypatch, recwarn):
    """The published baseline returned a row twice here."""
    monkeypatch.setattr(kmeans, "embed", lambda *args: (np.repeat(np.eye(3), 8, axis=0), {}))
    assert len(set(KMeans().select(pool, 10).indices)) == 10
    assert not recwarn


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(1, 12))
def test_turns_equal_their_definition(data, count):
    labels = np.array(data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)))
    distances = np.array(data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count)), dtype=float)
    first = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    exclude = data.draw(st.sets(st.integers(0, count - 1)))

    def by_definition():
        queues = {
            label: sorted(
                (row for row in range(count) if labels[row] == label and row not in exclude),
                key=lambda row: (not first[row], distances[row], row),
            )
            for label in set(labels.tolist())
        }
        ranking = []
        while any(queues.values()):
            heads = [queue.pop(0) for queue in queues.values() if queue]
            ranking += sorted(heads, key=lambda row: (-(labels == labels[row]).sum(), row))
        return ranking

    assert in_turns(labels, distances, first=first, exclude=exclude).tolist() == by_definition()
