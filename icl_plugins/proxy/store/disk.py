"""The file system as a gradient store sees it: no links, room taken before the work, typed errors."""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from icl_plugins.errors import CorruptStoreError, StoreError

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def regular_file_size(path: Path) -> int | None:
    """Return the bytes of a file, None without one; raises CorruptStoreError for a link or other kind."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise CorruptStoreError(
            f"{path} is a symbolic link or not a file",
            expected="a regular file inside the store",
            fix="do not trust this store; delete its folder and compute it again",
        )
    return found.st_size


def reserve(file: IO[bytes], size: int, folder: Path) -> None:
    """Give an empty file in a folder its full size, taking the room on the disk now where the system can."""
    if size > shutil.disk_usage(folder).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


@contextmanager
def disk_errors(folder: Path, needed: int = 0) -> Iterator[None]:
    """Turn an OSError into a StoreError that names the place and, on a full disk, needed and free bytes."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise StoreError(
                f"no room for {needed} bytes in {folder}: {error.strerror}",
                expected=f"more free space or quota ({shutil.disk_usage(folder).free} bytes are free)",
                fix="make room and run again; everything computed so far is kept",
            ) from error
        raise StoreError(
            f"cannot use {error.filename or folder}: {error.strerror}",
            expected="a folder that can be read and written",
            fix="correct its permissions, or choose another folder",
        ) from error
