"""Asking an LM or a program of DSPy many things at once, in threads."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from typing import Any

import dspy
from dspy.utils.exceptions import LMAuthError, LMBillingError, LMConfigurationError, LMUnsupportedModelError

from icl_plugins.errors import DataError, TargetError
from icl_plugins.evaluation.frameworks import told
from icl_plugins.evaluation.target import Answer, Messages, OnAnswer, Usage
from icl_plugins.values import checked_text

_FOR_ALL = (LMAuthError, LMBillingError, LMConfigurationError, LMUnsupportedModelError)


def answers(
    name: str,
    ask: Callable[[Messages], object],
    requests: Sequence[Messages],
    concurrency: int,
    on_answer: OnAnswer | None,
) -> list[Answer]:
    """Ask in threads, each with the DSPy settings of this one; raises TargetError for what fails for all."""
    found: dict[int, Answer] = {}
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="dspy_icl")
    try:
        futures = {
            pool.submit(copy_context().run, _answer, name, ask, messages): index
            for index, messages in enumerate(requests)
        }
        for future in as_completed(futures):
            answer = future.result()
            if isinstance(answer, TargetError):
                raise answer
            found[futures[future]] = answer
            if on_answer:
                on_answer(futures[future], answer)
    finally:
        pool.shutdown(cancel_futures=True)
    return [found[index] for index in range(len(requests))]


def _answer(name: str, ask: Callable[[Messages], object], messages: Messages) -> Answer | TargetError:
    start = time.perf_counter()
    with dspy.track_usage() as tracker:
        try:
            text, error = _text(ask(messages))
        except Exception as failure:  # whatever one request meets must not end the others
            status, for_all = getattr(failure, "status", None), isinstance(failure, _FOR_ALL)
            text, error = None, told(name, failure, status, for_all=for_all)
    if isinstance(error, TargetError):
        return error
    usage = _usage(tracker.get_total_tokens())
    return Answer(text=text, error=error, usage=usage, seconds=time.perf_counter() - start)


def _text(output: object) -> tuple[str | None, str | TargetError | None]:
    """Return (text, None) or (None, what is wrong)."""
    if isinstance(output, TargetError):
        return None, output
    if not isinstance(output, str):
        return None, "no text" if output is None else f"output of type {type(output).__name__}, not text"
    try:
        return (checked_text(output, "the answer"), None) if output else (None, "no text")
    except DataError:
        return None, "text with lone surrogates"


def _usage(counts: Mapping[str, Mapping[str, Any]]) -> Usage | None:
    """Sum over models; None where one did not count, or nothing was asked because DSPy's cache had it."""
    details = [count.get("prompt_tokens_details") or {} for count in counts.values()]
    try:
        prompt, made = (
            sum(c[f"{part}_tokens"] for c in counts.values()) for part in ("prompt", "completion")
        )
        cached = sum(detail.get("cached_tokens") or 0 for detail in details)
    except (KeyError, TypeError, AttributeError):
        return None
    return Usage(prompt, made, cached) if counts else None
