"""What the gradient store does when disks, processes and files fail: never a wrong number, never a guess."""

import errno
import json
import multiprocessing
import os
import resource
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_tools import (
    BLOCKS,
    FINGERPRINT,
    WIDTH,
    assert_right,
    complete_store,
    die,
    fill,
    gradients,
    in_child,
    open_store,
    quick_folder,
)

from icl_plugins.errors import CorruptStoreError, IclError, StaleStoreError, StoreError, StoreLockedError
from icl_plugins.proxy.store import disk, gradient_store, locking, manifest, shards

MANY = settings(max_examples=60, deadline=None)
ROWS = 6
SHARD_BYTES = ROWS * (4 * WIDTH + 8)


@pytest.fixture
def tmp_path():
    with quick_folder() as folder:
        yield Path(folder)


def crash_at(step, monkeypatch):
    """Make the step-th write, sync, rename or reservation of this process kill it, a write half done."""
    steps = iter(range(step + 1))
    rng = np.random.default_rng(step)

    def counted(function, torn=None):
        def call(*args):
            if next(steps) == step:
                if torn:
                    torn(*args)
                die()
            return function(*args)

        return call

    def torn_write(file, offset, data):
        file.seek(int(offset))
        file.write(data.data.cast("B")[: rng.integers(data.nbytes + 1)])

    monkeypatch.setattr(shards, "_write_at", counted(shards._write_at, torn_write))
    monkeypatch.setattr(shards, "_sync", counted(shards._sync))
    for name in ("fsync", "replace", "posix_fallocate"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


@pytest.mark.parametrize("before", [0, 4], ids=["creating", "extending"])
def test_a_kill_at_any_step_leaves_only_whole_rows_and_the_next_run_goes_on(monkeypatch, before):
    """Each step is killed in turn, so a shard, status or manifest in a wrong order would show."""

    def run():
        with open_store(folder, range(ROWS)) as store:
            store.write(0, [1, 4], gradients([1, 4], 7))
            store.write(0, [1, 4], gradients([1, 4], 0))  # overwriting must not be torn either
            fill(store, range(ROWS))

    for step in range(1000):
        with quick_folder() as folder:
            if before:
                complete_store(folder, range(before))

            def crash(step=step):
                crash_at(step, monkeypatch)
                run()

            if in_child(crash) == 0:
                break
            with open_store(folder, range(ROWS)) as store:
                assert store.repair() == {}
                assert store.status[1:, :before].all()  # block 0 is overwritten above
                store.write(0, [1, 4], gradients([1, 4], 0))
                fill(store, range(ROWS))
            assert_right(folder, range(ROWS))
    assert step > 30


def test_killed_at_random_times_until_done_equals_never_killed(tmp_path):
    pool, rng = range(120), np.random.default_rng(0)
    kills = 0

    def run():
        with open_store(tmp_path, pool) as store:
            for block in range(BLOCKS):
                for row in store.missing(block):
                    store.write(block, [row], gradients([row], block))
                    time.sleep(0.001)

    for _ in range(200):
        pid = os.fork()
        if pid == 0:
            run()
            os._exit(0)
        time.sleep(rng.uniform(0.01, 0.1))
        os.kill(pid, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
            break
        kills += 1
    assert kills >= 2
    with open_store(tmp_path, pool) as store:
        assert store.repair() == {}
        fill(store, pool)
    assert_right(tmp_path, pool)


@given(block=st.integers(0, BLOCKS - 1), offset=st.integers(0, SHARD_BYTES - 1), bit=st.integers(0, 7))
@MANY
def test_a_flipped_bit_is_never_read_and_repair_costs_that_row_alone(block, offset, bit):
    with quick_folder() as folder:
        complete_store(folder, range(ROWS))
        with open(f"{folder}/shard-0000-{block:04d}.bin", "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ 1 << bit]))
        values_end = ROWS * WIDTH * 4
        row = offset // (WIDTH * 4) if offset < values_end else (offset - values_end) // 8
        with open_store(folder, range(ROWS)) as store:
            if store.complete:  # else the bit was that of the status, and the row counts as empty
                with pytest.raises(CorruptStoreError, match=rf"block {block} .* 1 rows, first \[{row}\]"):
                    store.features(block)
                assert {key: rows.tolist() for key, rows in store.repair().items()} == {block: [row]}
            assert store.missing(block).tolist() == [row]
            assert fill(store, range(ROWS)) == 1
        assert_right(folder, range(ROWS))


@given(length=st.integers(0, 2 * SHARD_BYTES).filter(lambda length: length != SHARD_BYTES))
@MANY
def test_a_cut_or_longer_file_is_refused_with_both_sizes_and_costs_its_own_rows(length):
    with quick_folder() as folder:
        complete_store(folder, range(ROWS))
        path = f"{folder}/shard-0000-0001.bin"
        os.truncate(path, length)
        with pytest.raises(CorruptStoreError) as caught:
            open_store(folder, range(ROWS))
        assert path in caught.value.got
        assert f"{length} bytes" in caught.value.got
        assert f"{SHARD_BYTES} bytes" in caught.value.expected
        os.unlink(path)  # what the message advises
        with open_store(folder, range(ROWS)) as store:
            assert fill(store, range(ROWS)) == ROWS
        assert_right(folder, range(ROWS))


@given(data=st.data())
@MANY
def test_a_damaged_manifest_never_leads_to_wrong_numbers(data):
    with quick_folder() as folder:
        complete_store(folder, range(ROWS))
        path = f"{folder}/manifest.json"
        text = bytearray(Path(path).read_bytes())
        if data.draw(st.booleans()):
            text[data.draw(st.integers(0, len(text) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        else:
            del text[data.draw(st.integers(0, len(text) - 1)) :]
        Path(path).write_bytes(text)
        try:
            store = open_store(folder, range(ROWS))
        except (CorruptStoreError, StaleStoreError, StoreError):
            return
        with store:
            fill(store, range(ROWS))
            for block in range(BLOCKS):
                np.testing.assert_array_equal(store.features(block), gradients(range(ROWS), block))


def test_shards_that_changed_places_are_noticed(tmp_path):
    complete_store(tmp_path, range(ROWS))
    one, two = tmp_path / "shard-0000-0000.bin", tmp_path / "shard-0000-0001.bin"
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    with open_store(tmp_path, range(ROWS)) as store, pytest.raises(CorruptStoreError, match="block 0 "):
        store.features(0)


def manifest_with(**changes):
    fields = {"schema": 1, "fingerprint": FINGERPRINT, "blocks": BLOCKS, "width": WIDTH, "dtype": "float32"}
    return json.dumps({**fields, "shards": [], "rows": "", **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "\x00",
        '"' * 9,
        "[" * 100_000,
        "9" * 10_000,
        "{}",
        manifest_with(schema=0),
        manifest_with(schema="1"),
        manifest_with(schema=True),
        manifest_with(blocks=10**30, width="5"),
        manifest_with(dtype="object"),
        manifest_with(dtype={}),
        manifest_with(fingerprint=[]),
        manifest_with(fingerprint={"weights": 5}),
        manifest_with(shards=7),
        manifest_with(shards=[10**18]),
        manifest_with(shards=[-1]),
        manifest_with(shards=[0]),
        manifest_with(shards=[1], rows="a"),
        manifest_with(shards=[1], rows=["a"] * 64),
        manifest_with(shards="abc"),
        manifest_with(path="../../etc/passwd"),
    ],
    ids=lambda text: text[:40],
)
def test_what_is_not_a_manifest_is_refused_untouched(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CorruptStoreError, match=r"manifest\.json"):
        open_store(tmp_path, range(ROWS))
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_manifest_of_another_encoding_too_large_or_missing_is_refused(tmp_path, monkeypatch):
    complete_store(tmp_path, range(ROWS))
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(CorruptStoreError, match="not a manifest"):
        open_store(tmp_path, range(ROWS))
    monkeypatch.setattr(manifest, "_MAX_BYTES", 3)
    with pytest.raises(CorruptStoreError, match="4 bytes, more than 3"):
        open_store(tmp_path, range(ROWS))
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(CorruptStoreError, match="missing beside shards"):
        open_store(tmp_path, range(ROWS))


def test_a_store_that_is_made_while_another_process_looks_for_it_is_no_damage(tmp_path, monkeypatch):
    """The other one writes manifest and shards between the first look at the manifest and that at shards."""
    look = manifest.regular_file_size

    def look_too_early(path):
        size = look(path)
        monkeypatch.setattr(manifest, "regular_file_size", look)
        complete_store(tmp_path, range(ROWS))
        return size

    monkeypatch.setattr(manifest, "regular_file_size", look_too_early)
    found = open_store(tmp_path, range(ROWS))
    assert found.complete
    assert_right(tmp_path, range(ROWS))


def test_a_newer_schema_is_told_from_damage(tmp_path):
    (tmp_path / "manifest.json").write_text(manifest_with(schema=2, something="new"))
    with pytest.raises(StoreError, match="has schema 2") as caught:
        open_store(tmp_path, range(ROWS))
    assert not isinstance(caught.value, CorruptStoreError)


@pytest.mark.parametrize("name", ["manifest.json", "writer.lock", "shard-0000-0001.bin"])
@pytest.mark.parametrize("dangling", [False, True], ids=["link", "dangling link"])
def test_links_in_a_received_store_are_neither_read_nor_written_through(tmp_path, name, dangling):
    folder, outside = tmp_path / "store", tmp_path / "outside"
    complete_store(folder, range(ROWS))
    (folder / name).rename(outside)
    before = outside.read_bytes()
    (folder / name).symlink_to(tmp_path / "nothing" if dangling else outside)
    with pytest.raises(CorruptStoreError, match="symbolic link"):
        open_store(folder, range(ROWS + 1))
    assert outside.read_bytes() == before
    assert not (tmp_path / "nothing").exists()


def test_a_link_in_the_way_of_a_new_shard_is_replaced_not_followed(tmp_path):
    folder, outside = tmp_path / "store", tmp_path / "outside"
    complete_store(folder, range(ROWS))
    outside.write_text("keep me")
    for name in ("shard-0001-0000.bin", "shard-0001-0000.part"):
        (folder / name).symlink_to(outside)
    with open_store(folder, range(ROWS + 1)) as store:
        assert fill(store, range(ROWS + 1)) == BLOCKS
    assert_right(folder, range(ROWS + 1))
    assert outside.read_text() == "keep me"


@pytest.mark.parametrize("before", [0, ROWS], ids=["creating", "extending"])
def test_a_disk_without_room_is_told_before_the_work_and_costs_nothing(tmp_path, before):
    rows = range(20_000)
    if before:
        complete_store(tmp_path, rows[:before])

    def with_a_limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        with pytest.raises(StoreError, match=r"no room for \d{7} bytes in .*bytes are free"):
            open_store(tmp_path, rows)

    files = {path.name for path in tmp_path.iterdir()} | {"manifest.json", "writer.lock"}
    assert in_child(with_a_limit) == 0
    assert {path.name for path in tmp_path.iterdir()} == files
    if before:
        assert_right(tmp_path, rows[:before])
    with open_store(tmp_path, rows) as store:
        assert len(store.missing(0)) == len(rows) - before


def test_a_disk_that_fills_half_way_gets_back_what_was_taken(tmp_path, monkeypatch):
    allocate, calls = os.posix_fallocate, iter(range(BLOCKS))

    def full_at_the_last(*args):
        allocate(*args)
        if next(calls) == BLOCKS - 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full_at_the_last)
    with pytest.raises(StoreError, match=f"no room for {BLOCKS * SHARD_BYTES} bytes"):
        open_store(tmp_path, range(ROWS))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "writer.lock"]


def test_less_free_space_than_needed_is_told_where_nothing_can_be_reserved(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(StoreError, match=r"no room .* \(10 bytes are free\)"):
        patch.setattr(disk.shutil, "disk_usage", lambda path: usage._replace(free=10))
        open_store(tmp_path, range(ROWS))
    complete_store(tmp_path, range(ROWS))
    assert_right(tmp_path, range(ROWS))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_failing_write_is_told_and_what_was_written_before_stays(tmp_path, monkeypatch, code):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    with open_store(tmp_path, range(ROWS)) as store:
        store.write(0, [0, 1], gradients([0, 1], 0))
        with monkeypatch.context() as patch, pytest.raises(StoreError, match=os.strerror(code)):
            patch.setattr(shards, "_write_at", fail)
            store.write(0, [2, 3], gradients([2, 3], 0))
        assert store.missing(0).tolist() == [2, 3, 4, 5]
    with open_store(tmp_path, range(ROWS)) as store:
        assert store.missing(0).tolist() == [2, 3, 4, 5]
        fill(store, range(ROWS))
    assert_right(tmp_path, range(ROWS))


@pytest.mark.parametrize("step", range(6))
def test_an_interrupt_in_the_middle_of_writing_leaves_a_consistent_unlocked_store(
    tmp_path, monkeypatch, step
):
    steps = iter(range(step + 1))
    write_at = shards._write_at

    def interrupted(*args):
        write_at(*args)
        if next(steps) == step:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shards, "_write_at", interrupted)
        with open_store(tmp_path, range(ROWS)) as store:
            fill(store, range(ROWS))
    with open_store(tmp_path, range(ROWS)) as store:
        assert store.repair() == {}
        fill(store, range(ROWS))
    assert_right(tmp_path, range(ROWS))


def test_a_folder_that_cannot_be_written_is_told_and_a_complete_store_in_it_still_read(tmp_path):
    with quick_folder() as folder:
        complete_store(f"{folder}/complete", range(ROWS))
        assert_right(f"{folder}/complete", range(ROWS))  # also imports all that nobody may not read
        for path in (folder, f"{folder}/complete"):
            os.chmod(path, 0o555)  # noqa: S103

        def as_nobody():
            if os.geteuid() == 0:
                os.setuid(65534)
            assert_right(f"{folder}/complete", range(ROWS))
            for path, rows in (("new", ROWS), ("complete", ROWS + 1)):
                with pytest.raises(StoreError, match=f"cannot use .*{path}.*: Permission denied"):
                    open_store(f"{folder}/{path}", range(rows))

        assert in_child(as_nobody) == 0
        os.chmod(folder, 0o700)
        os.chmod(f"{folder}/complete", 0o700)


def test_a_path_that_is_a_file_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Not a directory"):
        open_store(tmp_path / "file", range(ROWS))


def test_of_four_processes_one_writes_and_the_others_are_told_who(tmp_path):
    context = multiprocessing.get_context("fork")
    start, done, results = context.Barrier(4), context.Barrier(4), context.Queue()

    def contend():
        start.wait(20)
        try:
            store = open_store(tmp_path, range(ROWS))
            results.put((os.getpid(), None))
        except StoreLockedError as error:
            results.put((os.getpid(), str(error)))
            store = None
        done.wait(20)
        if store:
            fill(store, range(ROWS))
            store.close()

    processes = [context.Process(target=contend) for _ in range(4)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(20)
    holders = [pid for pid, error in found if error is None]
    assert len(holders) == 1
    assert all(
        f"process {holders[0]} on" in error or "another process" in error for _, error in found if error
    )
    assert_right(tmp_path, range(ROWS))


def test_what_another_process_finished_just_before_the_lock_was_free_is_seen(tmp_path, monkeypatch):
    def other():
        monkeypatch.undo()
        complete_store(tmp_path, range(ROWS))

    def lock_after_the_other(path):
        assert in_child(other) == 0
        return locking.WriterLock(path)

    complete_store(tmp_path, range(2))
    monkeypatch.setattr(gradient_store, "WriterLock", lock_after_the_other)
    with open_store(tmp_path, range(ROWS)) as store:
        assert fill(store, range(ROWS)) == 0
    assert_right(tmp_path, range(ROWS))


@pytest.mark.parametrize("flock", [True, False], ids=["flock", "no flock"])
def test_the_lock_of_a_dead_process_is_taken_over_that_of_a_living_one_is_not(tmp_path, monkeypatch, flock):
    if not flock:
        monkeypatch.setattr(locking, "fcntl", None)

    def dies_holding_it():
        open_store(tmp_path, range(ROWS))
        die()

    assert in_child(dies_holding_it) == -signal.SIGKILL
    assert json.loads((tmp_path / "writer.lock").read_text())["pid"] != os.getpid()
    with (
        open_store(tmp_path, range(ROWS)),
        pytest.raises(StoreLockedError, match=f"process {os.getpid()} on"),
    ):
        open_store(tmp_path, range(ROWS))
    open_store(tmp_path, range(ROWS)).close()


def test_without_flock_a_holder_on_another_host_is_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(locking, "fcntl", None)
    (tmp_path / "writer.lock").write_text('{"host": "elsewhere", "pid": 1, "start": "then"}')
    with pytest.raises(StoreLockedError, match="process 1 on elsewhere since then"):
        open_store(tmp_path, range(ROWS))
    (tmp_path / "writer.lock").write_text("not json")
    open_store(tmp_path, range(ROWS)).close()


def test_a_child_forked_while_writing_does_not_keep_the_lock(tmp_path):
    with open_store(tmp_path, range(ROWS)):
        pid = os.fork()
        if pid == 0:
            time.sleep(30)
            os._exit(0)
    try:
        open_store(tmp_path, range(ROWS)).close()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_every_error_of_the_store_says_what_to_do(tmp_path):
    with pytest.raises(IclError) as caught:
        open_store(tmp_path, [])
    assert caught.value.fix
