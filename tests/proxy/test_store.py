"""What the gradient store promises while nothing goes wrong."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from store_tools import (
    BLOCKS,
    FINGERPRINT,
    WIDTH,
    assert_right,
    complete_store,
    fill,
    gradients,
    names,
    open_store,
    quick_folder,
)

from icl_plugins.errors import DataError, SettingError, StaleStoreError, StoreError, StoreLockedError
from icl_plugins.proxy.store import GradientStore, RowStatus, shards

QUICK = settings(max_examples=40, deadline=None)
POOLS = st.lists(st.integers(0, 9), min_size=1, max_size=12)  # contents repeat


@pytest.fixture
def tmp_path():
    with quick_folder() as folder:
        yield Path(folder)


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(1, 40)),
    dtype=st.sampled_from(["float32", "float16"]),
    data=st.data(),
)
@QUICK
def test_any_shape_dtype_and_order_of_writing_comes_back_bit_for_bit(shape, dtype, data):
    blocks, rows, width = shape
    values = data.draw(hnp.arrays(dtype, shape, elements={"allow_nan": False, "allow_infinity": False}))
    order = data.draw(st.permutations(range(rows)))
    cut = data.draw(st.integers(0, rows))
    with quick_folder() as folder:
        with open_store(folder, range(rows), blocks=blocks, width=width, dtype=dtype) as store:
            for block, part in ((b, part) for b in range(blocks) for part in (order[:cut], order[cut:])):
                store.write(block, part, values[block, part])
        with open_store(folder, range(rows), blocks=blocks, width=width, dtype=dtype) as store:
            assert store.complete
            for block in range(blocks):
                assert store.features(block).tobytes() == values[block].tobytes()


@given(pools=st.lists(POOLS, min_size=1, max_size=4))
@QUICK
def test_rows_added_removed_repeated_or_reordered_cost_only_what_was_never_computed(pools):
    held = {}
    with quick_folder() as folder:
        for pool in pools:
            new = {c: max(0, pool.count(c) - held.get(c, 0)) for c in set(pool)}
            with open_store(folder, pool) as store:
                assert fill(store, pool) == BLOCKS * sum(new.values())
            held = {c: held.get(c, 0) + new.get(c, 0) for c in {*held, *new}}
            assert_right(folder, pool)


def test_rows_added_at_the_end_are_the_only_ones_missing(tmp_path):
    complete_store(tmp_path, range(7))
    with open_store(tmp_path, range(10)) as store:
        assert [store.missing(block).tolist() for block in range(BLOCKS)] == [[7, 8, 9]] * BLOCKS
        assert not store.complete
    assert (tmp_path / "shard-0001-0000.bin").stat().st_size == 3 * (4 * WIDTH + 8)


def test_a_second_run_reuses_all_and_touches_no_file(tmp_path):
    complete_store(tmp_path, range(7))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()}
    with open_store(tmp_path, range(7)) as store:
        assert store.complete
        store.features(0)
        store.write(0, [], np.zeros((0, WIDTH), "f4"))
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()}


def test_features_are_the_file_itself_read_only_when_the_order_is_the_same(tmp_path):
    complete_store(tmp_path, range(9))
    for pool in (range(9), range(4), range(3, 8)):
        with open_store(tmp_path, pool) as store:
            features = store.features(1)
        assert isinstance(features, np.memmap)
        assert os.path.samefile(features.filename, tmp_path / "shard-0000-0001.bin")
        np.testing.assert_array_equal(features, gradients(pool, 1))
        with pytest.raises(ValueError, match="read-only"):
            features[0] = 0


@pytest.mark.parametrize("pool", [[3, 2, 1], [0, 2, 4], [*range(6), 17], [17, 0]], ids=str)
def test_features_in_another_order_are_mapped_read_only_and_leave_no_file(tmp_path, pool):
    complete_store(tmp_path, range(6))
    with open_store(tmp_path, pool) as store:
        fill(store, pool)
        files = set(tmp_path.iterdir())
        features = store.features(2)
        assert isinstance(features, np.memmap)
        assert set(tmp_path.iterdir()) == files
    np.testing.assert_array_equal(features, gradients(pool, 2))
    with pytest.raises(ValueError, match="read-only"):
        features[0] = 0


def test_statuses_survive_and_skipped_rows_read_as_nan_never_as_zero(tmp_path):
    values = gradients(range(4), 0)
    values[1, 3] = np.inf
    with open_store(tmp_path, range(4)) as store:
        assert store.write(0, [2, 1, 0], values[[2, 1, 0]]).tolist() == [1]
        store.mark_skipped([3])
    with open_store(tmp_path, range(4)) as store:
        one, two, three = RowStatus.WRITTEN, RowStatus.NON_FINITE, RowStatus.SKIPPED
        assert store.status.tolist() == [[one, two, one, three], [0, 0, 0, three], [0, 0, 0, three]]
        assert [store.missing(block).tolist() for block in range(BLOCKS)] == [[], [0, 1, 2], [0, 1, 2]]
        np.testing.assert_array_equal(store.features(0)[:3], values[:3])
        assert np.isnan(store.features(0)[3]).all()


def test_marking_what_is_skipped_already_needs_no_lock(tmp_path):
    with open_store(tmp_path, range(4)) as store:
        store.mark_skipped([1, 2])
        fill(store, range(4))
        with open_store(tmp_path, range(4)) as reader:
            reader.mark_skipped([2, 1])
            with pytest.raises(StoreLockedError):
                reader.mark_skipped([3])


def test_float16_overflow_is_told_not_hidden(tmp_path):
    with open_store(tmp_path, range(2), blocks=1, dtype="float16") as store:
        values = np.full((2, WIDTH), 7e4, np.float32)
        values[1] = 6e4
        assert store.write(0, [0, 1], values).tolist() == [0]
        assert store.status.tolist() == [[RowStatus.NON_FINITE, RowStatus.WRITTEN]]


@pytest.mark.parametrize("pool", [[0, 1, 2, 3], [3, 2, 1, 0]], ids=["in place", "gathered"])
def test_a_row_may_be_written_again(tmp_path, pool):
    open_store(tmp_path, range(4)).close()
    with open_store(tmp_path, pool) as store:
        store.write(0, range(4), gradients(pool, 7))
        np.testing.assert_array_equal(store.features(0), gradients(pool, 7))
        store.write(0, [3, 1], gradients([pool[3], pool[1]], 0))
        store.write(0, [0, 2], gradients([pool[0], pool[2]], 0))
        np.testing.assert_array_equal(store.features(0), gradients(pool, 0))
    with open_store(tmp_path, pool) as store:
        assert store.repair() == {}
        np.testing.assert_array_equal(store.features(0), gradients(pool, 0))


def test_features_of_an_unfinished_block_are_refused(tmp_path):
    with open_store(tmp_path, range(4)) as store:
        store.write(0, [0, 2], gradients([0, 2], 0))
        with pytest.raises(StoreError, match=r"lacks 2 rows, first \[1, 3\]"):
            store.features(0)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"fingerprint": FINGERPRINT | {"weights": "d" * 64}},
            r"weights \(aaaaaaaaaaaa in .* dddddddddddd\)",
        ),
        ({"fingerprint": FINGERPRINT | {"prefix": "d" * 64}}, r"prefix \(absent .* dddddddddddd\)"),
        ({"fingerprint": {"weights": "a" * 64}}, r"template .* now absent\), tokenizer .* now absent\)"),
        ({"fingerprint": FINGERPRINT | {"template": "d", "tokenizer": "d"}}, "template .*, tokenizer "),
        ({"blocks": BLOCKS + 1}, r"store blocks \(3 in the store, now 4\)"),
        ({"width": WIDTH + 1}, r"store width \(5 in the store, now 6\)"),
        ({"dtype": "float16"}, r"store dtype \(float32 in the store, now float16\)"),
    ],
)
def test_a_stale_store_names_each_component_that_differs_and_only_those(tmp_path, changes, expected):
    complete_store(tmp_path, range(4))
    with pytest.raises(StaleStoreError, match=expected) as caught:
        open_store(tmp_path, range(4), **changes)
    changed = {
        key for key, value in FINGERPRINT.items() if changes.get("fingerprint", FINGERPRINT).get(key) != value
    }
    assert {key for key in FINGERPRINT if key in caught.value.got} == changed
    assert_right(tmp_path, range(4))


def test_a_component_called_like_a_property_of_the_store_still_counts(tmp_path):
    open_store(tmp_path, range(4), fingerprint={"dtype": "bfloat16"}).close()
    with pytest.raises(StaleStoreError, match="dtype"):
        open_store(tmp_path, range(4), fingerprint={"dtype": "float64"})


@pytest.mark.parametrize(
    "changes",
    [
        {"blocks": 0},
        {"blocks": True},
        {"width": 2.0},
        {"width": -1},
        {"dtype": "int8"},
        {"dtype": ["float32"]},
        {"fingerprint": {"weights": ""}},
        {"fingerprint": {1: "a"}},
        {"fingerprint": "abc"},
    ],
    ids=str,
)
def test_settings_that_no_store_can_have_are_refused(tmp_path, changes):
    with pytest.raises(SettingError, match=next(iter(changes))):
        open_store(tmp_path / "new", range(4), **changes)
    assert not (tmp_path / "new").exists()


def test_a_pool_without_rows_or_with_other_names_than_sha256_is_refused(tmp_path):
    with pytest.raises(DataError):
        open_store(tmp_path, [])
    for wrong in ("abc", "A" * 64, "../" + "a" * 61, 7):
        with pytest.raises(SettingError, match="row fingerprint"):
            GradientStore.open(
                tmp_path, fingerprint={}, row_fingerprints=[*names("ab"), wrong], blocks=1, width=1
            )


@pytest.mark.parametrize(
    ("block", "rows", "values"),
    [
        (BLOCKS, [0], np.zeros((1, WIDTH), "f4")),
        (-1, [0], np.zeros((1, WIDTH), "f4")),
        (0, [4], np.zeros((1, WIDTH), "f4")),
        (0, [-1], np.zeros((1, WIDTH), "f4")),
        (0, [1, 1], np.zeros((2, WIDTH), "f4")),
        (0, [0.0], np.zeros((1, WIDTH), "f4")),
        (0, [True], np.zeros((1, WIDTH), "f4")),
        (0, [[0]], np.zeros((1, WIDTH), "f4")),
        (0, [0], np.zeros((1, WIDTH + 1), "f4")),
        (0, [0, 1], np.zeros((1, WIDTH), "f4")),
        (0, [0], np.zeros((1, WIDTH), "i8")),
        (0, [0], np.zeros((1, WIDTH), "c8")),
    ],
)
def test_wrong_blocks_rows_and_values_are_refused_and_nothing_is_written(tmp_path, block, rows, values):
    with open_store(tmp_path, range(4)) as store:
        with pytest.raises(SettingError):
            store.write(block, rows, values)
        assert not store.status.any()


@pytest.mark.parametrize(
    "form",
    [
        lambda values: values.astype("f8"),
        lambda values: values.astype(">f4"),
        np.asfortranarray,
        lambda values: values[::-1].copy()[::-1],
        lambda values: np.repeat(values, 2, axis=1)[:, ::2],
        lambda values: pytest.importorskip("torch").from_numpy(values),
    ],
    ids=["float64", "big-endian", "fortran", "negative strides", "not contiguous", "torch"],
)
def test_every_form_of_the_same_numbers_is_stored_alike(tmp_path, form):
    values = gradients(range(4), 0)
    with open_store(tmp_path, range(4)) as store:
        store.write(0, np.arange(4, dtype=np.uint8), form(values.copy()))
        np.testing.assert_array_equal(store.features(0), values)


def test_many_readers_of_a_complete_store_and_one_writer_of_any_other(tmp_path):
    with open_store(tmp_path, range(4)) as store:
        with pytest.raises(StoreLockedError, match=f"process {os.getpid()} on "):
            open_store(tmp_path, range(4))
        fill(store, range(4))
        with open_store(tmp_path, range(4)) as reader:
            np.testing.assert_array_equal(reader.features(0), gradients(range(4), 0))
            with pytest.raises(StoreLockedError):
                reader.write(0, [0], gradients([0], 0))
    assert_right(tmp_path, range(4))


def test_writing_verifying_and_gathering_hold_a_few_chunks_whatever_the_size(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_CHUNK_BYTES", 1 << 20)
    rows, width = 64, 1 << 16  # 16 MiB
    tracemalloc.start()
    with open_store(tmp_path, range(rows), blocks=1, width=width) as store:
        store.write(0, range(rows), np.broadcast_to(np.float32(1), (rows, width)))
        assert (store.features(0)[:, 0] == 1).all()
    with open_store(tmp_path, range(rows)[::-1], blocks=1, width=width) as store:
        assert (store.features(0)[:, 0] == 1).all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 << 20
