"""What the command line knows of targets; openai_icl, an extra, is imported only when one is named."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from icl_plugins.cli.outcome import Result, as_json_text
from icl_plugins.errors import BudgetError, SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openai_icl import ChatTokens, PromptCount

    from icl_plugins.prompt import Layout, ManyShotPrompt
    from icl_plugins.selection import Selection

_QUERIES = 1000  # that the cost of a selection is told for


def chat_tokens(
    target: str | None,
    tokenizer: str | None,
    instruction: str,
    layout: "Layout | None",
    max_tokens: int | None,
) -> "ChatTokens | None":
    """Return what counts a budget for --target, None without one.

    Raises SettingError, BudgetError for a budget beyond the target's context, OptionalDependencyError.
    """
    if target is None:
        if layout is not None:
            raise SettingError(
                f"--layout {layout} without --target",
                expected="both, since it is the target that counts chat messages",
                fix="name the target, or leave out --layout",
            )
        return None
    from openai_icl import ChatTokens, KnownModel

    model = KnownModel.of(target, tokenizer)
    if max_tokens is not None and model.context is not None and max_tokens > model.context:
        raise BudgetError(
            f"--max-tokens {max_tokens} for {model.name}",
            expected=f"at most the {model.context} tokens of its context",
            fix="lower --max-tokens, or choose another target",
        )
    return ChatTokens(model, instruction, layout or "turns")


def chat_counts(selection: "Selection", prompt: "ManyShotPrompt", chat: "ChatTokens") -> dict[str, Any]:
    """Return the tokens of a prompt as the target reads it, and what to know before sending it."""
    from openai_icl import count_prompt

    total = chat.total(selection.pool, selection.indices)
    query = chat.longest(selection.pool)
    counted = count_prompt(prompt, chat.target, queries=_QUERIES, layout=chat.layout, query=query)
    cost = {
        "queries": counted.queries,
        "without_caching": counted.cost_without_caching,
        "with_caching": counted.cost_with_caching,
    }
    return {
        "target": chat.target.name,
        "layout": chat.layout,
        "tokenizer": chat.name,
        "tokens": total,
        "prompt_tokens": total,
        "shot_tokens": chat.costs(selection.pool.subset(selection.indices)),
        "cost": cost,
        "warnings": counted.warnings,
    }


def cost_text(told: "Mapping[str, Any]") -> str:
    """Return what `chat_counts` tells of the cost in words; nothing where no prices are known."""
    cost = told.get("cost") or {}
    if cost.get("without_caching") is None:
        return ""
    cached = cost["with_caching"]
    least = "" if cached in (None, cost["without_caching"]) else f", {cached:,.4f} USD at least with caching"
    return f"{cost['without_caching']:,.4f} USD for {cost['queries']:,} queries{least}"


def for_model(
    file: str, model: str, tokenizer: str | None, queries: int, layout: "Layout", as_json: bool
) -> Result:
    """Count and price a prompt for a model."""
    from openai_icl import KnownModel, count_prompt

    from icl_plugins.prompt import ManyShotPrompt

    prompt = ManyShotPrompt.load(file)
    counted = count_prompt(prompt, KnownModel.of(model, tokenizer), queries=queries, layout=layout)
    return as_json_text(asdict(counted)) if as_json else _view(counted)


def _view(count: "PromptCount") -> Result:
    from icl_plugins.cli.report import summary

    about = "about " * (count.margin > 0)
    limit = f" of a context of {count.context:,}" if count.context else ""
    margin = f", +-{count.margin:.0%}" if count.margin else ""
    return summary(
        ("model", f"{count.model}, layout {count.layout}, {count.shots} shots"),
        ("tokens", f"{about}{count.tokens:,}{limit}, the longest query included"),
        ("before the query", f"{count.prefix_tokens:,}; a query takes {count.query_tokens:,} on average"),
        ("counted with", f"{count.tokenizer}{margin}"),
        ("cacheable", f"{count.cacheable_tokens:,} tokens, {count.cacheable_share:.1%} of an average prompt"),
        ("cost without caching", _cost(count, count.cost_without_caching)),
        ("cost with caching", _cost(count, count.cost_with_caching)),
        *(("warning", text) for text in count.warnings),
    )


def _cost(count: "PromptCount", dollars: float | None) -> str:
    if dollars is None:
        return ""
    each = f" and answers of {count.answer_tokens:,} tokens"
    return f"{dollars:,.4f} USD for {count.queries:,} {'query' if count.queries == 1 else 'queries'}{each}"
