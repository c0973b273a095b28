"""StateTarget: a local target in front of whose queries stands a state."""

from functools import cached_property
from typing import TYPE_CHECKING

from icl_plugins.artefacts import fingerprint
from icl_plugins.errors import DataError
from icl_plugins.evaluation.local import LocalTarget
from icl_plugins.proxy.prefix_state import PrefixState
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
        self._thought = self._state = state.prefix
        self._identity = state.fingerprint

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 over the state, and what a LocalTarget's is over."""
        return fingerprint("state target", super().fingerprint, self._identity)

    def behind(self, ids: list[int]) -> list[int]:
        """Return the tokens of a request that stand behind the state."""
        length = len(self._thought.ids)
        same = common_length(self._thought.ids, tuple(ids))
        if same < length or len(ids) == length:
            raise DataError(
                f"a request of {len(ids)} tokens, of which {same} are those of the state",
                expected=f"the {length} tokens of the prompt that the state was made from, and a query",
                fix="use the prompt that is kept in the state",
            )
        return ids[length:]

    def _read(self, prefix: list[int]) -> tuple[PrefixState, int]:
        self.behind([*prefix, 0])
        return super()._read(prefix)
