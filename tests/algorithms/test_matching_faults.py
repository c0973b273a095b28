"""Degenerate and hostile inputs: a match that ends, or an error that says which row or argument."""

import numpy as np
import pytest
import torch
from paths import PATHS, from_features, heavy_tailed

from icl_plugins.algorithms.constraints import resolve
from icl_plugins.algorithms.matching import centered_gram, match, match_gram
from icl_plugins.errors import BudgetError, DataError, NonFiniteError, SettingError

every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


@every_path
@pytest.mark.parametrize(
    "features",
    [
        np.ones((6, 3)),
        np.zeros((6, 3)),
        np.zeros((6, 1), np.float16),
        np.outer(np.arange(6.0), [1, 2, 3]),
        np.eye(6),
        np.repeat(np.eye(3), 2, axis=0),
        np.array([[1e30], [1], [2], [3], [4], [5]], np.float32),
        np.array([[1e-40], [0], [0], [1e-45], [0], [0]], np.float32),
    ],
    ids=["equal", "zero", "zero half", "rank 1", "identity", "twins", "outlier", "subnormal"],
)
def test_degenerate_features_end_with_distinct_rows(path, features):
    for shots in range(1, 7):
        found = path(features, shots)
        assert sorted(set(found.indices.tolist())) == sorted(found.indices.tolist())
        assert len(found.indices) == len(found.trace) == len(found.scores) == shots
        assert np.isfinite(found.trace).all() and np.isfinite(found.scores).all()
        assert found.converged
    # All rows together are the mean: J is 0 up to rounding.
    assert found.trace[-1] <= 1e-7 * np.linalg.norm(features.astype(np.float64), axis=1).max() + 1e-44


@every_path
def test_one_row_is_taken_and_equal_rows_are_taken_in_order(path):
    one = path(np.array([[3.0, 4.0]]), 1)
    assert (one.indices.tolist(), one.trace.tolist(), one.random_objective) == ([0], [0.0], 0.0)
    assert path(np.ones((9, 2), np.float32), 4).indices.tolist() == [0, 1, 2, 3]


@every_path
def test_a_target_hit_exactly_stops_the_swaps(path):
    features = np.array([[1.0, 0], [-1, 0], [0, 5], [0, -5], [7, 7]])
    found = path(features, 2, target=np.zeros(2))
    assert found.indices.tolist() == [0, 1] and found.trace[-1] == 0 and found.swaps == 0 and found.converged


@every_path
def test_swaps_do_not_chase_rounding_errors(path):
    """Opposite rows cancel up to rounding; a swap of a row for its copy changes nothing but the rounding."""
    half = np.random.default_rng(0).standard_normal((30, 37)) / 3
    features = np.vstack([half, -half] * 9) + 0.1
    found = path(features, 20, target=np.full(37, 0.1))
    assert found.swaps == 0 and found.converged and found.trace[-1] < 1e-7


@every_path
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_named(path, dtype, value):
    features = heavy_tailed(50, 3, dtype=dtype)
    features[7, 0] = features[41, 0] = value
    with pytest.raises(NonFiniteError, match=r"2 of 50 rows.*\[7, 41\]"):
        path(features, 5)


def test_a_gram_matrix_that_is_not_finite_names_its_rows():
    gram = np.eye(4)
    gram[2, 3] = np.nan
    with pytest.raises(NonFiniteError, match=r"1 of 4 rows.*\[2\]"):
        match_gram(gram, 2)


