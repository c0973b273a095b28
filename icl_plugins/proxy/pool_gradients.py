"""A pool's curriculum and the gradients of its examples at every checkpoint, in memory or in a folder.

The folder holds ``origin.json`` (what the curriculum was tuned on), the curriculum, the state of a tuning
that was interrupted, and a gradient store. Examples that are added to a pool later get their gradients from
the curriculum as it is: only their rows are computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from icl_plugins.artefacts import canonical_json, fingerprint
from icl_plugins.errors import NonFiniteError
from icl_plugins.progress import tell_progress
from icl_plugins.proxy.curriculum import Curriculum, require_origin
from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.gradients import gradient_batches
from icl_plugins.proxy.model import OnTooLong, Proxy
from icl_plugins.proxy.origin import CURRICULUM_FILE, GRADIENTS_FOLDER, claim, make_folder, positions
from icl_plugins.proxy.prefix import Capture, PrefixTuning, tune_prefix
from icl_plugins.proxy.store import GradientStore, MemoryStore, RowStatus
from icl_plugins.proxy.tuning_state import examples_hash

if TYPE_CHECKING:
    from torch import Tensor

    from icl_plugins.examples import Pool

Mode = Literal["exact", "online"]

_BUFFERED_ROWS = 2048  # written at once: a durable write waits for the disk


@dataclass(frozen=True, eq=False)
class PoolGradients:
    """What gradient matching needs to know of a pool.

    blocks: one (N, k*h) array per checkpoint, in nats per example, NaN where an example was skipped.
    computed: rows whose gradients were not there yet. tuned_on: examples that the curriculum was tuned on.
    seconds: of each stage.
    """

    curriculum: Curriculum
    blocks: tuple[NDArray[np.float32], ...]
    skipped: tuple[int, ...]
    computed: int
    tuned_on: int
    seconds: dict[str, float]


def pool_gradients(
    proxy: Proxy,
    pool: "Pool",
    tuning: PrefixTuning,
    *,
    mode: Mode,
    on_too_long: OnTooLong = "error",
    folder: Path | None = None,
) -> PoolGradients:
    """Tune the prefix, take the gradients; with a folder, do only what is not there yet.

    mode: "exact", every example at every checkpoint, E+1 blocks (arXiv 2506.04579, step C); "online", E
    blocks, each example at the prefix its own training step of the epoch started from, without a further
    pass (rows added later: at the prefix the epoch started from; rows lost from the folder: by tuning once
    more). Raises StaleStoreError naming what
    differs, NonFiniteError naming rows, and what encoding, tuning and the store raise.
    """
    tuned_rows: Sequence[str] = pool.row_fingerprints
    made_from: dict[str, str] = {}
    if folder is not None:
        make_folder(folder)
        made_from = {
            **proxy.fingerprint,
            "dtype": str(proxy.dtype),
            "template": fingerprint(canonical_json(asdict(pool.template))),
            **{f"tuning {name}": str(value) for name, value in asdict(tuning).items()},
            "mode": mode,
            "on_too_long": on_too_long,
        }
        tuned_rows = claim(folder, made_from, pool.row_fingerprints)
    examples = proxy.encode(pool, on_too_long=on_too_long, prefix_length=tuning.length)
    skipped = tuple(row for row, example in enumerate(examples) if example is None)
    tuned_at = positions(tuned_rows, pool.row_fingerprints)
    blocks = tuning.epochs + (mode == "exact")
    width = tuning.length * proxy.hidden_size
    seconds = {}
    if folder is None:
        store: GradientStore | MemoryStore = MemoryStore(len(pool), blocks, width)
    else:
        store = GradientStore.open(
            folder / GRADIENTS_FOLDER,
            fingerprint={**made_from, "tuned on": fingerprint(*tuned_rows)},
            row_fingerprints=pool.row_fingerprints,
            blocks=blocks,
            width=width,
        )
    with store:
        started = perf_counter()
        missing = {row for block in range(blocks) for row in store.missing(block).tolist()}
        if skipped:
            store.mark_skipped(skipped)
        writer = _Writer(store, len(pool) - len(skipped))

        def tune(pool: "Pool", capture: Capture | None, directory: Path | None = None) -> Curriculum:
            return tune_prefix(
                proxy,
                pool,
                **asdict(tuning),
                on_too_long=on_too_long,
                capture=capture,
                directory=directory,
                progress=tell_progress,
            )

        if folder is not None and (folder / CURRICULUM_FILE).exists():
            tuned_examples = [examples[row] for row in tuned_at]
            curriculum = _load_curriculum(folder / CURRICULUM_FILE, proxy, tuning, tuned_examples)
        else:
            curriculum = tune(pool, writer if mode == "online" else None, folder)
            if folder is not None:
                curriculum.save(folder / CURRICULUM_FILE)
        if mode == "online":
            _replay(lambda capture: tune(pool.subset(tuned_at), capture), tuned_at, store)
        seconds["prefix tuning"] = perf_counter() - started
        started = perf_counter()
        _compute_missing(proxy, examples, curriculum, writer, store)
        seconds["gradients"] = perf_counter() - started
        _refuse_non_finite(store)
        features = tuple(store.features(block) for block in range(blocks))
    return PoolGradients(curriculum, features, skipped, len(missing), len(tuned_rows), seconds)


def _compute_missing(
    proxy: Proxy,
    examples: Sequence[Encoded | None],
    curriculum: Curriculum,
    writer: "_Writer",
    store: GradientStore | MemoryStore,
) -> None:
    left = [store.missing(block) for block in range(len(store.status))]
    done, total = 0, sum(map(len, left))
    for block, rows in enumerate(left):
        batches = gradient_batches(proxy, examples, curriculum.checkpoints[block], rows.tolist())
        try:
            for batch, values in batches:
                writer(block, batch, values)
                done += len(batch)
                tell_progress("gradients", done, total)
        finally:
            writer.flush()


def _load_curriculum(
    path: Path, proxy: Proxy, tuning: PrefixTuning, examples: Sequence[Encoded | None]
) -> Curriculum:
    curriculum = Curriculum.load(path)
    used = [(row, example) for row, example in enumerate(examples) if example is not None]
    seen = examples_hash([example for _, example in used], [row for row, _ in used])
    shape = (tuning.epochs + 1, tuning.length, proxy.hidden_size)
    saved = {
        "config": curriculum.config,
        "fingerprint": curriculum.fingerprint,
        "checkpoints": {"shape": tuple(curriculum.checkpoints.shape)},
    }
    wanted = {
        "config": asdict(tuning),
        "fingerprint": {**proxy.fingerprint, "examples": seen},
        "checkpoints": {"shape": shape},
    }
    require_origin(path, saved, wanted)
    return curriculum


def _replay(
    tune: Callable[[Capture], Curriculum], tuned_at: Sequence[int], store: GradientStore | MemoryStore
) -> None:
    """Tune once more, as the first time, if gradients are lost that only training itself has seen.

    tuned_at: the place in the pool of each row that the curriculum was tuned on.
    """
    lost = [set(store.missing(block).tolist()).intersection(tuned_at) for block in range(len(store.status))]
    if not any(lost):
        return
    writer = _Writer(store, len(tuned_at))

    def capture(epoch: int, rows: list[int], values: "Tensor") -> None:
        wanted = [at for at, row in enumerate(rows) if tuned_at[row] in lost[epoch]]
        if wanted:
            writer(epoch, [tuned_at[rows[at]] for at in wanted], values[wanted])

    try:
        tune(capture)
    finally:
        writer.flush()


class _Writer:
    """Gathers rows and writes many at once; the last of an epoch's rows, or `flush`, writes what is left.

    So an epoch's gradients are on the disk before prefix tuning saves that the epoch is over.
    """

    def __init__(self, store: GradientStore | MemoryStore, rows_per_block: int) -> None:
        self._store, self._rows_per_block = store, rows_per_block
        self._block, self._seen = 0, 0
        self._rows: list[int] = []
        self._values: list[NDArray[np.float32]] = []

    def __call__(self, block: int, rows: Sequence[int], values: "Tensor") -> None:
        if block != self._block:
            self.flush()
        self._block, self._seen = block, self._seen + len(rows)
        self._rows += rows
        self._values.append(values.flatten(1).numpy())
        if len(self._rows) >= _BUFFERED_ROWS or self._seen % self._rows_per_block == 0:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        if self._rows:
            self._store.write(self._block, self._rows, np.concatenate(self._values))
            self._rows, self._values = [], []


def _refuse_non_finite(store: GradientStore | MemoryStore) -> None:
    bad = np.flatnonzero((store.status == RowStatus.NON_FINITE).any(axis=0))
    if len(bad):
        raise NonFiniteError(
            f"the gradients of {len(bad)} examples are NaN or infinite, rows {bad[:5].tolist()}",
            expected="finite gradients",
            fix="look at these examples and remove them, or load the proxy with dtype='float32'; with a "
            "store, in a new folder",
        )
