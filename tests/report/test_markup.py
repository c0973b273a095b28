from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import HOSTILE

from icl_plugins.report.markup import Markup, Table, element, readable, scrolling_table

TEXTS = st.text(st.characters(codec="utf-8")) | st.sampled_from(HOSTILE)


class Reader(HTMLParser):
    """What a parser makes of a page: the tags, their attributes, and the text between them."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


@given(text=TEXTS, value=TEXTS)
def test_text_comes_back_as_text_and_never_as_markup(text, value):
    read = Reader(element("p", text, element("b", value), title=value, class_="x"))
    assert [tag for tag, _ in read.tags] == ["p", "b"]
    assert read.tags[0][1] == {"title": readable(value), "class": "x"}
    assert read.text == readable(text) + readable(value)


def test_markup_is_not_escaped_twice():
    inner = element("b", "<&>")
    assert element("p", inner) == "<p><b>&lt;&amp;&gt;</b></p>"
    assert type(inner) is Markup


def test_attributes_that_are_true_stand_alone_and_false_ones_are_left_out():
    assert (
        element("input", hidden=True, disabled=False, aria_live="polite")
        == '<input hidden aria-live="polite">'
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [("a\tb\nc", "a\tb\nc"), ("\x1b[0m\x07", "\u241b[0m\u2407"), ("\x7f\x85\ufffe\uffff", "\ufffd" * 4)],
)
def test_controls_become_visible_and_layout_stays(text, shown):
    assert readable(text) == shown


def test_a_table_keeps_every_cell_and_sets_numbers_to_the_right():
    table = Table(
        "<numbers>", ("name", "count", "note"), (("1", "2", "x"), ("b", "-3.5", ""), ("<c>", "", "4"))
    )
    read = Reader(scrolling_table(table))
    assert read.text == "<numbers>namecountnote12xb-3.5<c>4"
    assert [attributes.get("scope") for tag, attributes in read.tags if tag == "th"] == ["col"] * 3 + [
        "row"
    ] * 3
    right = [attributes.get("class") for tag, attributes in read.tags if tag in ("td", "th")]
    assert right == [None, "number", None] + [None, "number", None] * 3
