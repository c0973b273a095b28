"""A pool's curriculum and the gradients of its examples at every checkpoint, in memory or in a folder.

The folder holds ``origin.json`` (what the curriculum was tuned on), the curriculum, the state of a tuning
that was interrupted, and a gradient store. Examples that are added to a pool later get their gradients from
the curriculum as it is: only their rows are computed.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from icl_plugins.artefacts import atomic_write, canonical_json, fingerprint
from icl_plugins.errors import ArtefactError, NonFiniteError, StaleStoreError
from icl_plugins.progress import tell_progress
from icl_plugins.proxy.curriculum import Curriculum
from icl_plugins.proxy.gradients import gradient_batches
from icl_plugins.proxy.model import OnTooLong, Proxy
from icl_plugins.proxy.prefix import PrefixTuning, tune_prefix
from icl_plugins.proxy.store import GradientStore, MemoryStore, RowStatus

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
    pass (rows added later: at the prefix the epoch started from). Raises StaleStoreError naming what
    differs, NonFiniteError naming rows, and what encoding, tuning and the store raise.
    """
    examples = proxy.encode(pool, on_too_long=on_too_long, prefix_length=tuning.length)
    skipped = tuple(row for row, example in enumerate(examples) if example is None)
    blocks = tuning.epochs + (mode == "exact")
    width = tuning.length * proxy.hidden_size
    tuned_rows: Sequence[str] = pool.row_fingerprints
    seconds = {}
    store: GradientStore | MemoryStore = MemoryStore(len(pool), blocks, width)
    if folder is not None:
        made_from = {
            **proxy.fingerprint,
            "dtype": str(proxy.dtype),
            "template": fingerprint(canonical_json(asdict(pool.template))),
            **{f"tuning {name}": str(value) for name, value in asdict(tuning).items()},
            "mode": mode,
            "on_too_long": on_too_long,
        }
        tuned_rows = _origin(folder, made_from, pool.row_fingerprints)
        store = GradientStore.open(
            folder / "gradients",
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
        curriculum = _curriculum(
            proxy, pool, tuning, on_too_long, folder, writer if mode == "online" else None
        )
        seconds["prefix tuning"] = perf_counter() - started
        started = perf_counter()
        left = {block: store.missing(block) for block in range(blocks)}
        done, total = 0, sum(map(len, left.values()))
        for block, rows in left.items():
            batches = gradient_batches(proxy, examples, curriculum.checkpoints[block], rows.tolist())
            try:
                for batch, values in batches:
                    writer(block, batch, values)
                    done += len(batch)
                    tell_progress("gradients", done, total)
            finally:
                writer.flush()
        seconds["gradients"] = perf_counter() - started
        _refuse_non_finite(store)
        features = tuple(store.features(block) for block in range(blocks))
    return PoolGradients(curriculum, features, skipped, len(missing), len(tuned_rows), seconds)


def _curriculum(
    proxy: Proxy,
    pool: "Pool",
    tuning: PrefixTuning,
    on_too_long: OnTooLong,
    folder: Path | None,
    capture: "_Writer | None",
) -> Curriculum:
    path = None if folder is None else folder / "curriculum.safetensors"
    if path is not None and path.exists():
        return Curriculum.load(path)
    curriculum = tune_prefix(
        proxy,
        pool,
        **asdict(tuning),
        on_too_long=on_too_long,
        capture=capture,
        directory=folder,
        progress=tell_progress,
    )
    if path is not None:
        curriculum.save(path)
    return curriculum


def _origin(folder: Path, made_from: dict[str, str], rows: Sequence[str]) -> Sequence[str]:
    """Return the rows that the folder's curriculum is tuned on: these, if it is new."""
    path = folder / "origin.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(path, canonical_json({"made_from": made_from, "rows": list(rows)}))
        return rows
    try:
        origin = json.loads(path.read_text(encoding="utf-8"))
        stored, tuned_rows = dict(origin["made_from"]), [str(row) for row in origin["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{str(path)!r} cannot be read: {error}",
            expected="what an earlier selection with this store wrote",
            fix="remove the folder to start afresh",
        ) from error
    differing = [
        f"{name} (stored {str(stored.get(name))[:12]}, now {value[:12]})"
        for name, value in made_from.items()
        if stored.get(name) != value
    ]
    gone = len(set(tuned_rows).difference(rows))
    if gone:
        differing.append(f"examples ({gone} of the {len(tuned_rows)} it was tuned on are not in the pool)")
    elif list(rows) != tuned_rows and not (folder / "curriculum.safetensors").exists():
        differing.append("examples (its tuning was interrupted, and can only go on with the same ones)")
    if differing:
        raise StaleStoreError(
            f"the store {str(folder)!r} was made from something else: {', '.join(differing)}",
            expected="the same settings, template and proxy, and the examples it was tuned on in the pool",
            fix="choose another folder, or remove this one to start afresh",
        )
    return tuned_rows


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
            fix='look at these examples and remove them, or load the proxy with dtype="float32"',
        )
