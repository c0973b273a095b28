"""LazySelection: made when it is first needed, and again after examples were added."""

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from tempfile import TemporaryDirectory
from threading import RLock
from typing import Any, Literal

from icl_plugins.algorithms.constraints import resolve
from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.errors import SettingError
from icl_plugins.examples import Pool
from icl_plugins.selection import Selection, Selector

Renew = Literal["next_call", "refresh"]


class LazySelection:
    """What ``selector`` chooses from ``pool``: by the first thread that needs it, while the others wait.

    ``renew``: after ``add`` the choice is made anew by the next reader ("next_call") or by ``refresh`` alone.
    A selector that can keep its gradients (``store``) and was given no folder gets a temporary one, so that
    only added rows are computed; copies and pickles leave it behind. ``progress`` shows bars on stderr.
    The other arguments are those of ``Selector.select``.

    Raises SettingError or BudgetError at once for limits that the pool cannot meet, whatever the method.
    """

    def __init__(
        self,
        selector: Selector,
        pool: Pool,
        shots: int | None = None,
        *,
        max_tokens: int | None = None,
        quotas: Quotas = None,
        include: Iterable[int] = (),
        exclude: Iterable[int] = (),
        renew: Renew = "next_call",
        progress: bool = False,
    ) -> None:
        if renew not in ("next_call", "refresh"):
            raise SettingError(f"renew={renew!r}", expected="'next_call' or 'refresh'", fix="pass one")
        _check_kinds(selector, pool)
        limits: dict[str, Any] = {"quotas": quotas, "include": tuple(include), "exclude": tuple(exclude)}
        # every example costs a token at least: what fails even so fails now
        resolve(len(pool), pool.labels, shots, costs=[1] * len(pool), max_cost=max_tokens, **limits)
        self._selector, self._pool = selector, pool
        self._limits: dict[str, Any] = {"shots": shots, "max_tokens": max_tokens, **limits}
        self._renew, self._progress = renew, progress
        self._selection: Selection | None = None
        self._added: list[Mapping[str, object]] = []
        self._folder: TemporaryDirectory[str] | None = None
        self._lock = RLock()

    @property
    def ready(self) -> bool:
        """Whether the next read comes without work."""
        return self._selection is not None and not (self._added and self._renew == "next_call")

    @property
    def selection(self) -> Selection:
        """The selection, made now if it is not ``ready``; raises what the selector raises."""
        # ready first: what is read after it holds all that was added before
        if self.ready and self._selection is not None:
            return self._selection
        with self._lock:
            return self._selection if self.ready and self._selection is not None else self._select()

    @property
    def examples(self) -> tuple[Mapping[str, object], ...]:
        """The chosen examples, in order."""
        return self.selection.examples

    def add(self, example: Mapping[str, object]) -> None:
        """Add an example to the pool; raises DataError, and adds nothing, if the pool cannot take it."""
        alone = Pool.from_records([example], self._pool.template, label_field=self._pool.label_field)
        self._added.append(alone.examples[0])

    def refresh(self) -> Selection:
        """Choose now from all that was added; raises what the selector raises."""
        with self._lock:
            return self._selection if self._selection is not None and not self._added else self._select()

    def _select(self) -> Selection:
        added = tuple(self._added)  # others may add meanwhile: theirs is the next choice
        pool = replace(self._pool, examples=(*self._pool.examples, *added)) if added else self._pool
        with _bars() if self._progress else nullcontext():
            selection = self._stored().select(pool, **self._limits)
        self._pool, self._selection = pool, selection
        del self._added[: len(added)]
        return selection

    def _stored(self) -> Selector:
        """Return the selector with a folder for its gradients, if it takes one."""
        selector: Any = self._selector
        takes = is_dataclass(selector) and any(field.name == "store" for field in fields(selector))
        if not takes or selector.store is not None:
            return self._selector
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="icl-plugins-", ignore_cleanup_errors=True)
        stored: Selector = replace(selector, store=self._folder.name)
        return stored

    def __getstate__(self) -> dict[str, object]:
        """Return what a copy or pickle takes along: neither lock nor temporary folder."""
        with self._lock:
            return {**self.__dict__, "_added": [*self._added], "_folder": None, "_lock": None}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        """Take over a state, with a lock of its own."""
        self.__dict__.update(state, _lock=RLock())


def _check_kinds(selector: object, pool: object) -> None:
    if isinstance(selector, type) or not isinstance(selector, Selector):
        raise SettingError(
            f"{selector!r:.80} as selector", expected="one that selects", fix="pass Random(seed=0)"
        )
    if not isinstance(pool, Pool):
        raise SettingError(
            f"a {type(pool).__name__} as pool",
            expected="a Pool",
            fix="pass Pool.from_records(records, template)",
        )


def _bars() -> Any:
    from icl_plugins.cli.progress import shown_progress

    return shown_progress(downloads=True)
