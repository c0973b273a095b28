"""What a prompt takes of its target: tokens, the share that is cached, and money."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.errors import DataError, SettingError
from icl_plugins.prompt import Layout, ManyShotPrompt
from icl_plugins.template import Template
from openai_icl import table
from openai_icl.counters import Messages
from openai_icl.known_model import KnownModel, check_target


@dataclass(frozen=True)
class PromptCount:
    """Tokens and cost of a prompt for its target.

    tokens: the whole prompt with the query that was named, else one as long as the longest question of the
    demonstrations. prefix_tokens: what is the same for every query. query_tokens, answer_tokens: those of the
    demonstrations on average, rounded up (a query with what the chat format puts around it). margin: 0, or
    the share by which all of them may be off. cacheable_tokens: the part of the prefix that the provider's
    cache can hold; cacheable_share: of prefix and query. cost_*: USD for all queries and answers, None where
    the table has no prices; with caching, the first query writes the prefix and every other one finds it,
    which is the least it can cost. warnings: what to know before sending it.
    """

    model: str
    tokenizer: str
    margin: float
    layout: Layout
    shots: int
    tokens: int
    prefix_tokens: int
    query_tokens: int
    answer_tokens: int
    context: int | None
    cacheable_tokens: int
    cacheable_share: float
    queries: int
    cost_without_caching: float | None
    cost_with_caching: float | None
    warnings: tuple[str, ...]


def count_prompt(
    prompt: ManyShotPrompt,
    target: KnownModel,
    *,
    queries: int = 1,
    layout: Layout = "turns",
    query: Mapping[str, object] | None = None,
) -> PromptCount:
    """Count a prompt for its target and price so many queries.

    query: the fields of the longest query that is expected, where the demonstrations have none as long.
    Raises SettingError for `queries` below 1, an unknown layout and what is no prompt or KnownModel,
    DataError for a prompt of nothing, TemplateError for a field that the query lacks.
    """
    check_target(target)
    if not isinstance(prompt, ManyShotPrompt):
        raise SettingError(
            f"a {type(prompt).__name__} to be counted",
            expected="a ManyShotPrompt",
            fix="pass selection.to_prompt(instruction) or ManyShotPrompt.load(path)",
        )
    whole_number("queries", queries, 1)
    if not prompt.demonstrations:
        raise DataError(
            "a prompt without demonstrations", expected="at least one", fix="count another prompt"
        )
    questions = [question for question, _ in prompt.demonstrations]
    alone = [target.count(_user(question)) for question in questions]
    longest = questions[alone.index(max(alone))] if query is None else prompt.template.render_question(query)
    tokens = target.count(_messages(prompt, longest, layout))
    prefix, average = tokens - target.count(_user(longest)), math.ceil(fmean(alone))
    answer = math.ceil(fmean(_content_tokens(target, [answer for _, answer in prompt.demonstrations])))
    priced = table.prices(target.row, prefix + average)
    cacheable = _cacheable(target, prefix) if priced and priced[2] is not None else 0
    without, with_cache = _costs(priced, prefix + average, cacheable, answer, queries)
    return PromptCount(
        model=target.name,
        tokenizer=target.counter.tokenizer,
        margin=target.counter.margin,
        layout=layout,
        shots=len(questions),
        tokens=tokens,
        prefix_tokens=prefix,
        query_tokens=average,
        answer_tokens=answer,
        context=target.context,
        cacheable_tokens=cacheable,
        cacheable_share=cacheable / (prefix + average),
        queries=queries,
        cost_without_caching=without,
        cost_with_caching=with_cache,
        warnings=tuple(_warnings(target, tokens, answer, prefix, cacheable, priced)),
    )


def _user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def _messages(prompt: ManyShotPrompt, question: str, layout: Layout) -> Messages:
    """Return the messages for a question that is rendered already."""
    literal = Template("{question}", "{question}", prompt.template.separator)
    return replace(prompt, template=literal).messages({"question": question}, layout)


def _content_tokens(target: KnownModel, texts: Sequence[str]) -> Iterator[int]:
    around = target.count(_user(""))
    return (target.count(_user(text.strip())) - around for text in texts)


def _cacheable(target: KnownModel, prefix: int) -> int:
    least, step = table.cache_rule(target.row)
    return 0 if prefix < least else prefix // step * step


def _costs(
    priced: table.Prices | None, tokens: int, cacheable: int, answer: int, queries: int
) -> tuple[float | None, float | None]:
    if priced is None:
        return None, None
    paid, made, cached, written = priced
    each = tokens * paid + answer * made
    if cached is None or not cacheable:
        return queries * each, queries * each
    first = each + cacheable * (written - paid)
    return queries * each, first + (queries - 1) * (each - cacheable * (paid - cached))


def _warnings(
    target: KnownModel, tokens: int, answer: int, prefix: int, cacheable: int, priced: table.Prices | None
) -> Iterator[str]:
    margin = target.counter.margin
    needed = math.ceil(tokens * (1 + margin)) + answer
    if target.context is not None and needed > target.context:
        yield f"does not fit: up to {needed:,} tokens with the answer, and a context of {target.context:,}"
    if margin:
        yield (
            f"an estimate by {target.counter.tokenizer}, up to {margin:.0%} more or less: "
            "to count exactly, name the model's own tokenizer (folder or cached Hugging Face id)"
        )
    if "deprecation_date" in target.row:
        yield f"the price table says that this model is withdrawn on {target.row['deprecation_date']}"
    if priced is None:
        yield "no prices are known for this model"
    elif priced[2] is None:
        yield "no price for cached input is known for this model, so none is counted as cached"
    elif not cacheable:
        least, _ = table.cache_rule(target.row)
        yield f"too short to be cached: {prefix:,} tokens before the query, and the cache begins at {least:,}"