def arrangements(features):
    """The same features in every layout that is accepted."""
    grown = np.zeros((2 * len(features), 3 * features.shape[1]), features.dtype)
    grown[::2, ::3] = features
    read_only = features.copy()
    read_only.flags.writeable = False
    unaligned = np.frombuffer(b"x" + features.tobytes(), np.uint8)[1:].view(features.dtype)
    return {
        "strided": grown[::2, ::3],
        "read-only": read_only,
        "reversed": features[::-1, ::-1].copy()[::-1, ::-1],
        "fortran": np.asfortranarray(features),
        "big-endian": features.astype(features.dtype.newbyteorder(">")),
        "unaligned": unaligned.reshape(features.shape),
        "tensor": torch.from_numpy(features.copy()),
        "leaf": torch.from_numpy(features.copy()).requires_grad_(),
        "transposed tensor": torch.from_numpy(features.T.copy()).T,
        "blocks": [features[:, :1], torch.from_numpy(features[:, 1:].copy())],
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("name", list(arrangements(np.zeros((2, 2)))))
def test_every_layout_gives_the_same_match_and_stays_as_it_was(name, dtype):
    features = heavy_tailed(64, 9, dtype=dtype)
    arranged = arrangements(features)[name]
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is what must not change
    found = from_features(arranged, 5)
    assert found.indices.tolist() == from_features(features.copy(), 5).indices.tolist()
    for part in arranged if isinstance(arranged, list) else [arranged]:
        assert np.isin(np.asarray(part.detach() if hasattr(part, "detach") else part), features).all()
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_bfloat16_tensors_match_as_the_float32_numbers_they_hold():
    features = torch.from_numpy(heavy_tailed(64, 9, dtype=np.float32)).bfloat16()
    assert match(features, 5).indices.tolist() == match(features.float(), 5).indices.tolist()


@pytest.mark.parametrize("path", [match, match_gram, centered_gram], ids=lambda path: path.__name__)
@pytest.mark.parametrize(
    ("features", "words"),
    [
        (np.zeros(4), r"\(4,\)"),
        (np.zeros((2, 2, 2)), r"\(2, 2, 2\)"),
        (np.zeros((0, 3)), r"\(0, 3\)"),
        (np.zeros((3, 0)), r"\(3, 0\)"),
        (np.zeros((2, 2), int), "int64"),
        (np.zeros((2, 2), complex), "complex128"),
        (np.zeros((2, 2), object), "object"),
        (np.zeros((2, 2), np.longdouble), "longdouble|float128"),
        (np.ma.masked_array(np.zeros((2, 2)), True), "MaskedArray"),
        (torch.zeros(2, 2, device="meta"), "Tensor"),
        (torch.zeros(2, 2).to_sparse(), "Tensor"),
        (torch.zeros(2, 2, dtype=torch.int32), "int32"),
        ([[1.0, 2.0]], "list"),
    ],
    ids=str,
)
def test_what_is_no_feature_matrix_is_refused(path, features, words):
    with pytest.raises(DataError, match=words):
        path(features) if path is centered_gram else path(features, 1)


@pytest.mark.parametrize("features", [None, "text", {}], ids=str)
def test_other_objects_are_refused(features):
    with pytest.raises(DataError, match=type(features).__name__):
        match(features, 1)


@pytest.mark.parametrize(
    ("error", "words", "options"),
    [
        (SettingError, "shots=0", {"shots": 0}),
        (SettingError, "shots=True", {"shots": True}),
        (BudgetError, "shots=6 from 5", {"shots": 6}),
        (SettingError, "neither shots", {}),
        (SettingError, "swaps=-1", {"shots": 2, "swaps": -1}),
        (SettingError, "swaps=1.5", {"shots": 2, "swaps": 1.5}),
        (SettingError, "rtol=nan", {"shots": 2, "rtol": float("nan")}),
        (SettingError, "rtol=1", {"shots": 2, "rtol": 1}),
        (SettingError, "rtol='no'", {"shots": 2, "rtol": "no"}),
        (SettingError, "2 of 4 rows", {"constraints": resolve(4, None, 2)}),
        (SettingError, "shots=3", {"shots": 3, "constraints": resolve(5, None, 2)}),
        (DataError, r"target of shape \(3,\)", {"shots": 2, "target": np.zeros(3)}),
        (NonFiniteError, "target", {"shots": 2, "target": np.array([0, np.nan])}),
        (DataError, "target of type list", {"shots": 2, "target": ["a", "b"]}),
        (DataError, "target of type Tensor", {"shots": 2, "target": torch.zeros(2, device="meta")}),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_arguments_are_refused_before_work(error, words, options):
    with pytest.raises(error, match=words):
        match(np.eye(5)[:, :2], **options)


@pytest.mark.parametrize(
    "gram", [np.ones((2, 3)), np.array([[1.0, 0], [1, 1]]), np.array([[-1.0, 0], [0, 1]])], ids=str
)
def test_what_is_no_gram_matrix_is_refused(gram):
    with pytest.raises(DataError):
        match_gram(gram, 1)


def test_blocks_of_unequal_rows_and_targets_of_other_widths_are_refused():
    blocks = [np.ones((4, 2)), np.ones((5, 2))]
    with pytest.raises(DataError, match=r"\[4, 5\]"):
        match(blocks, 2)
    with pytest.raises(DataError, match="4 and 5 rows"):
        centered_gram(blocks)
    with pytest.raises(DataError):
        match([], 2)
    with pytest.raises(DataError, match="0 columns"):
        centered_gram(iter([]))
    for width in (3, 5):
        with pytest.raises(DataError, match="target"):
            centered_gram([np.ones((4, 2)), np.ones((4, 2))], target=np.zeros(width))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_target_may_be_a_tensor_that_requires_a_gradient(dtype):
    features = heavy_tailed(20, 4)
    tensor = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=dtype, requires_grad=True)
    expected = match(features, 3, target=tensor.detach().float().numpy())
    assert match(features, 3, target=tensor).trace.tolist() == expected.trace.tolist()
    gram = centered_gram(features, target=tensor)
    np.testing.assert_array_equal(gram, centered_gram(features, target=tensor.detach().float().numpy()))


def test_rows_that_are_not_finite_are_to_be_removed_not_excluded():
    """Excluded rows stay in the mean, so excluding them could not help."""
    features = np.ones((5, 2))
    features[3, 1] = np.nan
    with pytest.raises(NonFiniteError, match="remove these rows"):
        match(features, constraints=resolve(5, None, 2, exclude=[3]))
