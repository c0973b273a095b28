"""Shared by the tests of the gradient store: rows whose gradients are known, and children that crash."""

import hashlib
import os
import signal
import tempfile
import traceback

import numpy as np

from icl_plugins.proxy.store import GradientStore

BLOCKS, WIDTH = 3, 5
FINGERPRINT = {"weights": "a" * 64, "tokenizer": "b" * 64, "template": "c" * 64}


def quick_folder():
    """A temporary folder, in memory where there is such a place: the store syncs at every step."""
    memory = "/dev/shm"  # noqa: S108
    return tempfile.TemporaryDirectory(dir=memory if os.path.isdir(memory) else None)


def names(contents):
    return [hashlib.sha256(str(content).encode()).hexdigest() for content in contents]


def gradients(contents, block, width=WIDTH, dtype="float32"):
    """The gradients that rows with these contents have: finite, and different for every row and block."""
    seeds = [[block, int(name[:8], 16)] for name in names(contents)]
    rows = [np.random.default_rng(seed).standard_normal(width) for seed in seeds]
    return np.array(rows, dtype).reshape(len(seeds), width)


def open_store(path, contents, *, blocks=BLOCKS, width=WIDTH, dtype="float32", fingerprint=FINGERPRINT):
    return GradientStore.open(
        path,
        fingerprint=fingerprint,
        row_fingerprints=names(contents),
        blocks=blocks,
        width=width,
        dtype=dtype,
    )


def fill(store, contents, batch=4):
    """Compute what is missing, as a driver does; return how many rows that were, over all blocks."""
    computed = 0
    for block in range(len(store.status)):
        missing = store.missing(block)
        for start in range(0, len(missing), batch):
            rows = missing[start : start + batch]
            store.write(block, rows, gradients([contents[row] for row in rows], block))
        computed += len(missing)
    return computed


def complete_store(path, contents):
    with open_store(path, contents) as store:
        fill(store, contents)


def assert_right(path, contents):
    with open_store(path, contents) as store:
        for block in range(BLOCKS):
            np.testing.assert_array_equal(store.features(block), gradients(contents, block))


def in_child(function):
    """Run a function in a forked process; return its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die():
    os.kill(os.getpid(), signal.SIGKILL)
