"""What the selectors share: checked arguments, token counts, the proxy, the finished Selection."""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from icl_plugins.algorithms.constraints import Constraints, resolve, take_in_order
from icl_plugins.errors import NonFiniteError, SettingError
from icl_plugins.examples import Pool
from icl_plugins.selection import Selection

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

Quotas = str | int | Mapping[str, int] | None
Counter = Callable[[Sequence[str]], list[int]]
Chosen = TypeVar("Chosen")


def whole_number(name: str, value: object, *, at_least: int = 0, at_most: int = 2**63 - 1) -> int:
    """Return `value` as an int; numpy ints pass, bool, float and what is out of range raise SettingError."""
    span = f"a whole number from {at_least} to {at_most}"
    wrong = SettingError(f"{name}={value!r}", expected=span, fix=f"pass {span} as {name}")
    if isinstance(value, bool | np.bool_):
        raise wrong
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise wrong from None
    if not at_least <= number <= at_most:
        raise wrong
    return number


def real_number(name: str, value: object, *, at_least: float, at_most: float = math.inf) -> float:
    """Return `value` as a float; bool, NaN, infinity and what is out of range raise SettingError."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and at_least <= value <= at_most):  # type: ignore[arg-type, operator]
        span = f"a finite number from {at_least} to {at_most}"
        raise SettingError(f"{name}={value!r}", expected=span, fix=f"pass {span} as {name}")
    return float(value)  # type: ignore[arg-type]


def seed_number(value: object) -> int:
    """Return a seed that numpy, scikit-learn and torch all accept; raise SettingError otherwise."""
    return whole_number("seed", value, at_most=2**32 - 1)


def by_score(scores: np.ndarray) -> np.ndarray:
    """Rank rows by score, highest first, ties by lowest index; raises NonFiniteError naming bad rows."""
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise NonFiniteError(
            f"{len(bad)} scores that are NaN or infinite, rows {bad[:5].tolist()}",
            expected="a finite score for every example",
            fix="look at these rows, or load the proxy with dtype='float32'",
        )
    return np.argsort(-scores, kind="stable")


def token_counter(tokenizer: "str | Proxy") -> Counter:
    """Return the function that counts the tokens of texts; of a model's name only the tokenizer is loaded."""
    if not isinstance(tokenizer, str):
        return tokenizer.count_tokens
    from icl_plugins.proxy.model import count_tokens, load_tokenizer

    loaded = load_tokenizer(tokenizer)
    return lambda texts: count_tokens(loaded, texts)


def load_proxy(proxy: "str | Proxy") -> "Proxy":
    """Return the proxy itself, loaded when it is given by name."""
    from icl_plugins.proxy.model import Proxy

    return Proxy.load(proxy) if isinstance(proxy, str) else proxy


def proxy_identity(proxy: "Proxy") -> dict[str, object]:
    """Name and fingerprints of a proxy, for the config of a selection."""
    return {"name": proxy.name, **proxy.fingerprint}


@dataclass(frozen=True)
class Request:
    """The arguments of one `select` call, checked before a tokenizer or proxy is loaded.

    `take` and `choose` are the only ways to indices, so no selector can pass the token budget: a
    demonstration costs the tokens of its text with separator, and since tokens may merge or split where
    texts meet, the joined text is counted too and the choice repeated with less while it is over.
    """

    pool: Pool
    shots: int | None
    max_tokens: int | None
    quotas: Quotas
    include: tuple[int, ...]
    exclude: tuple[int, ...]
    tokenizer: "str | Proxy"

    @classmethod
    def check(
        cls,
        pool: Pool,
        shots: int | None,
        max_tokens: int | None,
        quotas: Quotas,
        include: Iterable[int],
        exclude: Iterable[int],
        tokenizer: "str | Proxy",
    ) -> "Request":
        """Check what `select` was given; raises BudgetError or SettingError.

        Only a token budget loads anything, and then no more than the tokenizer.
        """
        request = cls(pool, shots, max_tokens, quotas, tuple(include), tuple(exclude), tokenizer)
        # Every demonstration costs a token at least: what fails even so fails before the tokenizer is loaded.
        request._resolve(np.ones(len(pool), dtype=np.int64), max_tokens)
        _ = request.constraints
        return request

    @cached_property
    def constraints(self) -> Constraints:
        """The arguments as index based constraints, tokens counted."""
        return self._resolve(self._costs, self.max_tokens)

    def take(self, ranking: Sequence[int] | np.ndarray) -> tuple[int, ...]:
        """Walk a ranking of pool indices, best first, and return those that fit every constraint."""
        return self.choose(lambda constraints: tuple(take_in_order(ranking, constraints)), tuple)

    def choose(
        self, method: Callable[[Constraints], Chosen], indices: Callable[[Chosen], Sequence[int]]
    ) -> Chosen:
        """Return what `method` makes of the constraints; `indices` reads the pool indices out of it."""
        constraints, budget = self.constraints, self.max_tokens
        while True:
            chosen = method(constraints)
            tokens = self.tokens(indices(chosen))
            if tokens is None or self.max_tokens is None or budget is None or tokens <= self.max_tokens:
                return chosen
            budget -= tokens - self.max_tokens
            constraints = self._resolve(self._costs, budget)

    def tokens(self, indices: Sequence[int]) -> int | None:
        """Count the demonstrations joined, a separator after each; None where there is no token budget."""
        if self._counter is None:
            return None
        separator = self.pool.template.separator
        return self._counter(["".join(self.pool.texts[i] + separator for i in indices)])[0]

    def selection(
        self,
        selector: Any,
        indices: Sequence[int],
        scores: Iterable[float],
        *,
        objective: Iterable[float] = (),
        config: Mapping[str, object] | None = None,
        details: Mapping[str, object] | None = None,
    ) -> Selection:
        """Make the Selection; `config` overrides fields of the selector, such as a proxy given by name."""
        arguments = {name: plain(getattr(self, name)) for name in _ARGUMENTS}
        settings = {field.name: plain(getattr(selector, field.name)) for field in fields(selector)}
        tokens = self.tokens(indices)
        counted = {} if tokens is None else {"tokens": tokens}
        return Selection(
            pool=self.pool,
            indices=tuple(int(i) for i in indices),
            scores=tuple(float(score) for score in scores),
            objective=tuple(float(value) for value in objective),
            config={"selector": type(selector).__name__, **settings, **(config or {}), **arguments},
            details={**counted, **(details or {})},
        )

    @cached_property
    def _counter(self) -> Counter | None:
        return None if self.max_tokens is None else token_counter(self.tokenizer)

    @cached_property
    def _costs(self) -> np.ndarray | None:
        if self._counter is None:
            return None
        separator = self.pool.template.separator
        return np.asarray(self._counter([text + separator for text in self.pool.texts]), dtype=np.int64)

    def _resolve(self, costs: np.ndarray | None, budget: int | None) -> Constraints:
        return resolve(
            len(self.pool),
            self.pool.labels,
            self.shots,
            costs=None if budget is None else costs,
            max_cost=budget,
            quotas=self.quotas,
            include=self.include,
            exclude=self.exclude,
        )


_ARGUMENTS = ("shots", "max_tokens", "quotas", "include", "exclude")


def plain(value: Any) -> Any:
    """Return `value` in JSON's types: a proxy as its identity, dataclasses as dicts, numpy's as Python's."""
    if hasattr(value, "fingerprint"):
        return proxy_identity(value)
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
