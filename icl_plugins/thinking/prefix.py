"""The tokens of a prompt that stand in front of every query."""

from collections.abc import Sequence
from os.path import commonprefix

from icl_plugins.errors import DataError, SettingError, TooLongError
from icl_plugins.evaluation.local_texts import LocalTexts
from icl_plugins.evaluation.target import Messages
from icl_plugins.prompt import ManyShotPrompt
from icl_plugins.proxy.continuation import Request
from icl_plugins.proxy.token_tree import common_length

# Beginnings of questions that tokenizers may join with what stands in front of them.
_BEGINNINGS = ("A", "b", "1", " x", "\n", "\n\n", "\t", '"', "(", "-", ".", "é", "中")
_OWN = 8  # questions of the prompt that are tried


def prefix_tokens(texts: LocalTexts, prompt: ManyShotPrompt) -> tuple[int, ...]:
    """Return the tokens that the prompt's text begins with, whatever is asked behind it.

    In layout "single" all of the prompt's prefix, unless its last tokens depend on the question; in chat
    layouts what the template writes in front of the question too. Raises SettingError for a prompt without
    demonstrations, TooLongError for one that is longer than the context.
    """
    if not prompt.demonstrations:
        raise SettingError(
            "a prompt without demonstrations", expected="one at least, to be read", fix="choose some"
        )
    tries = _tries(prompt)
    try:
        tokens = texts.tokens([_asked(prompt, question, texts) for question in tries])
    except TooLongError as error:
        raise TooLongError(
            "a prompt that leaves no room for its own questions in the model's context",
            expected=error.expected,
            fix="take fewer demonstrations, or choose a model with a longer context",
        ) from error
    return tuple(tokens[0][: min(common_length(tokens[0], other) for other in tokens)])


def demonstration_starts(texts: LocalTexts, prompt: ManyShotPrompt, ids: Sequence[int]) -> list[int]:
    """Return where the questions of the demonstrations begin among the tokens of the prompt.

    A token belongs to the question if it covers its first character.
    """
    text, spans = texts.spans(_asked(prompt, "A", texts))
    starts, at, token = [], 0, 0
    for question, _ in prompt.demonstrations:
        at = text.index(texts.written(question), at)
        while spans[token][1] <= at:
            token += 1
        starts.append(min(token, len(ids) - 1))
        at += 1
    return starts


def _tries(prompt: ManyShotPrompt) -> list[str]:
    """Return questions whose beginnings differ in all ways that may change the tokens in front of them."""
    questions = [question for question, _ in prompt.demonstrations[:_OWN]]
    # A template that begins with text of its own leaves no other beginning; "A" and "b" show where it ends.
    free = not commonprefix(questions) or len(set(questions)) == 1
    return [*questions, *(_BEGINNINGS if free else _BEGINNINGS[:2])]


def begin_with(ids: Sequence[int], requests: Sequence[Request]) -> Sequence[Request]:
    """Return the requests; raises DataError for one whose tokens do not begin with these."""
    for at, request in enumerate(requests):
        if tuple(request.stem[: len(ids)]) != tuple(ids):
            raise DataError(
                f"question {at} changes the tokens in front of it",
                expected="a separator behind which a text begins anew, such as an empty line",
                fix="end the template's separator with a line break, or begin the question with a word",
            )
    return requests


def _asked(prompt: ManyShotPrompt, question: str, texts: LocalTexts) -> Messages:
    if texts.layout == "single":
        return [{"role": "user", "content": prompt.prefix + question}]
    before = prompt.messages(prompt.examples[0], texts.layout)[:-1]
    return [*before, {"role": "user", "content": question}]
