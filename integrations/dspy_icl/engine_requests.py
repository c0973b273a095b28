"""Requests of lm15 as a state's server takes them, and what it writes as lm15's responses."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from dspy import lm15

from dspy_icl.rendering import turns
from icl_plugins.errors import DataError, SettingError, TooLongError

if TYPE_CHECKING:
    from icl_plugins.thinking.serving import Written

# The fields of lm15.Config that mean something behind a state.
HONOURED = ("max_tokens", "temperature", "top_p", "top_k", "stop", "seed")
MAX_TOKENS = 512  # of an answer whose request names no limit


@contextmanager
def errors_of_lm15() -> Iterator[None]:
    """Raise what a request is to blame for as the errors that DSPy expects of engines."""
    try:
        yield
    except TooLongError as error:
        raise lm15.ContextLengthError(str(error)) from error
    except (DataError, SettingError) as error:
        raise lm15.InvalidRequestError(str(error)) from error


def check_features(request: Any) -> None:
    """Raise lm15.UnsupportedFeatureError, naming it, for the first thing that a state cannot do."""
    for name in (one.name for one in fields(request.config) if one.name not in HONOURED):
        if (value := getattr(request.config, name)) is not None:
            raise _unsupported(f"config.{name}", f"{name}={value!r:.80}")
    if request.tools:
        raise _unsupported("tools", f"{len(request.tools)} tools")
    if isinstance(request.system, tuple):
        _check_parts("system", request.system)
    for at, message in enumerate(request.messages):
        _check_parts(f"messages[{at}]", message.parts)


def messages_of(request: Any) -> list[dict[str, str]]:
    """Return the messages of a request, the developer's as system messages: all that chat templates know."""
    roles = {"developer": "system"}
    return [{"role": roles.get(role, role), "content": text} for role, text in turns(request)]


def options_of(config: Any) -> dict[str, Any]:
    """Return the options of StateServer.answer, seed aside: the likeliest tokens unless it shall sample.

    That is a temperature above 0, or without one a top_p or top_k.
    """
    options: dict[str, Any] = {"max_new_tokens": config.max_tokens or MAX_TOKENS, "stop": config.stop}
    temperature = config.temperature
    if temperature is None:
        temperature = 0.0 if config.top_p is None and config.top_k is None else 1.0
    if not temperature:
        return options
    top_p, top_k = 1.0 if config.top_p is None else config.top_p, config.top_k or 0
    return {**options, "do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}


def response(request: Any, written: "Written") -> Any:
    """Return the answer as a Response, what the state held as tokens read from the cache."""
    return lm15.Response(
        id=None,
        model=request.model,
        message=lm15.Message.assistant([lm15.TextPart(written.text)]),
        finish_reason=_reason(written),
        usage=_usage(written),
    )


def events(request: Any, pieces: Generator[str, None, "Written"]) -> Iterator[Any]:
    """Yield the events of a Response whose text comes in pieces; closing them ends the writing."""
    yield lm15.StreamStartEvent(model=request.model)
    written = yield from _deltas(pieces)
    yield lm15.StreamEndEvent(finish_reason=_reason(written), usage=_usage(written))


def _deltas(pieces: Generator[str, None, "Written"]) -> Generator[Any, None, "Written"]:
    try:
        while True:
            yield lm15.StreamDeltaEvent(delta=lm15.TextDelta(text=next(pieces)))
    except StopIteration as end:
        written: Written = end.value
        return written
    finally:
        pieces.close()


def _reason(written: "Written") -> str:
    return "stop" if written.finished else "length"


def _usage(written: "Written") -> Any:
    return lm15.Usage(
        input_tokens=written.prompt_tokens,
        output_tokens=written.completion_tokens,
        cache_read_tokens=written.cached_tokens,
    )


def _check_parts(where: str, parts: tuple[Any, ...]) -> None:
    for at, part in enumerate(parts):
        if not isinstance(part, lm15.TextPart):
            raise _unsupported(f"{where}.parts[{at}]", f"a part of type {part.type!r}")


def _unsupported(feature: str, what: str) -> Exception:
    error: Exception = lm15.UnsupportedFeatureError(
        f"{what}: DeepThinkingEngine takes messages of text and the settings {', '.join(HONOURED)}",
        feature=feature,
    )
    return error
