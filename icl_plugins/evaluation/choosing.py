"""The selections of a comparison, each made once and kept as a prompt in the folder of the comparison."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import icl_plugins
from icl_plugins.artefacts import atomic_write, canonical_json, fingerprint
from icl_plugins.errors import BudgetError
from icl_plugins.evaluation.config import Config
from icl_plugins.evaluation.datasets import DataSet
from icl_plugins.evaluation.equal_cost import Price, matching_price, set_price
from icl_plugins.evaluation.method_config import MethodConfig
from icl_plugins.evaluation.room import Room
from icl_plugins.prompt import ManyShotPrompt
from icl_plugins.selection import Selection
from icl_plugins.selectors._settings import settings

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

_AFTER_GRADIENTS = ("swaps", "scaling", "typical", "tokenizer")  # what the gradients do not depend on
_FACTS = "comparison"
_TOLD = ("label_kl", "select_seconds", "objective")


@dataclass(frozen=True)
class Cell:
    """A selection that is wanted: by which method, how many shots (None: as many as fit), with which seed."""

    method: str
    asked: int | None
    seed: int


@dataclass(frozen=True)
class Chosen:
    """The prompt of a cell, and what is told of its selection; see `Run`."""

    prompt: ManyShotPrompt
    tokens: int
    label_kl: float
    select_seconds: float
    objective: float | None


@dataclass(frozen=True)
class _Plan:
    """How a cell's selection is made: the selector's own fields, the limits, and where its prompt is kept."""

    method: MethodConfig
    given: Mapping[str, Any]
    shots: int | None
    limit: int | None
    path: Path


class Chooser:
    """Makes the selections of one data set, and keeps prompts and gradients in a folder.

    A prompt is kept under all that it depends on: pool, instruction, method, proxy, seed and limits. The
    gradients of a tuning and seed are computed once, and a nested method chooses once for all numbers of
    shots. Selectors see the pool alone, never an item.
    """

    def __init__(
        self, config: Config, data: DataSet, room: Room, load: "Callable[[str], Proxy]", folder: Path
    ) -> None:
        self._config, self._data, self._room, self._folder = config, data, room, folder
        self._load = load

    def choose(self, cell: Cell) -> Chosen:
        """Return what a cell's method chooses; raises BudgetError and what its selector raises."""
        plan = self._plan(cell)
        if not plan.path.exists():
            self._make(cell, plan)
        prompt = ManyShotPrompt.load(plan.path)
        kept: Any = prompt.provenance
        tokens = self._room.tokens.total(self._data.pool, kept["indices"])  # of this target and these items
        return Chosen(prompt, tokens, *(kept[_FACTS][name] for name in _TOLD))

    def _plan(self, cell: Cell) -> _Plan:
        method, data = self._config.methods[cell.method], self._data
        shots, limit = self._limits(method, cell)
        given = self._given(method, cell.seed, shots)
        plain = settings(replace(method, order="greedy").selector_of(**given))
        made_from = [{**plain, "tokenizer": None}, method.quotas, method.order, cell.seed]
        models = given["proxy"].fingerprint if "proxy" in given else {}
        limits = [shots, limit and [limit, self._room.fixed, self._room.tokens.name]]
        key = fingerprint(
            icl_plugins.__version__,
            data.pool.fingerprint,
            data.config.instruction,
            canonical_json([made_from, models, limits]),
        )
        asked = "max" if cell.asked is None else cell.asked
        name = f"{data.config.name}-{cell.method}-{asked}-{cell.seed}-{key[:16]}.json"
        return _Plan(method, given, shots, limit, self._folder / "prompts" / name)

    def _make(self, cell: Cell, plan: _Plan) -> None:
        """Choose, and save the prompt; of a nested method those of all numbers of shots that fit."""
        plans = [plan]
        if plan.method.nested and plan.limit is None:
            numbers = [shots for shots in self._config.shots if shots != "max" and self._room.holds(shots)]
            plans = [self._plan(replace(cell, asked=shots)) for shots in sorted(numbers)]
        try:
            self._make_all(plans)
        except BudgetError:
            if plans[-1].shots == plan.shots:
                raise
            self._make_all([plan])  # the method cannot use enough of the pool for the most shots

    def _make_all(self, plans: Sequence[_Plan]) -> None:
        """Choose for the last plan, and save for each the beginning that it asks for."""
        most = plans[-1]
        selector = most.method.selector_of(**most.given)
        selection, seconds = _timed(
            lambda: selector.select(
                self._data.pool, most.shots, max_tokens=most.limit, quotas=most.method.quotas
            ),
            most.given.get("store"),
        )
        most.path.parent.mkdir(exist_ok=True)
        for one in (one for one in plans if not one.path.exists()):
            head = selection.head(one.shots or len(selection)) if len(plans) > 1 else selection
            self._prompt(head, seconds).save(one.path)

    def _limits(self, method: MethodConfig, cell: Cell) -> tuple[int | None, int | None]:
        """Return shots and max_tokens; no budget where so many demonstrations fit, whichever they are."""
        if cell.asked is not None and self._room.holds(cell.asked):
            return cell.asked, None
        if method.quotas != "proportional":
            return cell.asked, self._room.limit
        fit = self._room.expected_shots  # shares are shares of a number
        return (fit if cell.asked is None else min(fit, cell.asked)), self._room.limit

    def _given(self, method: MethodConfig, seed: int, shots: int | None) -> dict[str, Any]:
        """Return what the comparison sets of a selector."""
        given: dict[str, Any] = {"seed": seed, "tokenizer": self._room.tokens}
        if method.needs_proxy:
            given["proxy"] = self._load(method.proxy(self._config.proxy))
        if method.equal_cost:
            given["sets"] = self._equal_sets(method, shots or self._room.expected_shots)
        if method.selector == "GradientMatching":
            given["store"] = self._folder / "gradients" / self._gradients_name(method, given)
        return given

    def _gradients_name(self, method: MethodConfig, given: dict[str, Any]) -> str:
        selector = settings(replace(method, order="greedy").selector_of(**given))
        made_from = {name: value for name, value in selector.items() if name not in _AFTER_GRADIENTS}
        parts = (canonical_json(given["proxy"].fingerprint), canonical_json(made_from))
        return f"{self._data.config.name}-{fingerprint(self._data.pool.fingerprint, *parts)[:16]}"

    def _equal_sets(self, method: MethodConfig, shots: int) -> int:
        matching = self._config.matching
        selector: Any = replace(matching, order="greedy").selector_of()
        best: Any = replace(method, order="greedy").selector_of(sets=1)
        proxies = [self._load(one.proxy(self._config.proxy)) for one in (matching, method)]
        prices = [Price.of(proxy) for proxy in proxies]
        lengths = [proxy.count_tokens(self._data.pool.texts) for proxy in proxies]
        one = set_price(prices[1], lengths[1], shots, best.held_out)
        return max(1, round(matching_price(prices[0], lengths[0], selector) / one))

    def _prompt(self, selection: Selection, seconds: float) -> ManyShotPrompt:
        report = selection.report()
        facts = {
            "label_kl": report["label_kl"],
            "select_seconds": round(seconds, 3),
            "objective": (report["objective"] or {}).get("final"),
        }
        prompt = selection.to_prompt(self._data.config.instruction)
        return replace(prompt, provenance={**prompt.provenance, _FACTS: facts})


def _timed(select: Callable[[], Selection], store: Path | None) -> tuple[Selection, float]:
    """Return the selection and its seconds, with those of the gradients wherever they were computed.

    Beside the store of the gradients is a file of the seconds spent on them, in interrupted attempts too.
    """
    ledger = store and store.with_name(f"{store.name}.seconds")
    before = float(json.loads(ledger.read_text())) if ledger and ledger.exists() else 0.0
    spent, started = 0.0, perf_counter()
    try:
        selection = select()
        seconds = perf_counter() - started
        details: Any = selection.details
        if details.get("rows_computed"):
            spent = details["seconds"]["prefix tuning"] + details["seconds"]["gradients"]
    except BaseException:
        spent = perf_counter() - started
        raise
    finally:
        if ledger and spent and ledger.parent.exists():
            atomic_write(ledger, json.dumps(before + spent))
    return selection, before + seconds
