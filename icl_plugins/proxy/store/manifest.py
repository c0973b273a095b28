"""What a gradient store says about itself: what it was made from, its shape, and which rows it holds."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from icl_plugins.artefacts import atomic_write, canonical_json
from icl_plugins.errors import ArtefactError, CorruptStoreError, SettingError, StaleStoreError, StoreError
from icl_plugins.proxy.store.disk import regular_file_size

SCHEMA = 1
DTYPES = {"float32": "<f4", "float16": "<f2"}

_FILE = "manifest.json"
_MAX_BYTES = 100 << 20  # 1.5 million rows; a larger file is refused unread
_DIGITS = 64
_ROW_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``.

    shards: rows in each shard of a block, in the order in which they were added. rows: the fingerprint of
    every row in that order, joined by spaces (one string, which JSON reads ten times faster than a list).
    Raises SettingError for values that no store can have.
    """

    fingerprint: Mapping[str, str]
    blocks: int
    width: int
    dtype: str
    shards: tuple[int, ...] = ()
    rows: str = ""

    def __post_init__(self) -> None:
        """Check every field, whether it comes from a caller or from a file."""
        for name, value, valid, expected in (
            ("blocks", self.blocks, _is_count(self.blocks), "a whole number of at least 1"),
            ("width", self.width, _is_count(self.width), "a whole number of at least 1"),
            ("dtype", self.dtype, self.dtype in tuple(DTYPES), " or ".join(DTYPES)),
            (
                "fingerprint",
                self.fingerprint,
                _is_fingerprint(self.fingerprint),
                "component names and hashes",
            ),
            ("shards", self.shards, all(map(_is_count, self.shards)), "at least 1 row in each"),
        ):
            if not valid:
                raise SettingError(f"{name}={value!r}", expected=expected, fix=f"correct {name}")
        length = max(0, sum(self.shards) * (_DIGITS + 1) - 1)
        if not isinstance(self.rows, str) or len(self.rows) != length:
            raise SettingError("row fingerprints", expected=f"{length} characters", fix="give one per row")

    @classmethod
    def read(cls, folder: Path) -> "Manifest | None":
        """Read the manifest of a store, None where there is no store yet.

        Raises CorruptStoreError when it is missing beside shards, is not a manifest, or is too large, and
        StoreError when a newer version of this library wrote it.
        """
        path = folder / _FILE
        size = regular_file_size(path)
        if size is None:
            if not any(folder.glob("shard-*")):
                return None
            # A store is made manifest first, then its shards: both may have come since the first look.
            size = regular_file_size(path)
            if size is None:
                raise _corrupt(f"{path} is missing beside shards")
        if size > _MAX_BYTES:
            raise _corrupt(f"{path} has {size} bytes, more than {_MAX_BYTES}")
        try:
            fields = json.loads(path.read_bytes())
            schema = fields.pop("schema")
            if not _is_count(schema):
                raise ValueError(f"schema {schema!r}")
            if schema > SCHEMA:
                raise _newer(path, schema)
            return cls(**fields | {"shards": tuple(fields["shards"])})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise _corrupt(f"{path} is not a manifest: {error}") from error

    def write(self, folder: Path) -> None:
        """Replace the manifest of a store in one step; raises StoreError when that fails."""
        data = canonical_json(
            {**vars(self), "schema": SCHEMA, "fingerprint": dict(self.fingerprint)}
        ).encode()
        if len(data) > _MAX_BYTES:
            raise SettingError(f"{sum(self.shards)} rows", expected="1.5 million at most", fix="use a sample")
        try:
            atomic_write(folder / _FILE, data)
        except ArtefactError as error:
            raise StoreError(error.got, expected=error.expected, fix=error.fix) from error

    @staticmethod
    def remove(folder: Path) -> None:
        """Remove shards, then the manifest: shards without one would be taken for damage."""
        for shard in folder.glob("shard-*"):
            shard.unlink()
        (folder / _FILE).unlink()

    def names(self) -> list[str]:
        """Return the row fingerprints in the order of the slots, one for each even if some are damaged."""
        return [self.rows[start : start + _DIGITS] for start in range(0, len(self.rows), _DIGITS + 1)]

    def with_rows(self, names: Sequence[str]) -> "Manifest":
        """Return the manifest of a store with one more shard per block, made of these rows."""
        wrong = [name for name in names if not isinstance(name, str) or not _ROW_FINGERPRINT.fullmatch(name)]
        if wrong:
            raise SettingError(
                f"row fingerprint {wrong[0]!r}", expected="64 lower-case hex digits", fix="give the sha256"
            )
        rows = " ".join([self.rows, *names] if self.rows else names)
        return replace(self, shards=(*self.shards, len(names)), rows=rows)

    def require(self, wanted: "Manifest", folder: Path) -> None:
        """Raise StaleStoreError, naming each part that differs, unless both were made from the same."""
        old, new = self._identity(), wanted._identity()
        differing = [
            f"{part} ({old.get(part, 'absent')[:12]} in the store, now {new.get(part, 'absent')[:12]})"
            for part in sorted(old | new)
            if old.get(part) != new.get(part)
        ]
        if differing:
            raise StaleStoreError(
                f"{folder} was made with another " + ", ".join(differing),
                expected="gradients of the same data, proxy and settings",
                fix="choose another folder, or delete this one if it is not needed",
            )

    def _identity(self) -> dict[str, str]:
        # A component of the caller may well be called dtype, so the store's own names carry a prefix.
        shape = {f"store {name}": str(vars(self)[name]) for name in ("blocks", "width", "dtype")}
        return {**self.fingerprint, **shape}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_fingerprint(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    return all(isinstance(text, str) and text for part in value.items() for text in part)


def _corrupt(got: str) -> CorruptStoreError:
    return CorruptStoreError(
        got,
        expected="the manifest that this library wrote last",
        fix="delete the folder and compute it again",
    )


def _newer(path: Path, schema: int) -> StoreError:
    return StoreError(
        f"{path} has schema {schema}",
        expected=f"schema {SCHEMA}",
        fix="use the newer version of this library that wrote it, or another folder",
    )
