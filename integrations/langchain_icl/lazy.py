"""LazySelection: made when it is first needed, and again after examples were added."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass, replace
from tempfile import TemporaryDirectory
from threading import Lock, RLock
from typing import Any, Literal

from icl_plugins.algorithms.constraints import resolve
from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.errors import DataError, IclError, NonFiniteError, SettingError
from icl_plugins.examples import Pool
from icl_plugins.selection import Selection, Selector
from icl_plugins.selectors._kept import Memory, keeping

Renew = Literal["next_call", "refresh"]


class LazySelection:
    """What ``selector`` chooses from ``pool``: by the first thread that needs it, while the others wait.

    ``renew``: after ``add`` the choice is made anew by the next reader ("next_call") or by ``refresh`` alone.
    If that fails by the data (DataError, SettingError, NonFiniteError; say a row too long for the proxy), all
    examples added since the last choice are dropped: one reader gets the error, which names them, and the
    next ones what was chosen last. After any other error the next reader tries again.
    Only added rows are computed: gradients lie in the selector's ``store``, a temporary folder unless it has
    one; vectors and losses in memory. Copies and pickles leave both behind. (BestOfN draws sets anew from all
    rows: there is nothing of a row to keep.) ``progress`` shows bars on stderr.
    The other arguments are those of ``Selector.select``.

    Raises SettingError at once for what is no selector or pool, and BudgetError or SettingError for limits
    that no method could meet; whether a token budget holds an example shows at the first choice.
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
        self._selector, self._pool = selector, pool
        self._limits: dict[str, Any] = {"shots": shots, "max_tokens": max_tokens, **limits}
        self._check(pool.labels)
        self._renew, self._progress = renew, progress
        self._selection: Selection | None = None
        self._added: list[Pool] = []  # one example each
        self._folder: TemporaryDirectory[str] | None = None
        self._memory: Memory = {}
        self._choosing, self._lock = RLock(), Lock()  # for as long as it takes; for a moment

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
        with self._choosing:
            return self._selection if self.ready and self._selection is not None else self._select()

    @property
    def examples(self) -> tuple[Mapping[str, object], ...]:
        """The chosen examples, in order."""
        return self.selection.examples

    def add(self, example: Mapping[str, object]) -> None:
        """Add an example to the pool.

        Raises, and adds nothing, if the pool cannot take it (DataError) or the limits could not be met with
        its label (SettingError, BudgetError).
        """
        alone = Pool.from_records([example], self._pool.template, label_field=self._pool.label_field)
        with self._lock:
            added = (label for pool in self._added for label in pool.labels)
            self._check((*self._pool.labels, *added, *alone.labels))
            self._added.append(alone)

    def refresh(self) -> Selection:
        """Choose now from all that was added; raises what the selector raises."""
        with self._choosing:
            return self._selection if self._selection is not None and not self._added else self._select()

    def _select(self) -> Selection:
        # others may add meanwhile: theirs is the next choice
        added = tuple(example for pool in tuple(self._added) for example in pool.examples)
        pool = replace(self._pool, examples=(*self._pool.examples, *added)) if added else self._pool
        try:
            with _bars() if self._progress else nullcontext(), keeping(self._memory):
                selection = self._stored().select(pool, **self._limits)
        except (DataError, SettingError, NonFiniteError) as error:
            if not added:
                raise
            with self._lock:
                del self._added[: len(added)]
            raise _dropped(added, error) from error
        with self._lock:
            self._pool, self._selection = pool, selection
            del self._added[: len(added)]
        return selection

    def _check(self, labels: Sequence[str]) -> None:
        limits, size = dict(self._limits), len(labels)
        # every example costs a token at least: what fails even so fails now
        shots, max_cost = limits.pop("shots"), limits.pop("max_tokens")
        resolve(size, labels, shots, costs=[1] * size, max_cost=max_cost, **limits)

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
        """Return what a copy or pickle takes along: neither locks nor temporary folder."""
        with self._lock:
            own: dict[str, object] = {"_added": [*self._added], "_folder": None, "_memory": {}}
            return {**self.__dict__, **own, "_choosing": None, "_lock": None}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        """Take over a state, with locks of its own."""
        self.__dict__.update(state, _choosing=RLock(), _lock=Lock())


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


def _dropped(added: Sequence[Mapping[str, object]], error: IclError) -> IclError:
    names = ", ".join(f"{example!r:.80}" for example in added[:5]) + ", ..." * (len(added) > 5)
    return type(error)(
        f"{error.got}, in a choice with {len(added)} added examples, which are dropped: {names}",
        expected=error.expected,
        fix=f"{error.fix}, and add the good ones again; the next call goes on without them",
    )


def _bars() -> Any:
    from icl_plugins.cli.progress import shown_progress

    return shown_progress(downloads=True)
