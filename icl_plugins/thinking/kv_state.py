"""KVState: what is left of a prompt that was read several times; queries stand behind it alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from icl_plugins.artefacts import canonical_json, fingerprint
from icl_plugins.errors import NonFiniteError, SettingError
from icl_plugins.evaluation.answers import continued
from icl_plugins.evaluation.local_checks import check_settings
from icl_plugins.evaluation.target import Messages
from icl_plugins.prompt import Layout, ManyShotPrompt
from icl_plugins.proxy.chat import chat_template
from icl_plugins.proxy.locking import lock_of
from icl_plugins.proxy.prefix_state import Layers, PrefixState
from icl_plugins.thinking.generating import generator_of
from icl_plugins.thinking.options import check_options, end_tokens
from icl_plugins.thinking.reading import in_precision
from icl_plugins.thinking.streaming import stream
from icl_plugins.thinking.target import StateTarget
from icl_plugins.thinking.writing import Stops

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

Fields = Mapping[str, object]

# What of `thinking` tells how it went, not what was done.
_TOLD = ("reason", "reasons", "held_out", "norms", "losses", "seconds")


@dataclass(frozen=True, eq=False)
class KVState:
    """The keys and values of a prompt, read several times or trained, with the model that they belong to.

    prompt, layout: what was read, and how it was written. ids: its L tokens. layers: keys and values of each
    layer, (1, heads, L, d) in float32 at least. thinking: how the state was made: method, steps and settings,
    the reason, held-out curves, and norms (steps - 1, layers, 2) of new reading - history.

    Several threads may use one state, and several states one model: what they ask runs one by one.
    """

    proxy: "Proxy"
    prompt: ManyShotPrompt
    layout: Layout
    ids: tuple[int, ...] = field(repr=False)
    layers: Layers = field(repr=False)
    thinking: Mapping[str, Any] = field(repr=False)

    @cached_property
    def prefix(self) -> PrefixState:
        """What queries stand behind, in the precision of the model."""
        return in_precision(self.proxy, self.ids, self.layers)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of all that decides the state: model, tokenizer, tokens, prompt, settings."""
        settings = {name: value for name, value in self.thinking.items() if name not in _TOLD}
        model = (*self.proxy.fingerprint.values(), chat_template(self.proxy.tokenizer, self.layout))
        parts = (*model, self.prompt.fingerprint, self.layout)
        return fingerprint("state", *parts, canonical_json(settings), canonical_json(list(self.ids)))

    @cached_property
    def target(self) -> StateTarget:
        """The state as a target of `evaluate`: it reads messages that begin with the state's prompt."""
        return StateTarget(self)

    def score(self, queries: Sequence[Fields], choices: Sequence[str] | Sequence[Sequence[str]]) -> Tensor:
        """Return (queries, choices) float32 nats: log p(choice | state, query), summed over its tokens.

        choices: answers, the same for all queries or a list of equal length for each; the template's space in
        front of answers is added where it is missing. Where one choice begins another, what ends an answer is
        scored with each. Raises TemplateError for a missing field, TooLongError, DataError, SettingError,
        NonFiniteError.
        """
        own = _of_each(choices, len(queries))
        sent = [continued(texts, self.prompt.template, self.layout) for texts in own]
        answers = self.target.score(self.messages(queries), sent)
        failed = {row: answer.error for row, answer in enumerate(answers) if answer.scores is None}
        if failed:
            raise NonFiniteError(
                f"{len(failed)} queries without scores (rows {[*failed][:5]}): {next(iter(failed.values()))}",
                expected="finite numbers",
                fix='load the model with dtype="float32", or take a smaller step_size',
            )
        if not answers:
            return torch.empty(0, len(choices))
        return torch.tensor([answer.scores for answer in answers], dtype=torch.float32)

    def generate(
        self,
        queries: Sequence[Fields],
        *,
        max_new_tokens: int = 64,
        stop: Sequence[str] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> list[str]:
        """Return what the model writes behind each query: the likeliest token at every step by default.

        stop: texts at which answers end, no part of them; None is the template's separator in layout
        "single", unless answers of the prompt hold it. seed: of sampling. options: those of transformers'
        generate that hold behind a state (thinking.options.OPTIONS); with num_return_sequences its texts
        stand one behind the other for each query. Penalties of repetition see the query and the answer, not
        the demonstrations.

        Raises SettingError for other options, TooLongError where a query and max_new_tokens do not fit.
        """
        options = check_options({**options, "max_new_tokens": max_new_tokens})
        stops = self.stops(stop, options)
        with lock_of(self.proxy):
            tokens = self._behind(self.messages(queries), max_new_tokens)
            written = generator_of(self.proxy).write(
                self.prefix, tokens, options, ended=stops.ended, seed=seed
            )
        return [stops.text(one) for one in written]

    def stream(
        self,
        query: Fields,
        *,
        max_new_tokens: int = 64,
        stop: Sequence[str] | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Iterator[str]:
        """Yield the text that `generate` returns, piece by piece; a stop text never shows, not even in part.

        Closing the iterator ends the writing. Raises what `generate` raises, at the first piece.
        """
        options = check_options({**options, "max_new_tokens": max_new_tokens}, streamed=True)
        stops = self.stops(stop, options)
        (tokens,) = self._behind(self.messages([query]), max_new_tokens)
        yield from stream(self.proxy, self.prefix, tokens, options, stops, seed)

    def save(self, folder: str | Path) -> None:
        """Write the state into a folder: safetensors, JSON and the prompt; raises ArtefactError."""
        from icl_plugins.thinking.saving import save

        save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path, model: "str | Path | Proxy") -> Self:
        """Read a saved state for its model, given by name, folder or as a Proxy; tensors are bit-equal.

        Raises ArtefactError for a damaged folder, one of another kind or a newer version, and for the state
        of another model or tokenizer.
        """
        from icl_plugins.thinking.saving import load

        return cls(*load(Path(folder), model))

    def messages(self, queries: Sequence[Fields]) -> list[Messages]:
        """Return what is asked, the state's prompt in front, as its target reads it."""
        return [self.prompt.messages(query, self.layout) for query in queries]

    def stops(self, stop: Sequence[str] | None, options: Mapping[str, Any] = MappingProxyType({})) -> Stops:
        """Return what ends an answer; raises SettingError for what is no list of texts."""
        ends = frozenset(end_tokens(self.proxy, options))
        if stop is not None:
            check_settings(self.layout, stop, False)
            return Stops(self.target.texts, tuple(stop), ends)
        separator, answer = self.prompt.template.separator, self.prompt.template.answer
        lead = answer[: len(answer) - len(answer.lstrip())]
        inside = any(separator in text.removeprefix(lead) for _, text in self.prompt.demonstrations)
        default = (separator,) if self.layout == "single" and not inside else ()
        return Stops(self.target.texts, default, ends, lead)

    def _behind(self, requests: Sequence[Messages], room: int) -> list[list[int]]:
        return [self.target.behind(ids) for ids in self.target.texts.tokens(requests, room)]


def _of_each(choices: Sequence[str] | Sequence[Sequence[str]], queries: int) -> list[Sequence[str]]:
    """Return the choices of each query; raises SettingError unless all queries have as many."""
    shared = not isinstance(choices, str) and all(isinstance(one, str) for one in choices)
    own: list[Any] = [choices] * queries if shared else list(choices)
    sizes = {0 if isinstance(one, str) else len(one) for one in own}
    if not choices or len(own) != queries or len(sizes) > 1 or 0 in sizes:
        raise SettingError(
            f"choices={choices!r:.80} for {queries} queries",
            expected="texts, or one list of texts for each query, all of one length",
            fix="pass a list; score queries with other numbers of choices apart",
        )
    return own
