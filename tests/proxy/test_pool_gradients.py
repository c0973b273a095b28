"""Curriculum and gradients of a pool: the same numbers however come by, and never computed twice."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

from icl_plugins import Pool, Template
from icl_plugins.errors import ArtefactError, CorruptStoreError, NonFiniteError, StaleStoreError, StoreError
from icl_plugins.progress import progress_to
from icl_plugins.proxy import pool_gradients as module
from icl_plugins.proxy.gradients import per_example_gradients
from icl_plugins.proxy.pool_gradients import pool_gradients
from icl_plugins.proxy.prefix import PrefixTuning, tune_prefix

TEMPLATE = Template(question="Query: {text}\nIntent:", answer=" {label}")
TUNING = PrefixTuning(length=2, epochs=3, batch_size=4)


def make_pool(rows):
    records = [{"text": f"where is my card {row}", "label": ("lost", "arrival")[row % 2]} for row in rows]
    return Pool.from_records(records, TEMPLATE)


POOL = make_pool(range(10))


def compute(proxy, pool=POOL, tuning=TUNING, mode="exact", **options):
    return pool_gradients(proxy, pool, tuning, mode=mode, **options)


class Interrupt(Exception):
    pass


def interrupt_at(stage, count):
    def listener(name, done, total):
        if name == stage and done >= count:
            raise Interrupt

    return listener


def test_exact_blocks_are_the_gradients_at_every_checkpoint(proxy):
    found = compute(proxy)
    assert len(found.blocks) == TUNING.epochs + 1
    for checkpoint, block in zip(found.curriculum.checkpoints, found.blocks, strict=True):
        expected = per_example_gradients(proxy, POOL, checkpoint).flatten(1)
        torch.testing.assert_close(torch.from_numpy(np.array(block)), expected)


def test_online_blocks_are_what_training_itself_saw(proxy):
    """Row by row the gradient that prefix tuning hands out for that epoch, and no pass beside it."""
    seen = {}
    tune_prefix(
        proxy,
        POOL,
        length=2,
        epochs=3,
        batch_size=4,
        capture=lambda epoch, rows, values: seen.update(
            {(epoch, row): value for row, value in zip(rows, values, strict=True)}
        ),
    )
    stages = []
    with progress_to(lambda stage, done, total: stages.append(stage)):
        found = compute(proxy, mode="online")
    assert set(stages) == {"prefix tuning"} and len(found.blocks) == TUNING.epochs
    for epoch, block in enumerate(found.blocks):
        for row in range(len(POOL)):
            np.testing.assert_array_equal(block[row], seen[epoch, row].flatten().numpy())


@pytest.mark.parametrize("mode", ["exact", "online"])
def test_a_folder_changes_nothing_and_is_reused(proxy, tmp_path, mode):
    memory = compute(proxy, mode=mode)
    first, second = (compute(proxy, mode=mode, folder=tmp_path / "store") for _ in range(2))
    assert (memory.computed, first.computed, second.computed) == (10, 10, 0)
    for found in (first, second):
        assert torch.equal(found.curriculum.checkpoints, memory.curriculum.checkpoints)
        for block, expected in zip(found.blocks, memory.blocks, strict=True):
            np.testing.assert_array_equal(block, expected)


@pytest.mark.parametrize(
    ("mode", "stage", "count"),
    [
        ("exact", "prefix tuning", 2),
        ("exact", "prefix tuning", 8),
        ("exact", "gradients", 10),
        ("online", "prefix tuning", 2),
        ("online", "prefix tuning", 8),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_end(proxy, tmp_path, monkeypatch, mode, stage, count):
    monkeypatch.setattr(module, "_BUFFERED_ROWS", 3)
    expected = compute(proxy, mode=mode)
    with pytest.raises(Interrupt), progress_to(interrupt_at(stage, count)):
        compute(proxy, mode=mode, folder=tmp_path)
    found = compute(proxy, mode=mode, folder=tmp_path)
    for block, values in zip(found.blocks, expected.blocks, strict=True):
        np.testing.assert_allclose(block, values, rtol=1e-5, atol=1e-7)


def test_rows_written_before_an_interruption_are_not_computed_again(proxy, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BUFFERED_ROWS", 1)
    monkeypatch.setattr(proxy.budget, "tokens", 24)  # one example a batch
    with pytest.raises(Interrupt), progress_to(interrupt_at("gradients", 15)):
        compute(proxy, folder=tmp_path)
    counted = []
    with progress_to(lambda stage, done, total: counted.append((stage, total))):
        compute(proxy, folder=tmp_path)
    assert {stage for stage, _ in counted} == {"gradients"}, "the finished curriculum was tuned again"
    assert counted[0][1] == 40 - 15


@pytest.mark.parametrize("mode", ["exact", "online"])
def test_examples_added_later_cost_only_themselves(proxy, tmp_path, mode):
    before = compute(proxy, mode=mode, folder=tmp_path)
    grown = make_pool([20, *range(10), 21])
    after = compute(proxy, grown, mode=mode, folder=tmp_path)
    assert (after.computed, after.tuned_on) == (2, 10)
    assert torch.equal(after.curriculum.checkpoints, before.curriculum.checkpoints)
    for at, block in enumerate(after.blocks):
        np.testing.assert_array_equal(block[1:11], before.blocks[at])
        expected = per_example_gradients(proxy, grown.subset([0, 11]), after.curriculum.checkpoints[at])
        np.testing.assert_allclose(block[[0, 11]], expected.flatten(1).numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tuning": replace(TUNING, epochs=2)}, "tuning epochs"),
        ({"tuning": replace(TUNING, seed=1)}, "tuning seed"),
        ({"mode": "online"}, "mode"),
        ({"pool": make_pool(range(9))}, "1 of the 10"),
        ({"pool": Pool.from_records(POOL.examples, Template("Q: {text}\nIntent:", " {label}"))}, "template"),
    ],
    ids=["epochs", "seed", "mode", "an example gone", "template"],
)
def test_a_store_of_something_else_is_refused_by_name(proxy, tmp_path, change, named):
    compute(proxy, folder=tmp_path)
    with pytest.raises(StaleStoreError, match=named):
        compute(proxy, **{"folder": tmp_path, **change})


def test_another_proxy_is_refused_by_name(proxy, make_model, tokenizer, tmp_path):
    compute(proxy, folder=tmp_path)
    other = type(proxy).from_model(make_model(seed=1), tokenizer)
    with pytest.raises(StaleStoreError, match="weights"):
        compute(other, folder=tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"made_from": 1}', "\x00"])
def test_a_damaged_origin_is_refused(proxy, tmp_path, content):
    compute(proxy, folder=tmp_path)
    (tmp_path / "origin.json").write_text(content)
    with pytest.raises(ArtefactError, match="origin"):
        compute(proxy, folder=tmp_path)


def test_a_flipped_bit_is_never_returned(proxy, tmp_path):
    compute(proxy, folder=tmp_path)
    shard = sorted((tmp_path / "gradients").glob("shard-*"))[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptStoreError, match="delete shard"):
        compute(proxy, folder=tmp_path)
    shard.unlink()
    assert compute(proxy, folder=tmp_path).computed == 10


def test_skipped_examples_are_named_and_take_no_part(proxy, tmp_path):
    long = Pool.from_records(
        [*POOL.examples[:4], {"text": "card " * 160, "label": "lost"}, *POOL.examples[4:]], TEMPLATE
    )
    for folder in (None, tmp_path):
        found = compute(proxy, long, on_too_long="skip", folder=folder)
        assert found.skipped == (4,)
        assert np.isnan(found.blocks[0][4]).all() and np.isfinite(np.delete(found.blocks[0], 4, axis=0)).all()
        np.testing.assert_allclose(
            np.delete(found.blocks[-1], 4, axis=0), compute(proxy).blocks[-1], rtol=1e-4, atol=1e-6
        )


def test_a_gradient_that_is_not_finite_is_refused_by_row(proxy, monkeypatch):
    honest = module.gradient_batches

    def poisoned(*arguments):
        for rows, values in honest(*arguments):
            yield rows, torch.where(torch.tensor(rows)[:, None, None] == 7, torch.nan, values)

    monkeypatch.setattr(module, "gradient_batches", poisoned)
    with pytest.raises(NonFiniteError, match=r"1 examples .* \[7\]"):
        compute(proxy)


TWINS = make_pool([0, 1, 2, 0, 3, 4, 5, 6, 7, 8])


@pytest.mark.parametrize("mode", ["exact", "online"])
@pytest.mark.parametrize(
    "seen", [TWINS, make_pool([20, 8, 0, 7, 6, 5, 4, 21, 3, 2, 1, 0])], ids=["same", "grown"]
)
def test_a_lost_shard_comes_back_with_the_numbers_it_had(proxy, tmp_path, mode, seen):
    """Also of an example that is twice in the pool, each time at its own step of training."""
    fast = replace(TUNING, learning_rate=0.05)
    compute(proxy, TWINS, fast, mode, folder=tmp_path)
    before = compute(proxy, seen, fast, mode, folder=tmp_path)
    kept = [np.array(block) for block in before.blocks]
    for shard in (tmp_path / "gradients").glob("shard-*-0001.bin"):
        shard.unlink()
    after = compute(proxy, seen, fast, mode, folder=tmp_path)
    assert after.computed == len(seen)
    for block, expected in zip(after.blocks, kept, strict=True):
        np.testing.assert_allclose(block, expected, rtol=1e-4, atol=1e-5)


def test_a_shard_lost_before_tuning_was_over_comes_back_too(proxy, tmp_path):
    fast = replace(TUNING, learning_rate=0.05)
    with pytest.raises(Interrupt), progress_to(interrupt_at("prefix tuning", 8)):
        compute(proxy, tuning=fast, mode="online", folder=tmp_path)
    next((tmp_path / "gradients").glob("shard-*-0000.bin")).unlink()
    found = compute(proxy, tuning=fast, mode="online", folder=tmp_path)
    expected = compute(proxy, tuning=fast, mode="online").blocks
    np.testing.assert_allclose(found.blocks[0], expected[0], rtol=1e-5, atol=1e-7)


def test_a_curriculum_from_elsewhere_is_refused_by_name(proxy, tmp_path):
    compute(proxy, folder=tmp_path)
    for other, named in ((replace(TUNING, seed=1), r"config\.seed"), (replace(TUNING, epochs=2), "shape")):
        tune_prefix(proxy, POOL, **vars(other)).save(tmp_path / "curriculum.safetensors")
        with pytest.raises(StaleStoreError, match=named):
            compute(proxy, folder=tmp_path)
    tune_prefix(proxy, make_pool(range(1, 11)), **vars(TUNING)).save(tmp_path / "curriculum.safetensors")
    with pytest.raises(StaleStoreError, match=r"fingerprint\.examples"):
        compute(proxy, folder=tmp_path)


@pytest.mark.parametrize("place", ["file", "file/inside"])
def test_a_folder_that_cannot_be_is_refused_before_any_work(proxy, tmp_path, monkeypatch, place):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(type(proxy), "encode", lambda *_, **__: pytest.fail("the proxy has worked"))
    with pytest.raises(StoreError, match="cannot use"):
        compute(proxy, folder=tmp_path / place)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("mode", ["exact", "online"])
def test_a_run_without_a_finished_epoch_leaves_the_folder_free(proxy, tmp_path, mode):
    """As after a run that diverged: with a lower rate, or without the example that it names."""
    slower, fewer = replace(TUNING, learning_rate=1e-4, epochs=2), make_pool(range(9))
    for _ in range(2):
        with pytest.raises(Interrupt), progress_to(interrupt_at("prefix tuning", 2)):
            compute(proxy, mode=mode, folder=tmp_path)
    found = compute(proxy, fewer, slower, mode, folder=tmp_path)
    for block, expected in zip(found.blocks, compute(proxy, fewer, slower, mode).blocks, strict=True):
        np.testing.assert_array_equal(block, expected)


def test_a_finished_epoch_or_a_stored_gradient_keeps_the_folder(proxy, tmp_path, monkeypatch):
    with pytest.raises(Interrupt), progress_to(interrupt_at("prefix tuning", 4)):
        compute(proxy, folder=tmp_path / "epoch")
    monkeypatch.setattr(module, "_BUFFERED_ROWS", 1)
    with pytest.raises(Interrupt), progress_to(interrupt_at("prefix tuning", 2)):
        compute(proxy, mode="online", folder=tmp_path / "rows")
    for name, mode in (("epoch", "exact"), ("rows", "online")):
        with pytest.raises(StaleStoreError, match="learning_rate"):
            compute(proxy, tuning=replace(TUNING, learning_rate=1e-4), mode=mode, folder=tmp_path / name)


def test_more_gradients_than_memory_are_refused_before_tuning(proxy, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    monkeypatch.setattr(module, "tune_prefix", lambda *arguments, **settings: pytest.fail("tuned"))
    with pytest.raises(StoreError, match="GB.*name a folder as store"):
        compute(proxy)


def test_a_store_on_disk_needs_no_such_memory(proxy, monkeypatch, tmp_path):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    assert compute(proxy, folder=tmp_path / "store").computed == len(POOL)
