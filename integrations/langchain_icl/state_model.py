"""StateModel: what the chat model and the text model of a state have in common."""

from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from langchain_core.language_models import BaseLanguageModel
from langchain_core.language_models.base import LangSmithParams
from pydantic import Field, PrivateAttr

from icl_plugins.errors import DataError, SettingError
from icl_plugins.selectors._settings import check_real, check_seed
from langchain_icl.asking import Dicts, behind
from langchain_icl.loading import check_model, check_saved, loaded

if TYPE_CHECKING:
    from icl_plugins.thinking.serving import StateServer, Written


class StateModel(BaseLanguageModel[Any], ABC):
    """A state and the settings of its answers; see ChatDeepThinking."""

    state: Any = Field(exclude=True, repr=False)
    model: str
    temperature: float | None = None
    max_tokens: int = 64
    stop: list[str] | None = None
    seed: int = 0
    model_kwargs: dict[str, Any] = Field(default_factory=dict)

    _folder: Path | None = PrivateAttr(default=None)
    _server: Any = PrivateAttr(default=None)

    def __init__(
        self,
        state: Any,
        *,
        model: Any = None,
        timeout: object = None,
        max_retries: object = None,
        api_key: object = None,
        **settings: Any,
    ) -> None:
        names = type(self).model_fields.keys()
        if wrong := sorted({*(settings.keys() - names), *(names & settings.get("model_kwargs", {}).keys())}):
            raise SettingError(
                f"the settings {wrong}",
                expected=f"some of {', '.join(names)}, and none of them in model_kwargs",
                fix="correct the names; other options of transformers' generate go into model_kwargs",
            )
        own = loaded(state, model)
        fields = {"state": own, "model": own.proxy.name, **settings}
        super().__init__(**fields)
        self._folder = None if own is state else Path(state).absolute()
        self._check()

    def _check(self) -> None:
        from icl_plugins.thinking.options import check_options

        asked = self._asked(None, {})
        check_options({name: value for name, value in asked.items() if name not in ("stop", "seed")})

    def _asked(self, stop: Sequence[str] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of StateServer.answer: those of the call go before those of the model."""
        from icl_plugins.thinking.options import OBJECTS

        own = {name: getattr(self, name) for name in ("model", "temperature", "max_tokens", "seed")}
        given = {**own, **self.model_kwargs, **kwargs}
        given.pop("stream", None)  # says how the answer comes, which is decided by now
        check_model(given.pop("model"), self.model)
        if wrong := [name for name in ("num_return_sequences", *OBJECTS) if name in given]:
            raise SettingError(
                f"{wrong} in LangChain",
                expected="options for one answer, which a cache can tell apart by their text",
                fix="use KVState.generate",
            )
        temperature, room = given.pop("temperature"), given.pop("max_tokens")
        check_seed(given["seed"])
        check_real("temperature", 0 if temperature is None else temperature)
        sampling = {"do_sample": True, "temperature": float(temperature)} if temperature else {}
        stop = self.stop if stop is None else stop
        self.state.stops(stop)  # refused here what is no list of texts
        return {**sampling, "max_new_tokens": room, "stop": stop, **given}

    def _serving(self) -> "StateServer":
        from icl_plugins.thinking.serving import StateServer

        if self._server is None or self._server.state is not self.state:
            self._server = StateServer(self.state)
        server: StateServer = self._server
        return server

    def _sent(self, messages: Dicts) -> Dicts:
        """Return what the state is asked; raises DataError if that does not begin with the state's tokens."""
        server, sent = self._serving(), behind(self.state.prompt, self.state.layout, messages)
        if not server.cached(server.tokens(sent)):
            raise DataError(
                "a question that changes the tokens in front of it",
                expected="a question that begins as those of the prompt do",
                fix="begin it as the template does, or end the template's separator with a line break",
            )
        return sent

    def _answer(self, messages: Dicts, stop: Sequence[str] | None, kwargs: Mapping[str, Any]) -> "Written":
        asked = self._asked(stop, kwargs)
        return self._serving().answer(self._sent(messages), **asked)

    def _pieces(
        self, messages: Dicts, stop: Sequence[str] | None, kwargs: Mapping[str, Any]
    ) -> "Iterator[tuple[str, Written | None]]":
        """Yield the pieces of the answer, and at last no text with all that is known of it."""
        asked = self._asked(stop, kwargs)
        with closing(self._serving().stream(self._sent(messages), **asked)) as pieces:
            while True:
                try:
                    piece = next(pieces)
                except StopIteration as end:
                    yield "", end.value
                    return
                yield piece, None

    def _told(self, written: "Written") -> dict[str, Any]:
        return {"model_name": self.model, "finish_reason": "stop" if written.finished else "length"}

    @property
    def _identifying_params(self) -> dict[str, Any]:
        # LangChain writes the call's own stop texts over the key "stop"
        settings = {name: getattr(self, name) for name in ("model", "temperature", "max_tokens", "seed")}
        stops = list(self.state.stops(self.stop).stop)
        return {"state": self.state.fingerprint, **settings, "stop_texts": stops, **self.model_kwargs}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return super()._get_ls_params(stop=self.stop if stop is None else stop, **kwargs)

    def get_token_ids(self, text: str) -> list[int]:
        """Return the tokens of the text by the model's own tokenizer, without those it puts in front."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        ((ids, _),) = self.state.proxy.encoder.tokenize([text], add_special_tokens=False)
        return list(ids)

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy with settings of its own; the state and its queue are shared."""
        shared = {id(one): one for one in (self.state, self._server)}
        return super().__deepcopy__({**(memo or {}), **shared})

    def __getstate__(self) -> dict[Any, Any]:
        """Return what a pickle holds: a state is left in its folder, and read from there again.

        Raises SettingError for a state that was not loaded from a folder, or is no longer there.
        """
        check_saved(self.state, self._folder, type(self).__name__)
        body = super().__getstate__()
        fields = {**body["__dict__"], "state": None}
        return {
            **body,
            "__dict__": fields,
            "__pydantic_private__": {"_folder": self._folder, "_server": None},
        }

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Load the state from its folder, behind the model that is in memory, if any; see ChatDeepThinking.

        Raises what KVState.load raises, and ProxyError for a model that cannot be loaded by its name.
        """
        super().__setstate__(state)
        self.state = loaded(self._folder, self.model)
