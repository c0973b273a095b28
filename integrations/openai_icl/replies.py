"""What a server's reply says: a text, or why there is none, and what it took."""

import json
import re
from collections.abc import Mapping
from typing import Any

from icl_plugins.evaluation.target import Answer, Usage
from openai_icl.known_model import KnownModel

# finish reasons of texts that ended for no reason of the prompt's
_BROKEN_OFF = {
    "content_filter": "stopped by the provider's content filter",
    "insufficient_system_resource": "broken off by the provider, which is overloaded",
    "abort": "broken off by the server",
    "error": "broken off by the server",
}


def read_reply(body: str, known: KnownModel | None = None) -> Answer:
    """Read the JSON of a chat completion, whatever is in it; `known` has the prices.

    An empty text is an answer only with finish_reason "stop"; any other lack of a text is an error.
    """
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        return Answer(error="the reply is not JSON")
    usage = _usage(_mapping(_mapping(reply).get("usage")), known)
    choices = _mapping(reply).get("choices")
    if not isinstance(choices, list) or not choices:
        told = "error" in _mapping(reply)
        return Answer(error="the reply holds an error" if told else "no choices in the reply", usage=usage)
    choice = _mapping(choices[0])
    text, error = _text(_mapping(choice.get("message")), choice.get("finish_reason"))
    return Answer(text=text, error=error, usage=usage)


def _text(message: Mapping[str, Any], finish: object) -> tuple[str | None, str | None]:
    """Return (text, None) or (None, error)."""
    content = message.get("content")
    if message.get("refusal"):
        return None, "refused by the model"
    if isinstance(finish, str) and finish in _BROKEN_OFF:
        return None, _BROKEN_OFF[finish]
    if content is None or (content == "" and finish != "stop"):
        if finish == "length":
            return None, "no text: max_tokens were used up before it began"
        return None, f"no text (finish_reason {word(finish)})"
    if not isinstance(content, str):
        return None, f"content of type {type(content).__name__}, not text"
    if any("\ud800" <= character <= "\udfff" for character in content):
        return None, "text with lone surrogates"
    return content, None


def _usage(counts: Mapping[str, Any], known: KnownModel | None) -> Usage | None:
    """Read OpenAI's and DeepSeek's counts; None unless both numbers of tokens are there."""
    prompt, completion = _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))
    if prompt is None or completion is None:
        return None
    told = _count(_mapping(counts.get("prompt_tokens_details")).get("cached_tokens"))
    hit = _count(counts.get("prompt_cache_hit_tokens"))  # DeepSeek
    cached = min(told or hit or 0, prompt)
    cost = known.cost(prompt, completion, cached) if known else None
    return Usage(prompt, completion, cached, cost)


def word(value: object) -> str:
    """Return a provider's code if it is one; text that could hold data or a key is not passed on."""
    return value if isinstance(value, str) and re.fullmatch("[a-z_]{1,40}", value) else "unknown"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
