"""The demonstrations of a report, with a box that searches them."""

from collections.abc import Iterable
from dataclasses import dataclass

from icl_plugins.report.markup import Markup, element, joined


@dataclass(frozen=True)
class Shot:
    """A demonstration as the report shows it; row, score and tokens are None where they are not known."""

    question: str
    answer: str
    label: str
    row: int | None = None
    score: float | None = None
    tokens: int | None = None


def demonstrations_list(shots: Iterable[Shot]) -> Markup:
    """Return the demonstrations in order, below a search box that shows itself where scripts run."""
    items = [_item(position, shot) for position, shot in enumerate(shots, 1)]
    search = element(
        "div",
        element("label", "Find in text and label", for_="query"),
        element("input", id="query", type="search", autocomplete="off", spellcheck="false"),
        element("p", f"{len(items)} of {len(items)} demonstrations", id="hits", aria_live="polite"),
        id="search",
        role="search",
        hidden=True,
    )
    about = element("p", "In the order of the prompt. Scores are those of the method; higher is better.")
    return joined([about, search, element("ol", *items, class_="shots", role="list")])


def _item(position: int, shot: Shot) -> Markup:
    text = element("p", shot.question, element("b", shot.answer), class_="text", dir="auto")
    about = [
        element("span", f"{name} {value}")
        for name, value in (("score", _score(shot.score)), ("row", shot.row), ("tokens", shot.tokens))
        if value is not None
    ]
    if shot.label != shot.answer.strip():
        about.insert(0, element("span", shot.label, class_="text label", dir="auto"))
    number = element("span", str(position), class_="position")
    content = element("div", text, element("p", *about, class_="about"))
    return element("li", number, content, class_="shot")


def _score(score: float | None) -> str | None:
    return None if score is None else f"{score:.4g}"
