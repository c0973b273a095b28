"""Context limits and prices: the table that litellm carries, read as the JSON file it is."""

import json
import re
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from icl_plugins.errors import SettingError
from openai_icl._extra import litellm_file

_TABLE = "model_prices_and_context_window_backup.json"
_CHAT = ("chat", "responses")
Prices = tuple[float, float, float | None, float]
_TIER = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")


def find(model: str) -> tuple[str, Mapping[str, Any]] | None:
    """Return the name in the table and the row of a chat model, None when it is not there.

    "openai/gpt-4o-mini" and "openai:gpt-4o-mini" are "gpt-4o-mini", as DSPy and LangChain write it.
    """
    table = _chat_models()
    if model in table:
        return model, table[model]
    for separator in "/:":
        provider, _, name = model.partition(separator)
        for written in (name, f"{provider}/{name}"):
            if table.get(written, {}).get("litellm_provider") == provider:
                return written, table[written]
    return None


def unknown(model: str) -> SettingError:
    """Return the error for a model that is not in the table, with names that are near."""
    near = get_close_matches(model, _chat_models(), 4, 0.6)
    return SettingError(
        f"no model {model!r} in litellm's table",
        expected=f"a chat model, such as {', '.join(near or ('gpt-4o-mini', 'deepseek/deepseek-chat'))}",
        fix="correct the name; for a local model name its folder, or an id from the Hugging Face cache",
    )


def prices(row: Mapping[str, Any], tokens: int) -> Prices | None:
    """Return USD per token (input, output, cached input, written to the cache) for a prompt of this length.

    Long prompts cost more at some providers. Cached input is None where the table names no price for it; the
    whole is None where it has no prices.
    """
    tiers = sorted((int(found[1]), found[0]) for name in row if (found := _TIER.fullmatch(name)))
    above = [f"_above_{thousands}k_tokens" for thousands, _ in tiers if tokens > 1000 * thousands]

    def price(name: str) -> float | None:
        value = row.get(name + above[-1]) if above else None
        return row.get(name) if value is None else value

    paid, made = price("input_cost_per_token"), price("output_cost_per_token")
    if paid is None or made is None:
        return None
    return paid, made, price("cache_read_input_token_cost"), price("cache_creation_input_token_cost") or paid


def cache_rule(row: Mapping[str, Any]) -> tuple[int, int]:
    """Return the least prefix that a provider caches, and the step in which it caches more, in tokens.

    OpenAI: from 1024 tokens in steps of 128 (developers.openai.com, "Prompt caching"; OpenAI Cookbook,
    "Prompt Caching 201"). DeepSeek: units of 64 tokens; its guide of 2026 speaks of fixed intervals and of
    common prefixes kept whole, so this is the lower end (api-docs.deepseek.com, "Context Caching"). Others:
    `prompt_cache_min_tokens` of litellm's table, or 1024 as litellm assumes where it is silent.
    """
    if row.get("litellm_provider") == "deepseek":
        return 64, 64
    step = 128 if row.get("litellm_provider") in ("openai", "azure") else 1
    return int(row.get("prompt_cache_min_tokens") or 1024), step


@lru_cache(maxsize=1)
def _chat_models() -> dict[str, Any]:
    rows = json.loads(litellm_file(_TABLE).read_text("utf-8"))
    return {name: row for name, row in rows.items() if row.get("mode") in _CHAT}
