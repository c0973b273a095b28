"""DeepThinkingEngine: a dspy.LM that writes behind a state of deep thinking, in this process."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakSet

from dspy import lm15

from dspy_icl.engine_requests import (
    HONOURED,
    check_features,
    errors_of_lm15,
    events,
    messages_of,
    options_of,
    response,
)
from icl_plugins.artefacts import canonical_json, fingerprint
from icl_plugins.errors import ArtefactError, SettingError

if TYPE_CHECKING:
    from icl_plugins.thinking.kv_state import KVState

_live: "WeakSet[DeepThinkingEngine]" = WeakSet()
_loading = threading.RLock()
_COUNTED = 4096  # requests of which an engine knows how often they were sampled


class DeepThinkingEngine:
    """Answers what a ``dspy.LM`` asks with the model of a state; the state need not be read again.

    ``dspy.LM(engine.model_string, engine=engine, async_engine=AsyncDeepThinkingEngine(engine))``

    state: of a chat layout, as `think_program` makes it. Requests that begin with its tokens are served from
    it, and say so in their usage (cached tokens); any others are read in full: a program of several
    predictors may use one engine, one of them from the state. folder: where ``state.save`` wrote it, for DSPy
    to save and pickle programs with the engine; what is saved is the folder and the name of the model.

    Threads may share it, and so do all copies of an LM or a program: what waits is written as one batch. The
    likeliest token is taken unless a request asks for sampling; sampling without a seed goes on to another
    answer each time that a request comes again (one of the last 4096 of them). Answers whose request names no
    limit end at 512 tokens.

    Raises SettingError for a state of layout "single".
    """

    supported_params = frozenset(HONOURED)

    def __init__(self, state: "KVState", folder: str | Path | None = None) -> None:
        from icl_plugins.thinking.living import remember
        from icl_plugins.thinking.serving import StateServer

        if state.layout == "single":
            raise SettingError(
                'a state of layout "single", of plain text',
                expected="a state of a chat layout, since DSPy asks in messages",
                fix='make it with think_program, or DeepThinking(..., layout="turns")',
            )
        self.state, self.folder = state, folder
        self._server = StateServer(state)
        self._mutex, self._asked = threading.Lock(), OrderedDict[str, int]()
        remember(state.proxy)
        with _loading:
            _live.add(self)

    @property
    def model_string(self) -> str:
        """The name under which alone it answers: DSPy's cache tells states apart by nothing else."""
        return f"deepthink/{Path(self.state.proxy.name).name}@{self.state.fingerprint[:16]}"

    def complete(self, request: Any) -> Any:
        """Return the lm15.Response to an lm15.Request.

        Raises lm15.UnsupportedModelError for another model string, UnsupportedFeatureError for tools, formats
        and the like, ContextLengthError where request and answer do not fit, InvalidRequestError.
        """
        with errors_of_lm15():
            return response(request, self._server.answer(**self._arguments(request)))

    def stream(self, request: Any) -> Iterator[Any]:
        """Yield the events of the same response while it is written; raises what `complete` raises."""
        with errors_of_lm15():
            yield from events(request, self._server.stream(**self._arguments(request)))

    def close(self) -> None:
        """Do nothing: the model belongs to the state."""

    def dump_state(self) -> dict[str, str]:
        """Return what `load_state` takes; raises ArtefactError unless the state lies in the folder."""
        from icl_plugins.thinking.saving import describe

        saved = {} if self.folder is None else describe(Path(self.folder))
        if saved.get("fingerprint") != self.state.fingerprint:
            raise ArtefactError(
                "an engine whose state is not saved" + (f" in {str(self.folder)!r}" if self.folder else ""),
                expected="a folder from which the engine can be made again",
                fix="state.save(folder), then DeepThinkingEngine(state, folder)",
            )
        return {
            "folder": str(self.folder),
            "model": self.state.proxy.name,
            "fingerprint": self.state.fingerprint,
        }

    @classmethod
    def load_state(cls, state: Mapping[str, str]) -> "DeepThinkingEngine":
        """Return the engine of a saved state; an engine or a model that is in memory is not loaded again.

        Raises ArtefactError for a folder that is not there, damaged, or holds another state, and ProxyError
        for a model that cannot be loaded by its name.
        """
        from icl_plugins.thinking.living import load_state
        from icl_plugins.thinking.saving import describe

        with _loading:
            for engine in tuple(_live):
                if engine.state.fingerprint == state["fingerprint"]:
                    return engine
            saved = describe(Path(state["folder"]))
            if saved["fingerprint"] != state["fingerprint"]:
                raise ArtefactError(
                    f"another state in {state['folder']!r} than the program was saved with",
                    expected=f"the state {state['fingerprint'][:16]}...",
                    fix="restore the folder, or set the program's LM again",
                )
            return cls(load_state(state["folder"], state["model"]), state["folder"])

    def __deepcopy__(self, memo: Any) -> Self:
        """Return itself: copies of a program share the weights."""
        return self

    def __copy__(self) -> Self:
        """Return itself."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what `dump_state` returns; raises what it raises."""
        return type(self).load_state, (self.dump_state(),)

    def _arguments(self, request: Any) -> dict[str, Any]:
        if request.model != self.model_string:
            raise lm15.UnsupportedModelError(
                f"model {request.model!r} for the engine of {self.model_string!r}: DSPy's cache could mix "
                "its answers with those of other states; use dspy.LM(engine.model_string, engine=engine)"
            )
        check_features(request)
        asked = {"messages": messages_of(request), **options_of(request.config)}
        return {**asked, "seed": self._seed(request.config.seed, asked)}

    def _seed(self, seed: int | None, asked: Mapping[str, Any]) -> int:
        """Return the seed asked for, else one for how often the same was sampled, whatever the threads do."""
        if seed is not None or "do_sample" not in asked:
            return (seed or 0) % 2**63
        same = fingerprint(canonical_json(asked))
        with self._mutex:
            times = self._asked[same] = self._asked.pop(same, 0) + 1  # behind all others
            if len(self._asked) > _COUNTED:
                self._asked.popitem(last=False)
        return int(fingerprint(same, str(times))[:15], 16)
