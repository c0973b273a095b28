"""What every saved value shares: canonical JSON, fingerprints, and writing that is all or nothing."""

import contextlib
import hashlib
import json
import os
import uuid
from pathlib import Path

from icl_plugins.errors import ArtefactError, DataError


def canonical_json(obj: object, *, indent: int | None = None) -> str:
    """Return the one JSON text of ``obj``: keys sorted, no NaN or infinity, Unicode kept as it is.

    Compact unless ``indent`` is given. Raises DataError for what JSON cannot hold (lone surrogates and keys
    that are not text included, since JSON would turn 1 and "1" into the same key).
    """
    separators = (",", ":") if indent is None else (",", ": ")
    try:
        _refuse_other_keys(obj)
        text = json.dumps(
            obj, ensure_ascii=False, allow_nan=False, sort_keys=True, indent=indent, separators=separators
        )
        text.encode("utf-8")  # lone surrogates would fail at the time of writing
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"a value that JSON cannot hold: {error}",
            expected="text, finite numbers, booleans, None, lists, and mappings with text keys",
            fix="convert the value, or leave it out",
        ) from error
    return text


def _refuse_other_keys(obj: object) -> None:
    if isinstance(obj, dict):
        for key, value in obj.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is not text")
            _refuse_other_keys(value)
    elif isinstance(obj, (list, tuple)):
        for value in obj:
            _refuse_other_keys(value)


def fingerprint(*parts: str | bytes) -> str:
    """Return the sha256 (64 hex digits) of the parts in order.

    Each part goes in with its kind and length, so that parts cannot run together: ("ab", "c") and
    ("a", "bc") differ, and so do "a" and b"a".
    """
    digest = hashlib.sha256()
    for part in parts:
        kind, data = (
            (b"b", part) if isinstance(part, bytes) else (b"s", part.encode("utf-8", "surrogatepass"))
        )
        digest.update(kind + len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8, newlines untouched) so that ``path`` holds all of it or what it held.

    Survives kill and power loss: sibling file, fsync, rename, fsync of the folder. A symbolic link keeps
    pointing at its file. Raises ArtefactError when the folder is missing, read-only or full.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:40]}.{uuid.uuid4().hex}.incomplete")
    payload = data if isinstance(data, bytes) else data.encode("utf-8")
    try:
        with open(temporary, "xb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise ArtefactError(
            f"cannot write {os.fspath(path)!r}: {error.strerror or error}",
            expected=f"a folder that exists, is writable and has {len(payload)} bytes free",
            fix="make the folder, free some space, or choose another path",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its rename is durable enough on its own
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
