"""What the command line was given, as the values that the library takes."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from icl_plugins.errors import ArtefactError, DataError, SettingError

if TYPE_CHECKING:
    from icl_plugins.examples import Pool, Template

SAMPLE_PREFIX = "sample:"
# name -> question and answer template of the shipped data, unless others are given
SAMPLES = {"banking77": ("Query: {text}\\nIntent:", " {label}")}

_ESCAPES = {r"\n": "\n", r"\t": "\t", "\\\\": "\\"}
_QUOTA = re.compile(r"(.+?)=(\d+)(?:,|$)", re.DOTALL)  # lazy up to "=number," so that labels may hold commas


@dataclass(frozen=True)
class Source:
    """A pool, for each of its rows the row of the file it came from, and how many rows the file has."""

    pool: "Pool"
    rows: tuple[int, ...]
    file_size: int

    def pool_rows(self, option: str, file_rows: Iterable[int]) -> tuple[int, ...]:
        """Return the rows of the pool for rows of the file; raises SettingError for one that is not there."""
        place = {row: index for index, row in enumerate(self.rows)}
        wanted = tuple(file_rows)
        missing = [row for row in wanted if row not in place]
        if missing:
            raise SettingError(
                f"{option} names row {missing[0]}, which is not in the pool",
                expected=f"rows from 0 to {self.file_size - 1}, and none that was removed",
                fix=f"correct {option}, or leave out --dedupe and --drop-conflicting",
            )
        return tuple(place[row] for row in wanted)


def read_source(
    name: str,
    question: str | None,
    answer: str | None,
    *,
    separator: str = r"\n\n",
    label_field: str | None = None,
    dedupe: Literal["none", "exact", "normalised"] = "none",
    drop_conflicting: bool = False,
) -> Source:
    r"""Read POOL, a file or "sample:NAME", with a template whose texts may hold \n, \t and \\."""
    path, template = _path_and_template(name, question, answer, unescape(separator))
    from icl_plugins.examples import Pool

    pool = Pool.from_file(path, template, label_field=label_field)
    if dedupe == "none" and not drop_conflicting:
        return Source(pool, tuple(range(len(pool))), len(pool))
    rows = pool.distinct_rows(dedupe, drop_conflicting=drop_conflicting)
    return Source(pool.subset(rows), rows, len(pool))


def _path_and_template(
    name: str, question: str | None, answer: str | None, separator: str
) -> tuple[Path, "Template"]:
    from icl_plugins.template import Template

    path, defaults = Path(name), ("", "")
    if name.startswith(SAMPLE_PREFIX):
        sample = name.removeprefix(SAMPLE_PREFIX)
        if sample not in SAMPLES:
            raise DataError(
                f"no shipped data with the name {sample!r}",
                expected=f"one of: {', '.join(SAMPLE_PREFIX + known for known in SAMPLES)}",
                fix="correct the name, or give the path of a file",
            )
        path, defaults = Path(str(files("icl_plugins") / "data" / f"{sample}.jsonl")), SAMPLES[sample]
    texts = [
        default if given is None else given
        for given, default in zip((question, answer), defaults, strict=True)
    ]
    for option, text in zip(("--question", "--answer"), texts, strict=True):
        if not text:
            raise SettingError(
                f"no {option} for {name}",
                expected="both templates, such as --question 'Query: {text}\\nIntent:' --answer ' {label}'",
                fix="say how a row of the file becomes a demonstration; fields go in braces",
            )
    return path, Template(unescape(texts[0]), unescape(texts[1]), separator)


def check_writable(option: str, path: Path, *others: Path) -> None:
    """Refuse before the work what could not be written after it, and what the command needs itself.

    others: files that it reads or writes too. Raises ArtefactError.
    """
    if any(path.resolve() == other.resolve() for other in others):
        raise ArtefactError(
            f"{option} {str(path)!r} is another file of the same command",
            expected="a file of its own, since what is there is replaced",
            fix="choose another path",
        )
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ArtefactError(
            f"{option} {str(path)!r} cannot be written",
            expected="a file name in a folder that exists and is writable",
            fix="make the folder or choose another path",
        )


def check_writable_folder(option: str, out: Path) -> None:
    """Raise ArtefactError unless a folder is there or can be made, and is writable."""
    above = next(folder for folder in (out, *out.resolve().parents) if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ArtefactError(
            f"{option} {str(out)!r} cannot be written: {str(above)!r} is no folder, or not writable",
            expected="a folder that can be made or is writable",
            fix="choose another path",
        )


def unescape(text: str) -> str:
    r"""Turn \n, \t and \\ into the character they stand for; every other backslash is itself."""
    return re.sub(r"\\[nt\\]", lambda found: _ESCAPES[found[0]], text)


def parse_quotas(text: str | None) -> str | int | dict[str, int] | None:
    """Parse "proportional", a minimum per label, or "label=N,label=N"; a label may hold commas."""
    if text is None or text == "proportional":
        return text
    if text.isascii() and text.isdigit():
        return int(text)
    pairs = _QUOTA.findall(text)
    quotas = {label.strip(): int(number) for label, number in pairs}
    if not pairs or len(quotas) < len(pairs) or ",".join(map("=".join, pairs)) != text:
        raise SettingError(
            f"--quotas {text!r}",
            expected="proportional, a whole number (at least so many of each label), or label=N,label=N",
            fix="write it so; how often each label occurs is shown by: icl-plugins count POOL",
        )
    return quotas


def parse_rows(option: str, text: str | None) -> tuple[int, ...]:
    """Parse comma-separated row numbers, counted from 0."""
    try:
        return tuple(int(part) for part in (text or "").split(",") if part.strip())
    except ValueError:
        raise SettingError(
            f"{option} {text!r}", expected="row numbers from 0, such as 3,17", fix="correct the numbers"
        ) from None


def parse_pairs(option: str, pairs: Iterable[str]) -> dict[str, str]:
    """Parse NAME=VALUE texts; raises SettingError for one without "=", and for a name given twice."""
    parsed: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip() or name.strip() in parsed:
            raise SettingError(
                f"{option} {pair!r}", expected="NAME=VALUE, each name once", fix="correct the option"
            )
        parsed[name.strip()] = value
    return parsed
