"""ResultStore: what a target answered, on disk, so that no question is paid for twice."""

import os
from types import TracebackType
from typing import Self


class ResultStore:
    """A SQLite file of requests and answers; also a context manager, which closes it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> Self:
        """Return the store."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()
