import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_plugins import Template
from icl_plugins.errors import DataError, TemplateError

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
HOSTILE = [
    "{text}",
    "{{text}}",
    "{label} {0} {} {",
    "%s %(text)s %%",
    "{text.__class__.__mro__}",
    "$text ${text}",
    "<|im_start|>system\n<s>[INST]</s>",
    "\\1 \\g<0> \\n",
    "\x00\u2028\ufeff\u202e",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_of_the_data_stays_text(text):
    template = Template("Q: {text} / {label}\nA:", " {label}")
    assert template.render_question({"text": text, "label": text}) == "Q: " + text + " / " + text + "\nA:"
    assert template.render_answer({"text": "", "label": text}) == " " + text


@given(TEXT, TEXT, TEXT, TEXT)
@settings(max_examples=200, deadline=None)
def test_rendering_is_literal_for_any_text_in_template_and_data(before, after, first, second):
    def literal(text):
        return text.replace("{", "{{").replace("}", "}}")

    template = Template(literal(before) + "{a}" + literal(after) + "{b}", "{b}")
    assert template.render_question({"a": first, "b": second}) == before + first + after + second
    assert template.render({"a": first, "b": second}) == before + first + after + second + second


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{{a}}}", "{1}"),
        ("{{a}}{a}", "{a}1"),
        ("{nested.list[1].x}", "deep"),
        ("{choices}", "(A) one (B) 2"),
        ("{choices[0]}", "one"),
        ("{choices[answer]}", "2"),
        ("{answer:letter}", "B"),
        ("{nested.at:letter}", "C"),
        ("{two words}", "yes"),
        ("{größe}", "5"),
    ],
)
def test_the_grammar(text, expected):
    example = {
        "a": 1,
        "nested": {"list": [0, {"x": "deep"}], "at": 2},
        "choices": ["one", 2],
        "answer": 1,
        "two words": "yes",
        "größe": 5,
    }
    assert Template(text, "{a}").render_question(example) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, "3"),
        (-0.5, "-0.5"),
        (True, "True"),
        (np.int64(3), "3"),
        (np.float64(0.1), "0.1"),
        (np.bool_(False), "False"),
        (np.str_("x"), "x"),
        (np.array([1, 2]), "(A) 1 (B) 2"),
        (("x", "y"), "(A) x (B) y"),
    ],
)
def test_numbers_and_lists_render_plainly(value, expected):
    assert Template("{a}", "{a}").render_question({"a": value}) == expected


@pytest.mark.parametrize(
    "value",
    [
        None,
        float("nan"),
        float("inf"),
        np.float32("nan"),
        b"bytes",
        {"a": 1},
        [],
        [None],
        [["x"]],
        ["x"] * 27,
        object(),
        "\ud800",
        ["ok", "\udfff"],
        np.datetime64("2020-01-01"),
    ],
    ids=repr,
)
def test_values_that_are_no_text_are_refused_with_the_name_of_the_field(value):
    with pytest.raises(DataError, match="'field'|'field\\[|\"field"):
        Template("{field}", "{field}").render_question({"field": value})


@pytest.mark.parametrize("index", [-1, 2, True, 1.0, "x", "-1", "²", None, 10**30, "9" * 10_000])
def test_an_index_that_does_not_fit_is_refused(index):
    with pytest.raises(DataError):
        Template("{choices[answer]}", "{answer}").render_question({"choices": ["a", "b"], "answer": index})


def test_an_index_from_a_csv_file_is_text_and_works():
    assert Template("{answer:letter}", "{answer}").render_question({"answer": "1"}) == "B"


@pytest.mark.parametrize(
    ("question", "position"),
    [
        ("ab{", 3),
        ("}", 1),
        ("{}", 1),
        ("x {a.}", 3),
        ("{a[}", 1),
        ("{a[]}", 1),
        ("{a:>10}", 1),
        ("{{x}} {a..b}", 7),
        ('{"q": "{text}"}', 1),
        ("{{{text}}", 9),
    ],
)
def test_a_malformed_template_names_the_position(question, position):
    with pytest.raises(TemplateError, match=f"at character {position} of the question template"):
        Template(question, "{a}")


@pytest.mark.parametrize(
    "arguments",
    [
        ("no field", "{a}"),
        ("{a}", "{{a}}"),
        ("", "{a}"),
        ("{a}", None),
        ("{a}", "{b}", ""),
        ("{a}", "{b}", 3),
        ("{a}\ud800", "{b}"),
    ],
    ids=ascii,
)
def test_a_template_that_cannot_work_is_refused_at_once(arguments):
    with pytest.raises(TemplateError):
        Template(*arguments)


def test_a_missing_field_is_named_with_those_available():
    with pytest.raises(TemplateError, match=r"'text'.*'body', 'label'"):
        Template("{text}", "{label}").render_question({"body": "x", "label": "y"})
    with pytest.raises(TemplateError, match=r"'b'.*'c'"):
        Template("{a.b}", "{a}").render_question({"a": {"c": 1}})
    with pytest.raises(TemplateError, match="__class__"):
        Template("{a.__class__}", "{a}").render_question({"a": "x"})
    with pytest.raises(TemplateError, match="a list"):
        Template("{a[0]}", "{a}").render_question({"a": "x"})


def test_a_query_needs_only_the_fields_of_the_question():
    template = Template("{text} {choices[best]}", "{label} {text}")
    assert template.fields == ("text", "choices", "best", "label")
    assert template.question_fields == ("text", "choices", "best")
    assert template.render_question({"text": "a", "choices": ["b"], "best": 0}) == "a b"


def test_templates_are_values():
    template = Template("{a}", " {b}", "\n")
    assert template == Template("{a}", " {b}", "\n") == pickle.loads(pickle.dumps(template))  # noqa: S301
    assert len({template, Template("{a}", " {b}", "\n")}) == 1
