"""What an answer says: the choice it names, its number, its text; and the choices that it may name."""

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from icl_plugins.duplicates import folded
from icl_plugins.errors import DataError
from icl_plugins.examples import Pool
from icl_plugins.prompt import Layout
from icl_plugins.template import Template

_WRAPPING = " \t\r\n\"'`“”‘’«»*_.,;:!()[]"
_PARTS = re.compile(r"[\s_\-]+|(?<=[a-z0-9])(?=[A-Z])")
_NUMBER = re.compile(
    r"(?:(?<![\w.)\]])([-−]))?(?:\$\s?)?(\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?<!\w)(?=\.\d))(\.\d+)?"
)
_MARK = "####"
_BRACKETED = re.compile(r"(?<!\w)\w\)")


def label_choices(pool: Pool) -> tuple[str, ...]:
    """Return the distinct answers of a pool as rendered, sorted.

    Give it the pool that the demonstrations came from: choices taken from the evaluation rows would tell the
    target which labels occur there.
    """
    return tuple(sorted(set(pool.answers)))


def item_choices(
    items: Pool, *, choices: str = "choices", answer: str = "answer"
) -> tuple[tuple[str, ...], ...]:
    """Return, for each item, its choices as the template renders them as answers.

    choices: the field that holds the list. answer: the field that holds the index of the right one, from 0,
    or its text. Raises DataError for an item without a list of choices or with an answer outside it.
    """
    return tuple(_rendered(items, row, choices, answer) for row in range(len(items)))


def _rendered(items: Pool, row: int, choices: str, answer: str) -> tuple[str, ...]:
    example = items.examples[row]
    found, right = example.get(choices), example.get(answer)
    if not isinstance(found, list) or not found:
        raise DataError(
            f"item {row} has no list in {choices!r}",
            expected="its choices",
            fix="name the field that holds them",
        )
    as_text = isinstance(right, str) and right in found
    values = found if as_text else range(len(found))
    rendered = tuple(items.template.render_answer({**example, answer: value}) for value in values)
    if items.answers[row] not in rendered:
        raise DataError(
            f"the answer of item {row} is none of its {len(found)} choices",
            expected=f"an index from 0, or one of the choices, in {answer!r}",
            fix="correct the item, or name the field that holds the answer",
        )
    return rendered


def continued(choices: Sequence[str], template: Template, layout: Layout) -> tuple[str, ...]:
    """Return choices as they continue a request: in layout "single" with the template's space.

    Where choices begin alike, the separator stands behind each in layout "single", as it does behind the
    answers of the demonstrations; in chat layouts it is the target that knows how a turn ends.
    """
    if layout != "single":
        return tuple(choice.strip() for choice in choices)
    space = template.answer[: len(template.answer) - len(template.answer.lstrip())]
    texts = tuple(choice if choice[:1].isspace() else space + choice for choice in choices)
    return tuple(text + template.separator for text in texts) if begin_alike(texts) else texts


def begin_alike(texts: Sequence[str]) -> bool:
    """Return whether one of the texts is the beginning of another ("order", "order_status").

    The probability of the one then holds that of the other, which could never win: what ends them has to
    be scored too.
    """
    return any(longer.startswith(text) for text, longer in pairwise(sorted(set(texts))))


def read_text(text: str) -> str | None:
    """Return the answer without space around it; None if nothing is left."""
    return text.strip() or None


def read_number(text: str) -> str | None:
    """Return the last number, or the one behind the last "####" if there is one; None without a number.

    As GSM8K writes answers. "$1,234.50" is "1234.5", "-0" is "0", ".5" is "0.5", "10-5" and "10 - 5" end
    in "5".
    """
    _, mark, after = text.rpartition(_MARK)
    found = list(_NUMBER.finditer(after))
    if not found:
        return None
    sign, whole, fraction = found[0 if mark else -1].groups()
    whole = whole.replace(",", "").lstrip("0") or "0"
    number = whole + (fraction or "").rstrip("0").rstrip(".")
    return number if number == "0" or not sign else f"-{number}"


def read_label(text: str, choices: Sequence[str]) -> str | None:
    """Return the choice, stripped, that an answer names; None if it names none or several.

    An answer that is a choice, quotes and full stops around it apart, names it. Else the first line that
    names any decides. Case does not count, nor whether parts are joined by underscore, hyphen, space or
    camel case; one character alone counts in its own case only. A choice inside another word does not
    count, nor one inside a longer choice ("entailment" in "not_entailment").
    """
    labels = stripped(tuple(choices))
    bare = text.strip(_WRAPPING)
    for same in (str, folded):
        for whole in (text.strip(), bare):
            equal = [label for label in labels if same(label) == same(whole)]
            if len(equal) == 1:
                return equal[0]
    for line in text.splitlines():
        named = _named(line, labels)
        if named:
            return named[0] if len(named) == 1 else None
    return None


def _named(line: str, labels: tuple[str, ...]) -> list[str]:
    """Return the labels that a line names, those inside a longer one apart."""
    line = unicodedata.normalize("NFKC", line)
    listed = re.match(r"\W*(\w)\s*[).:](?!\w)", line)
    if listed and listed[1] in labels and not _BRACKETED.search(line, listed.end()):  # "B. A dog"
        return [listed[1]]
    spans = [(*found.span(), label) for label in labels for found in _pattern(label).finditer(line)]
    whole = {
        label
        for start, end, label in spans
        if not any(s <= start and end <= e and e - s > end - start for s, e, _ in spans)
    }
    return [label for label in labels if label in whole]


@lru_cache(maxsize=4096)
def _pattern(label: str) -> re.Pattern[str]:
    """Return the pattern that finds a label as a word of its own."""
    label = unicodedata.normalize("NFKC", label)
    parts = [re.escape(part) for part in _PARTS.split(label) if part] or [re.escape(label)]
    before, after = (r"(?<!\w)" if _spaced(label[0]) else "", r"(?!\w)" if _spaced(label[-1]) else "")
    return re.compile(before + r"[\s_\-]*".join(parts) + after, re.IGNORECASE if len(label) > 1 else 0)


def _spaced(character: str) -> bool:
    """Tell whether a character belongs to words with space around them; Chinese and Japanese have none."""
    return character.isalnum() and unicodedata.east_asian_width(character) not in "WF"


@lru_cache(maxsize=4096)
def stripped(choices: tuple[str, ...]) -> tuple[str, ...]:
    """Return the labels that choices stand for: without the space around them, each once."""
    return tuple(dict.fromkeys(choice.strip() for choice in choices))
