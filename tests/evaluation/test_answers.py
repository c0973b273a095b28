import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from icl_plugins import Pool, Template
from icl_plugins.errors import DataError
from icl_plugins.evaluation.answers import item_choices, label_choices, read_label, read_number, read_text

INTENTS = (" card_arrival", " exchange_rate", " lost_or_stolen_phone")
LABEL = st.text(min_size=1, max_size=12).map(str.strip).filter(bool)


@given(st.lists(LABEL, min_size=1, max_size=6, unique=True), st.data())
def test_a_label_alone_is_read_as_itself(labels, data):
    label = data.draw(st.sampled_from(labels))
    for text in (label, f" {label}", f"{label}\n"):
        assert read_label(text, labels) == label


@given(
    st.sampled_from(INTENTS),
    st.sampled_from(['"{}"', "{}.", "`{}`", "**{}**", "Intent: {}", "“{}”!", "- {}"]),
)
def test_what_stands_around_a_label_does_not_matter(label, around):
    assert read_label(around.format(label.strip()), INTENTS) == label.strip()


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("card arrival", "card_arrival"),
        ("Card-Arrival", "card_arrival"),
        ("CARD_ARRIVAL", "card_arrival"),
        ("The intent is card_arrival because the card has not come.", "card_arrival"),
        ("\n\ncard_arrival\n\nQuery: rates?\nIntent: exchange_rate", "card_arrival"),
        ("Sure! Here is my answer:\nexchange rate", "exchange_rate"),
        ("card_arrival or exchange_rate", None),
        ("discard_arrivals", None),
        ("card_arrival_time", None),
        ("", None),
        (" \n", None),
        ("I cannot tell.", None),
    ],
)
def test_the_first_line_that_names_one_label_decides(text, read):
    assert read_label(text, INTENTS) == read


@pytest.mark.parametrize(
    ("text", "labels", "read"),
    [
        ("not_entailment", ("entailment", "not_entailment"), "not_entailment"),
        ("It is not entailment.", ("entailment", "not_entailment"), "not_entailment"),
        ("entailment, not not_entailment", ("entailment", "not_entailment"), None),
        ("rate book", ("RateBook", "PlayMusic"), "RateBook"),
        ("-1", ("1", "-1"), "-1"),
        ("The sentiment is positive; yes, positive.", ("positive", "negative"), "positive"),
        ("这是正面的。", ("正面", "负面"), "正面"),
        ("HUM:ind", ("HUM:ind", "HUM:gr"), "HUM:ind"),
        ("E\u0301COLE", ("\u00e9cole", "rue"), "\u00e9cole"),
        ("b", ("a", "B"), "B"),
        ("a", ("a", "A"), "a"),
        ("It is rate_book", ("RateBook", "rate_book"), None),
    ],
)
def test_labels_that_are_like_each_other_are_told_apart(text, labels, read):
    assert read_label(text, labels) == read


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("b.", "B"),
        ("B. A dog", "B"),
        ("(B) A dog", "B"),
        ("Answer: B", "B"),
        ("The answer is B.", "B"),
        ("I think a dog", None),
        ("A or B", None),
        ("(A) or (B)", None),
        ("A) or maybe B)", None),
        ("Because", None),
    ],
)
def test_letters_are_read_in_their_own_case(text, read):
    assert read_label(text, (" A", " B", " C")) == read


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("He has 3 apples and 4 pears, so 7.", "7"),
        ("#### 72", "72"),
        ("That is 12 + 60.\n#### 1,072.50\nDone in 2 steps", "1072.5"),
        ("$1,234,567", "1234567"),
        ("1, 2", "2"),
        ("It falls to -5", "-5"),
        ("-$5.20", "-5.2"),
        ("5 or −7", "-7"),
        ("10-5", "5"),
        ("10 - 5", "5"),
        ("They need:\n- 12 eggs", "12"),
        ("$ 12", "12"),
        ("$.50", "0.5"),
        ("-.5", "-0.5"),
        ("v1.2", "1.2"),
        ("it is no.5", "5"),
        ("-0.0", "0"),
        ("007", "7"),
        ("72.", "72"),
        ("50%", "50"),
        ("٣", "٣"),
        ("none at all", None),
        ("#### ", None),
    ],
)
def test_the_final_number_is_read_plainly(text, number):
    assert read_number(text) == number


@given(st.integers(-(10**12), 10**12))
def test_a_number_is_read_however_it_is_written(number):
    assert read_number(f"x = {number:,}.00 euros") == str(number)
    assert read_number(f"first 99, then\n#### {number}") == str(number)


@given(st.text())
def test_free_text_is_read_without_the_space_around_it(text):
    assume(text.strip())
    assert read_text(f" {text}\n") == text.strip()
    assert read_text(" \n ") is None


def test_label_choices_are_the_distinct_answers_of_the_pool_as_rendered():
    records = [{"text": str(row), "label": label} for row, label in enumerate(["b", "a", "b"])]
    assert label_choices(Pool.from_records(records, Template("{text}:", " {label}"))) == (" a", " b")


QUIZ = [
    {"question": "Color of the sky?", "choices": ["red", "blue"], "answer": 1},
    {"question": "One?", "choices": ["1", "2", "3"], "answer": "0"},
]


@pytest.mark.parametrize(
    ("answer", "first", "second"),
    [
        (" {answer:letter}", (" A", " B"), (" A", " B", " C")),
        (" ({answer:letter}) {choices[answer]}", (" (A) red", " (B) blue"), (" (A) 1", " (B) 2", " (C) 3")),
    ],
)
def test_the_choices_of_an_item_are_rendered_as_its_answers(answer, first, second):
    items = Pool.from_records(QUIZ, Template("{question}\n{choices}\nAnswer:", answer))
    assert item_choices(items) == (first, second)
    assert all(own in given for own, given in zip(items.answers, item_choices(items), strict=True))


def test_choices_whose_right_one_is_given_as_text_are_the_texts():
    record = {"sentence": "_ sat down.", "options": ["Ian", "Craig"], "right": "Craig"}
    items = Pool.from_records([record], Template("{sentence}", " {right}"))
    assert item_choices(items, choices="options", answer="right") == ((" Ian", " Craig"),)


def test_an_item_without_choices_is_named():
    items = Pool.from_records([*QUIZ, {"question": "x", "answer": 1}], Template("{question}", "{answer}"))
    with pytest.raises(DataError, match="item 2 has no list in 'choices'"):
        item_choices(items)


def test_an_answer_that_is_none_of_the_choices_is_named():
    items = Pool.from_records([{**QUIZ[0], "answer": "green"}], Template("{question}", " {answer}"))
    with pytest.raises(DataError, match="item 0 is none of its 2 choices"):
        item_choices(items)
