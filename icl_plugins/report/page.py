"""Report: plots and tables as one HTML page that needs nothing else and asks the network for nothing."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from icl_plugins import __version__
from icl_plugins.artefacts import atomic_write
from icl_plugins.errors import ArtefactError
from icl_plugins.readers import FilePath
from icl_plugins.report.colours import DARK, LIGHT, variables
from icl_plugins.report.markup import Markup, element
from icl_plugins.report.plot import Plot


@dataclass(frozen=True)
class Section:
    """A part of a report: its heading, plots beside each other, and what stands below them."""

    name: str
    heading: str
    plots: tuple[Plot, ...] = ()
    content: Markup = Markup()

    def markup(self) -> Markup:
        """Return the section as HTML."""
        heading = element("h2", self.heading, id=f"{self.name}-heading")
        plots = element("div", *(plot.markup() for plot in self.plots), class_="plots") if self.plots else ""
        label = {"aria_labelledby": f"{self.name}-heading"}
        return element("section", heading, plots, self.content, id=self.name, **label)


@dataclass(frozen=True)
class Report:
    """A report as a value: `html` is the page; equal reports give equal bytes."""

    title: str
    facts: Mapping[str, str]
    sections: tuple[Section, ...]

    @property
    def plots(self) -> tuple[Plot, ...]:
        """All plots, in order."""
        return tuple(plot for section in self.sections for plot in section.plots)

    def html(self) -> str:
        """Return the whole page, in light or dark as the reader's system asks."""
        style, script = _packaged("style.css"), _packaged("search.js")
        colours = f":root{{{variables(LIGHT)}}}"
        colours += f"@media screen and (prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}"
        digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
        policy = (
            f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
            "base-uri 'none'; form-action 'none'"
        )
        head = element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=policy),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", self.title),
            element("style", Markup(colours + style)),
        )
        body = element("body", *self._body(), element("script", Markup(script)))
        return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"

    def _body(self) -> tuple[Markup, ...]:
        links = (
            element("li", element("a", section.heading, href=f"#{section.name}")) for section in self.sections
        )
        return (
            element("a", "Skip to the content", class_="skip", href="#content"),
            element("header", element("h1", self.title), facts_list(self.facts)),
            element("nav", element("ul", *links), aria_label="Sections"),
            element("main", *(section.markup() for section in self.sections), id="content"),
            element("footer", element("p", f"Made with icl-plugins {__version__}.")),
        )

    def save(self, path: FilePath) -> None:
        """Write the page, all or nothing; raises ArtefactError."""
        atomic_write(path, self.html())

    def save_plots(self, folder: FilePath) -> None:
        """Write each plot as SVG and as PNG into a folder, which is made if it is not there.

        Raises ArtefactError.
        """
        make_folder(folder)
        for plot in self.plots:
            plot.save(Path(folder))


def make_folder(folder: FilePath) -> None:
    """Make a folder unless it is there; raises ArtefactError."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtefactError(
            f"cannot make the folder {str(folder)!r}: {error.strerror or error}",
            expected="a folder, or a path where one can be made",
            fix="choose another path",
        ) from error


def facts_list(facts: Mapping[str, str]) -> Markup:
    """Return names and values as a list of descriptions."""
    pairs = (
        element("div", element("dt", name), element("dd", element("bdi", value)))
        for name, value in facts.items()
        if value
    )
    return element("dl", *pairs, class_="facts")


def paragraph(text: str) -> Markup:
    """Return text as a paragraph, nothing for no text."""
    return element("p", text) if text else Markup()


def _packaged(name: str) -> str:
    return (files("icl_plugins") / "report" / name).read_text("utf-8").strip()
