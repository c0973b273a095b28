"""Target: the model that reads the prompt, seen as a function from message lists to answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from icl_plugins.prompt import Layout

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Usage:
    """Tokens as the provider counted them; cached_tokens: the part of prompt_tokens read from its cache.

    cost: USD, None where no prices are known.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    cost: float | None = None


@dataclass(frozen=True)
class Answer:
    """What a target gave for one request: a text, or log-probabilities (nats) of the choices, or an error.

    Exactly one of the three is set. error: what went wrong with this item, without keys and without data.
    usage: None where nobody counted. seconds: wall time of the request, its share of the batch's time where
    requests run together.
    """

    text: str | None = None
    scores: tuple[float, ...] | None = None
    error: str | None = None
    usage: Usage | None = None
    seconds: float = 0.0


OnAnswer = Callable[[int, Answer], None]


@runtime_checkable
class Target(Protocol):
    """A model that answers.

    name: for people. layout: the layout of `ManyShotPrompt.messages` that it reads; a model that continues
    plain text reads "single", whose one message is the text. fingerprint: sha256 over all that its answers
    depend on (weights or model id, settings of decoding), never a key.
    """

    @property
    def name(self) -> str:
        """The name of the model, for people."""
        ...

    @property
    def layout(self) -> Layout:
        """The layout of the messages that it is to be given."""
        ...

    @property
    def fingerprint(self) -> str:
        """The sha256 over model and settings."""
        ...

    def generate(
        self, requests: Sequence[Messages], *, max_tokens: int, on_answer: OnAnswer | None = None
    ) -> list[Answer]:
        """Answer each message list with at most so many tokens; answers in the order of the requests.

        on_answer(index, answer) is called as soon as an answer is there, in any order, from the thread that
        called generate. What fails for one request is an Answer with an error. What would fail for all
        (a wrong key, a server that is not there) raises TargetError at once.
        """
        ...


@runtime_checkable
class ScoringTarget(Target, Protocol):
    """A target that can also say how likely given answers are."""

    def score(
        self,
        requests: Sequence[Messages],
        choices: Sequence[Sequence[str]],
        *,
        on_answer: OnAnswer | None = None,
    ) -> list[Answer]:
        """Score, for each request, each of its choices: log p(choice | messages), summed over its tokens.

        A choice is the text exactly as it continues the request: with its leading space in layout "single",
        without it in chat layouts. Raises TooLongError naming requests that do not fit the context.
        """
        ...
