"""HTML as values: what is text gets escaped, so that data can never become markup."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
_VOID = frozenset({"input", "meta", "br"})


class Markup(str):
    """Text that is HTML already; made by `element` and `joined` only."""

    __slots__ = ()


@dataclass(frozen=True)
class Table:
    """A table as text: what it shows, the names of its columns, its rows."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def readable(text: str) -> str:
    """Return text in which control characters, which neither HTML nor SVG can hold, are visible pictures."""
    return _UNPRINTABLE.sub(lambda found: _picture(ord(found[0])), text)


def _picture(code: int) -> str:
    return chr(0x2400 + code) if code < 0x20 else "\N{REPLACEMENT CHARACTER}"


def escaped(text: str) -> Markup:
    """Return text as HTML; what is HTML already stays as it is."""
    return text if isinstance(text, Markup) else Markup(escape(readable(text)))


def joined(parts: Iterable[str]) -> Markup:
    """Return parts in a row, text escaped."""
    return Markup("".join(map(escaped, parts)))


def element(tag: str, *children: str, **attributes: str | int | bool) -> Markup:
    """Return an element; children that are text are escaped, and so are attributes.

    A name of an attribute has "_" for "-", and one at its end where Python has a word of its own (class_).
    True stands alone, False is left out.
    """
    pairs = [(name.rstrip("_").replace("_", "-"), value) for name, value in attributes.items()]
    given = "".join(
        f" {name}" if value is True else f' {name}="{escape(readable(str(value)))}"'
        for name, value in pairs
        if value is not False
    )
    return Markup(f"<{tag}{given}>" if tag in _VOID else f"<{tag}{given}>{joined(children)}</{tag}>")


def scrolling_table(table: Table) -> Markup:
    """Return a table in a box of its own that scrolls, by keyboard too, where the page is narrow."""
    columns = zip(table.columns, *table.rows, strict=True)
    numeric = [at > 0 and all(map(_is_number, cells)) for at, (_, *cells) in enumerate(columns)]
    head = element("tr", *map(_header, table.columns, numeric))
    body = [element("tr", *_cells(row, numeric)) for row in table.rows]
    content = (element("caption", table.caption), element("thead", head), element("tbody", *body))
    inner = element("table", *content)
    return element("div", inner, class_="scroll", role="region", tabindex=0, aria_label=table.caption)


def _header(name: str, is_number: bool) -> Markup:
    return (
        element("th", name, scope="col", class_="number") if is_number else element("th", name, scope="col")
    )


def _cells(row: Sequence[str], numeric: Sequence[bool]) -> Iterator[Markup]:
    first, *others = row
    yield element("th", element("bdi", first), scope="row")
    for text, is_number in zip(others, numeric[1:], strict=True):
        yield element("td", text, class_="number") if is_number else element("td", element("bdi", text))


def _is_number(text: str) -> bool:
    return not text or text[0] in "0123456789+-\N{MINUS SIGN}<"
