"""StateTarget: a local target in front of whose queries stands a state."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from icl_plugins.artefacts import fingerprint
from icl_plugins.errors import DataError
from icl_plugins.evaluation.local import LocalTarget
from icl_plugins.evaluation.target import Answer
from icl_plugins.proxy.locking import lock_of
from icl_plugins.proxy.token_tree import common_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icl_plugins.thinking.kv_state import KVState


class StateTarget(LocalTarget):
    """Scores and answers messages that begin with the prompt of a state, as a ScoringTarget.

    Raises DataError for messages that begin otherwise.
    """

    def __init__(self, state: "KVState", *, length_norm: bool = False, stop: "Sequence[str]" = ()) -> None:
        super().__init__(state.proxy, layout=state.layout, length_norm=length_norm, stop=stop)
        self._state = state.prefix
        self._identity = state.fingerprint

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 over the state, and what a LocalTarget's is over."""
        return fingerprint("state target", super().fingerprint, self._identity)

    def behind(self, ids: list[int]) -> list[int]:
        """Return the tokens of a request that stand behind the state."""
        length = len(self._state.ids)
        same = common_length(self._state.ids, tuple(ids))
        if same < length or len(ids) == length:
            raise DataError(
                f"a request of {len(ids)} tokens, of which {same} are those of the state",
                expected=f"the {length} tokens of the prompt that the state was made from, and behind them a"
                " question that is not empty",
                fix="use the prompt that is kept in the state, and ask something",
            )
        return ids[length:]

    def _answers(self, stems: list[list[int]], *args: Any) -> list[Answer]:
        for stem in stems:
            self.behind([*stem, 0])
        with lock_of(self.proxy):
            return super()._answers(stems, *args)

    def _runs(self, stems: list[list[int]]) -> list[tuple[int, list[int]]]:
        # one group: the state is neither added to nor copied
        return [(len(self._state.ids), list(range(len(stems))))] if stems else []
