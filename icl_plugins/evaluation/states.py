"""The states of a comparison: what methods think of their choice, and saved ones; both on a local target."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import icl_plugins
from icl_plugins.artefacts import canonical_json, fingerprint
from icl_plugins.errors import IclError, SettingError
from icl_plugins.evaluation.choosing import Cell, Chooser, Chosen
from icl_plugins.evaluation.config import Config
from icl_plugins.evaluation.datasets import DataSet
from icl_plugins.evaluation.local import LocalTarget
from icl_plugins.evaluation.room import answer_tokens
from icl_plugins.evaluation.state_checks import check_state, check_thinking
from icl_plugins.evaluation.table import shots_text
from icl_plugins.evaluation.target import Target
from icl_plugins.examples import Pool
from icl_plugins.prompt import ManyShotPrompt
from icl_plugins.selection import label_kl
from icl_plugins.selectors._settings import settings

if TYPE_CHECKING:
    from icl_plugins.thinking.kv_state import KVState


class States:
    """Tells what answers a cell: the target, or the target behind a state.

    What is thought is kept in `folder`, under the prompt and all settings, and thought once.
    """

    def __init__(self, config: Config, target: Target, folder: Path) -> None:
        self._config, self._target, self._folder = config, target, folder
        self._load = cache(self._loaded)
        self._steps: dict[tuple[str, str, str, int | None], list[int]] = {}

    def check(self, data: DataSet) -> None:
        """Raise before anything runs what would stop a state of this data set later on."""
        for name, method in self._config.methods.items():
            folder = method.states.get(data.config.name)
            if not method.thinking and folder is None:
                continue
            local = self._local(name)
            try:
                if method.thinking:
                    check_thinking(method.thinking, local.proxy, len(data.pool), self._config.shots)
                if folder is not None:
                    state = self._load(folder, name)
                    check_state(state, data, local.layout, self._config.shots)
                    self._tokens(state, data)
            except IclError as error:
                got = f"methods.{name}.{method.thinking or 'state'}: {error.got}"
                raise type(error)(got, expected=error.expected, fix=error.fix) from error

    def shots(self, name: str, data: DataSet) -> Sequence[int | Literal["max"]]:
        """Return the numbers of shots that a method is run with on a data set; a state has its own alone."""
        method = self._config.methods[name]
        if method.state is None:
            return self._config.shots
        folder = method.states.get(data.config.name)
        return () if folder is None else (len(self._load(folder, name).prompt.demonstrations),)

    def answering(self, cell: Cell, data: DataSet, chooser: Chooser) -> tuple[Chosen, Target]:
        """Return what a method chose, and what answers; raises what choosing and thinking raise."""
        method = self._config.methods[cell.method]
        if method.state is None and not method.thinking:
            return chooser.choose(cell), self._target
        if method.state is not None:
            state = self._load(method.states[data.config.name], cell.method)
            chosen = Chosen(state.prompt, self._tokens(state, data), _label_kl(state.prompt, data), 0.0, None)
        else:
            chosen = chooser.choose(cell)
            state = self._thought(cell, chosen.prompt, data)
            seconds = chosen.select_seconds + state.thinking["seconds"]
            chosen = replace(chosen, select_seconds=round(seconds, 3))
        told = (data.config.name, state.thinking["method"], cell.method, cell.asked)
        self._steps.setdefault(told, []).append(state.thinking["steps"])
        return chosen, self._behind(state, cell.method)

    def notes(self) -> Iterator[str]:
        """Yield the steps of each method's states, and what of saved states is not known."""
        for (data, way, name, asked), steps in self._steps.items():
            numbers = ", ".join(map(str, steps))
            yield f"{data}: steps of {way} by {name} with {shots_text(asked)} shots: {numbers}"
            if self._config.methods[name].state is not None:
                yield (
                    f"{data}: {name} is a saved state: its seconds of choosing are not known, nor whether "
                    "items were seen when it was chosen"
                )

    def _thought(self, cell: Cell, prompt: ManyShotPrompt, data: DataSet) -> "KVState":
        """Return the state of a chosen prompt, from the folder if it is there."""
        from icl_plugins.thinking.kv_state import KVState
        from icl_plugins.thinking.saving import STATE

        target = self._local(cell.method)
        thinking = self._config.methods[cell.method].thinking_of(
            model=target.proxy, layout=target.layout, seed=cell.seed
        )
        made_from = [{**settings(thinking), "model": None}, target.proxy.fingerprint]
        key = fingerprint(icl_plugins.__version__, prompt.fingerprint, canonical_json(made_from))
        asked = shots_text(cell.asked).replace(",", "")
        folder = self._folder / f"{data.config.name}-{cell.method}-{asked}-{cell.seed}-{key[:16]}"
        if (folder / STATE).exists():  # it is written last
            return KVState.load(folder, target.proxy)
        started = perf_counter()
        state = thinking.fit(prompt)
        seconds = round(perf_counter() - started, 3)
        state = replace(state, thinking={**state.thinking, "seconds": seconds})
        state.save(folder)
        return state

    def _behind(self, state: "KVState", name: str) -> Target:
        from icl_plugins.thinking.target import StateTarget

        target = self._local(name)
        return StateTarget(state, length_norm=target.length_norm, stop=target.stop)

    def _tokens(self, state: "KVState", data: DataSet) -> int:
        """Return the tokens of the longest request; raises TooLongError where it does not fit."""
        room = answer_tokens(state.proxy.count_tokens, data, state.layout)
        return max(map(len, state.target.texts.tokens(state.messages(data.items.examples), room)))

    def _loaded(self, folder: str, name: str) -> "KVState":
        from icl_plugins.thinking.kv_state import KVState

        return KVState.load(folder, self._local(name).proxy)

    def _local(self, name: str) -> LocalTarget:
        if not isinstance(self._target, LocalTarget):
            raise SettingError(
                f"the method {name} answers from a state, and the target is a {type(self._target).__name__}",
                expected="a LocalTarget, whose keys and values can be reached",
                fix="compare on a LocalTarget, or leave the method out",
            )
        return self._target


def _label_kl(prompt: ManyShotPrompt, data: DataSet) -> float:
    shown = Pool.from_records(prompt.examples, prompt.template, label_field=data.config.label).label_counts
    return label_kl(shown, Counter(data.pool.label_counts) | Counter(shown))  # a pool may lack a rare label
