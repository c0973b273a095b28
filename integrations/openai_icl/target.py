"""ChatTarget: a model behind an OpenAI-compatible API."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.artefacts import canonical_json, fingerprint
from icl_plugins.errors import OptionalDependencyError, SettingError
from icl_plugins.evaluation.target import Answer, Messages, OnAnswer
from icl_plugins.prompt import Layout
from openai_icl import table
from openai_icl._extra import missing
from openai_icl.known_model import KnownModel
from openai_icl.providers import (
    OPENAI,
    Key,
    check_variable,
    find_key,
    key_variable,
    provider_of,
    resolve_url,
)


@dataclass(frozen=True)
class ChatTarget:
    """Chat completions of OpenAI, DeepSeek, vLLM, `transformers serve`: any server that speaks like them.

    base_url: None is DeepSeek's for names that begin with "deepseek-", else OPENAI_BASE_URL or OpenAI's own.
    api_key: else from the environment variable `api_key_env`, by default DEEPSEEK_API_KEY on DeepSeek's host
    and OPENAI_API_KEY on all others; a server of one's own may need none. No repr, pickle, error, log or
    fingerprint shows the key. temperature, seed: None is not sent. timeout: seconds for one try.
    retries: of what may pass (status 408, 409, 425, 429, 5xx, cut connections, time-outs), the first after
    about `backoff` seconds, then twice as long, never sooner than the server's Retry-After. known: whose
    prices hold, by default those of the model where the server is OpenAI's or DeepSeek's.

    Raises SettingError for settings that cannot be.
    """

    model: str
    base_url: str | None = None
    api_key: str | Key | None = field(default=None, repr=False, compare=False)
    api_key_env: str | None = None
    layout: Layout = "turns"
    temperature: float | None = 0.0
    seed: int | None = None
    concurrency: int = 8
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 0.5
    known: KnownModel | None = None

    def __post_init__(self) -> None:
        """Check the settings, and put the key where it cannot be seen."""
        if not (isinstance(self.model, str) and self.model):
            raise SettingError("a model without a name", expected="its name at the server", fix="name it")
        if self.layout not in ("turns", "single", "json"):
            expected = "'turns', 'single' or 'json'"
            raise SettingError(f"layout={self.layout!r}", expected=expected, fix="pass one of them")
        whole_number("concurrency", self.concurrency, 1)
        whole_number("retries", self.retries, 0)
        if self.seed is not None:
            whole_number("seed", self.seed, 0)
        _check_number("timeout", self.timeout, least=0.001)
        _check_number("backoff", self.backoff)
        if self.temperature is not None:
            _check_number("temperature", self.temperature)
        resolve_url(self.model, self.base_url)
        check_variable(self.api_key_env)
        if isinstance(self.api_key, str):
            object.__setattr__(self, "api_key", Key(self.api_key))
        elif not isinstance(self.api_key, Key | None):
            kind = type(self.api_key).__name__
            raise SettingError(f"a {kind} as api_key", expected="text", fix="pass the key itself, or nothing")

    @property
    def name(self) -> str:
        """The model, as the server calls it."""
        provider = provider_of(self._url)
        return self.model.removeprefix(f"{provider.name}/") if provider else self.model

    @property
    def fingerprint(self) -> str:
        """The sha256 over server, model, layout, temperature and seed."""
        settings = (self._url, self.name, self.layout, self.temperature, self.seed)
        return fingerprint("openai_icl.ChatTarget", canonical_json(settings))

    @property
    def _url(self) -> str:
        return resolve_url(self.model, self.base_url)

    def generate(
        self, requests: Sequence[Messages], *, max_tokens: int, on_answer: OnAnswer | None = None
    ) -> list[Answer]:
        """Answer each message list; see `Target.generate`. Can be called where an event loop is running.

        A text is what the server gave; an empty one counts only with finish_reason "stop". Refusals, filtered
        or broken-off texts, content that is no text and replies that are no JSON are errors of their item.

        Raises TargetError without retry for a missing or wrong key, an empty account, an unknown model, a
        parameter that the model does not take and a server that is not there; also for one that has gone away
        and stays away while it is tried again.
        """
        whole_number("max_tokens", max_tokens, 1)
        if not requests:
            return []
        url = self._url
        key = find_key(self.api_key, self.api_key_env, url)
        try:
            from openai_icl.asking import Conversation
        except ModuleNotFoundError as error:
            raise missing(error.name or "openai") from error
        conversation = Conversation(
            url,
            key_variable(self.api_key_env, url),
            self.concurrency,
            self.timeout,
            self.retries,
            self.backoff,
            self.known or _known(self.name, url),
        )
        return conversation.hold(key, [self._body(messages, max_tokens) for messages in requests], on_answer)

    def _body(self, messages: Messages, max_tokens: int) -> dict[str, Any]:
        """Return the request; OpenAI's newer models refuse max_tokens, other servers know nothing else."""
        limit = "max_completion_tokens" if provider_of(self._url) is OPENAI else "max_tokens"
        optional = {"temperature": self.temperature, "seed": self.seed}
        return {
            "model": self.name,
            "messages": [dict(message) for message in messages],
            limit: max_tokens,
            **{name: value for name, value in optional.items() if value is not None},
        }


def _known(name: str, url: str) -> KnownModel | None:
    """Return what the table says of a provider's model, None where there is no table or no such row."""
    provider = provider_of(url)
    try:
        found = provider and table.find(f"{provider.name}/{name}")
        return KnownModel.of(found[0]) if found else None
    except OptionalDependencyError:  # openai 3 comes without litellm
        return None


def _check_number(name: str, value: object, least: float = 0.0) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and least <= value < math.inf):  # type: ignore[operator]
        raise SettingError(f"{name}={value!r}", expected=f"a finite number >= {least}", fix="pass one")
