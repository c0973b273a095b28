"""GrowingSelection: the fixed block of a hybrid, and all examples that its nearest may come from by now."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from icl_plugins.examples import Pool
from icl_plugins.selection import Selection
from icl_plugins.selectors._kept import Memory
from icl_plugins.selectors.hybrid import Hybrid
from langchain_icl.lazy import LazySelection


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A choice, the pool that it was made from, and what was added since, one example each."""

    selection: Selection
    pool: Pool
    added: tuple[Pool, ...]

    @property
    def all(self) -> Pool:
        """All examples, in the order in which they came."""
        new = tuple(example for pool in self.added for example in pool.examples)
        return replace(self.pool, examples=(*self.pool.examples, *new)) if new else self.pool

    def same(self, other: "Snapshot") -> bool:
        """Say whether nothing has changed between the two."""
        mine, others = (self.selection, *self.added), (other.selection, *other.added)
        return len(mine) == len(others) and all(one is two for one, two in zip(mine, others, strict=True))

    def newer_than(self, other: "Snapshot | None") -> list[Pool]:
        """Return what was added since another snapshot, of the same choice or the one before."""
        known = () if other is None else other.added
        return [pool for pool in self.added if all(pool is not one for one in known)]


class GrowingSelection(LazySelection):
    """A LazySelection of a FixedBlock that also tells what was added, which may be retrieved at once."""

    @property
    def memory(self) -> Memory:
        """Vectors of the examples, for `keeping`."""
        return self._memory

    def snapshot(self) -> Snapshot:
        """Return the choice, made now if there is none, and all examples; raises what the selector raises."""
        selection = self.selection
        with self._lock:
            return Snapshot(self._selection or selection, self._pool, tuple(self._added))

    def forget(self, pools: Iterable[Pool]) -> None:
        """Drop what was added; waits for a choice that is being made of it."""
        gone = {id(pool) for pool in pools}
        with self._choosing, self._lock:
            self._added = [pool for pool in self._added if id(pool) not in gone]


@dataclass(frozen=True)
class FixedBlock:
    """The selector of a hybrid's fixed block; store: where its gradients lie, if it keeps some."""

    hybrid: Hybrid
    store: Any = None

    def select(self, pool: Pool, shots: int | None = None, **limits: Any) -> Selection:
        """Select as `Hybrid.select_fixed` does, and try whether all of the pool can be retrieved too.

        So an example that only the retrieval cannot take fails with the choice, and is dropped with it.
        """
        fixed: Any = self.hybrid.fixed
        takes = is_dataclass(fixed) and any(one.name == "store" for one in fields(fixed))
        hybrid = replace(self.hybrid, fixed=replace(fixed, store=self.store)) if takes else self.hybrid
        selection = hybrid.select_fixed(pool, shots, **limits)
        hybrid.around(selection, max_tokens=limits.get("max_tokens"))
        return selection
