"""A matplotlib SVG as a part of the page: colours that follow the page, few bytes, a name for readers."""

import re
from xml.etree import ElementTree

from icl_plugins.report.colours import LIGHT
from icl_plugins.report.markup import Markup, readable

_VARIABLES = {colour: f"var(--{name})" for name, colour in LIGHT.items()}
_COLOUR = re.compile("|".join(_VARIABLES))
_LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_FONT_FAMILY = re.compile("font-family: [^;]*;? ?")
_REFERENCE = re.compile(r"(^|url\()#(?=[a-z])")


def inline_svg(drawn: bytes, name: str, title: str, description: str) -> Markup:
    """Return the element <svg>, with title and description; all ids begin with the name, unique in the page.

    Colours of `colours.LIGHT` become variables, so that the page decides; the background is the page's.
    """
    svg = ElementTree.fromstring(drawn)  # noqa: S314  (we drew it)
    _remove_what_the_page_has(svg)
    for node in svg.iter():
        node.tag = _local(node.tag)
        node.attrib = {_local(key): _value(_local(key), text, name) for key, text in node.attrib.items()}
        node.text, node.tail = (node.text or "").strip() and node.text, None
    for group in svg.iter("g"):
        _share_style(group)
    for key in ("width", "height", "version"):
        del svg.attrib[key]
    svg.attrib |= {"role": "img", "aria-labelledby": f"{name}-title", "aria-describedby": f"{name}-desc"}
    for tag, text in (("desc", description), ("title", title)):
        node = ElementTree.Element(tag, id=f"{name}-{tag}")
        node.text = readable(text)
        svg.insert(0, node)
    return Markup(ElementTree.tostring(svg, encoding="unicode"))


def _remove_what_the_page_has(svg: ElementTree.Element) -> None:
    for parent in list(svg.iter()):
        for child in list(parent):
            background = child.get("id") == "patch_1"
            if background or _local(child.tag) in ("metadata", "style", "title"):
                parent.remove(child)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _value(key: str, text: str, name: str) -> str:
    if key == "id":
        return f"{name}-{text}"
    text = _REFERENCE.sub(rf"\1#{name}-", text)
    text = _COLOUR.sub(lambda found: _VARIABLES[found[0]], text)
    text = _FONT_FAMILY.sub("", text)
    return _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), text)


def _share_style(group: ElementTree.Element) -> None:
    """Say once for a group of markers what matplotlib says for each."""
    styles = {child.get("style") for child in group}
    if len(styles) == 1 and len(group) > 1 and all(child.tag == "use" for child in group):
        group.set("style", styles.pop() or "")
        for child in group:
            child.attrib.pop("style", None)
