"""Which examples say the same thing, and which contradict each other."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

Groups = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class DuplicateReport:
    """Groups of indices into a pool, each group and the groups among themselves in ascending order.

    ``exact``: the same rendered question and answer. ``normalised``: the same question text in the data when
    case and all but letters and digits are ignored, whatever the answers. ``conflicting``: those of the
    normalised groups in which at least two labels occur.
    """

    exact: Groups
    normalised: Groups
    conflicting: Groups


def find_duplicates(
    fingerprints: Sequence[str], questions: Sequence[tuple[str, ...]], labels: Sequence[str]
) -> DuplicateReport:
    """Compare N examples by row fingerprint, by the texts of the question's fields, and by label."""
    normalised = _groups([tuple(map(normalise, values)) for values in questions])
    conflicting = tuple(group for group in normalised if len({labels[i] for i in group}) > 1)
    return DuplicateReport(_groups(fingerprints), normalised, conflicting)


def folded(text: str) -> str:
    """Return the text in one case and one form of each character (NFKC)."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def plain_text(text: str) -> str:
    """Return what two texts share that are the same, case and space apart."""
    return " ".join(folded(text).split())


def normalise(text: str) -> str:
    """Return the letters, marks and digits of ``text`` in one case; texts that have none stay as they are."""
    if text.isascii():
        return re.sub(r"[\W_]+", "", text).lower() or text
    # marks stay: they are the vowels of many scripts
    return "".join(c for c in folded(text) if unicodedata.category(c)[0] in "LMN") or text


def _groups(keys: Sequence[Hashable]) -> Groups:
    rows = defaultdict[Hashable, list[int]](list)
    for row, key in enumerate(keys):
        rows[key].append(row)
    return tuple(tuple(group) for group in rows.values() if len(group) > 1)
