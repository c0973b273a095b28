"""The lock that keeps a gradient store to one writer."""

import contextlib
import errno
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from icl_plugins.artefacts import canonical_json
from icl_plugins.errors import StoreLockedError
from icl_plugins.proxy.store.disk import regular_file_size

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_NO_FLOCK = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # some network file systems
_HOLDER_BYTES = 4096


class WriterLock:
    """Held from construction until ``release``; raises StoreLockedError naming who holds it instead.

    The kernel's flock decides, and lets go when its process dies, however it dies. The file says who holds
    it (pid, host, start) and is empty when nobody does. Where there is no flock, this text decides alone: a
    holder is passed over only if it is dead on this host, and two processes that start within the same
    instant are not kept apart.
    """

    def __init__(self, path: Path) -> None:
        regular_file_size(path)  # refuses a link, which would be written through
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            holder = _read_holder(self._descriptor)
            if not _flock(self._descriptor) and holder and not _is_dead(holder):
                raise BlockingIOError
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise StoreLockedError(
                f"{path.parent} is being written by {_describe(holder)}",
                expected="one writer at a time",
                fix=f"wait for it or stop it; if it is surely gone, delete {path}",
            ) from error
        me = {"host": socket.gethostname(), "pid": os.getpid(), "start": datetime.now(UTC).isoformat()}
        self._set_text(canonical_json(me))

    def release(self) -> None:
        """Let the next writer in."""
        self._set_text("")
        if fcntl is not None:  # closing alone would leave it with processes forked meanwhile
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)

    def _set_text(self, text: str) -> None:
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, text.encode())


def _flock(descriptor: int) -> bool:
    """Return False where the system cannot lock; raises BlockingIOError when another process has it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_FLOCK:
            return False
        raise
    return True


def _read_holder(descriptor: int) -> dict[str, object]:
    with contextlib.suppress(ValueError, RecursionError):
        holder = json.loads(os.read(descriptor, _HOLDER_BYTES))
        if isinstance(holder, dict):
            return holder
    return {}


def _is_dead(holder: dict[str, object]) -> bool:
    pid = holder.get("pid")
    if os.name != "posix" or holder.get("host") != socket.gethostname() or not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _describe(holder: dict[str, object]) -> str:
    if not holder:
        return "another process"
    return f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('start')}"
