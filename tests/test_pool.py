import csv
import json

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_plugins import Pool, Template
from icl_plugins.errors import DataError, SettingError, TemplateError

TEMPLATE = Template("Q: {text}\nA:", " {label}")
BARE = Template("{text}", "{label}")
RECORDS = [{"text": f"text {i}", "label": "ab"[i % 2], "id": i} for i in range(6)]
TEXT = st.text(st.characters(exclude_categories=["Cs"])).filter(str.strip)


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_an_iterator_is_consumed_once_and_the_callers_records_are_copied():
    records = [{"text": "a", "label": ["x", "y"]}]
    pool = Pool.from_records((record for record in records), Template("{text}", "{label[0]}"))
    fingerprint = pool.fingerprint
    records[0]["text"] = "changed"
    records[0]["label"][0] = "changed"
    assert pool.examples == ({"text": "a", "label": ["x", "y"]},)
    assert len(pool) == len(list(pool)) == 1
    assert Pool(pool.examples, pool.template).fingerprint == fingerprint


def test_demonstrations_are_question_then_answer_and_labels_are_stripped_answers():
    pool = Pool.from_records(RECORDS, TEMPLATE)
    assert pool.texts == tuple(TEMPLATE.render(record) for record in RECORDS)
    assert pool.answers[:2] == (" a", " b")
    assert pool.labels == tuple("ababab")
    assert pool.label_counts == {"a": 3, "b": 3}


def test_a_label_field_replaces_the_answer_as_label():
    pool = Pool.from_records(RECORDS, TEMPLATE, label_field="id")
    assert pool.labels == tuple("012345")
    assert pool.fingerprint != Pool.from_records(RECORDS, TEMPLATE).fingerprint
    with pytest.raises(DataError, match=r"example 0.*'group'.*'text', 'label', 'id'"):
        Pool.from_records(RECORDS, TEMPLATE, label_field="group")


CYCLE: list[object] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([*RECORDS, {"text": "a", "label": "b", "more": CYCLE}], "example 6 .*holds itself"),
        ([], "no examples"),
        (iter(()), "no examples"),
        ("text", "records of type str"),
        ({"text": ["a"], "label": ["b"]}, "records of type dict"),
        (7, "records of type int"),
        ([["a", "b"]], "example 0"),
        ([*RECORDS, {1: "a"}], "example 6"),
        ([*RECORDS, {"text": "a", "Label": "b"}], r"example 6: no field 'label'.*'text', 'Label'"),
        ([*RECORDS, {"text": None, "label": "b"}], "example 6: None in 'text'"),
        ([*RECORDS, {"text": float("nan"), "label": "b"}], "example 6: nan in 'text'"),
        ([*RECORDS, {"text": "a", "label": b"b"}], "example 6: bytes in 'label'"),
        (
            [*RECORDS, {"text": "a\ud83d", "label": "b"}],
            r"example 6: a lone surrogate \(U\+D83D\) at character 2",
        ),
        (
            RECORDS + [{"text": "a", "label": " \n"}] * 7,
            "7 of the examples .* empty answer: 6, 7, 8, 9, 10, ...",
        ),
    ],
    ids=str,
)
def test_bad_records_are_refused_at_construction_with_their_index(records, message):
    with pytest.raises(DataError, match=message):
        Pool.from_records(records, TEMPLATE)


def test_an_empty_question_is_refused_unless_the_template_brings_text():
    records = [*RECORDS, {"text": " ", "label": "a"}]
    with pytest.raises(DataError, match="empty question: 6"):
        Pool.from_records(records, BARE)
    assert len(Pool.from_records(records, TEMPLATE)) == 7


def test_an_answer_is_empty_when_the_data_brings_nothing_whatever_the_template_adds():
    with pytest.raises(DataError, match="empty answer: 0"):
        Pool.from_records([{"text": "a", "label": ""}], Template("{text}", " Answer: {label}."))


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), st.data())
@settings(max_examples=60, deadline=None)
def test_the_fingerprint_changes_with_any_edit_and_with_the_order(pairs, data):
    records = [{"text": text, "label": label} for text, label in pairs]
    before = Pool.from_records(records, BARE).fingerprint
    row = data.draw(st.integers(0, len(records) - 1))
    field = data.draw(st.sampled_from(["text", "label"]))
    at = data.draw(st.integers(0, len(records[row][field])))
    edited = [dict(record) for record in records]
    edited[row][field] = records[row][field][:at] + "x" + records[row][field][at:]
    assert Pool.from_records(edited, BARE).fingerprint != before
    if records[::-1] != records:
        assert Pool.from_records(records[::-1], BARE).fingerprint != before
    assert Pool.from_records(records, Template("{text}", "{label}", " ")).fingerprint != before
    assert Pool.from_records(records, BARE).fingerprint == before


def test_row_fingerprints_know_where_the_answer_begins():
    one, two = ({"text": "ab", "label": "c"}, {"text": "a", "label": "bc"})
    assert len({*Pool.from_records([one, two, one], BARE).row_fingerprints}) == 2


def test_a_subset_is_the_pool_of_those_examples_in_that_order():
    pool = Pool.from_records(RECORDS, TEMPLATE, label_field="id")
    part = pool.subset([4, 1])
    assert part.texts == (pool.texts[4], pool.texts[1])
    assert part.labels == ("4", "1")
    for wrong in ([6], [-1], [True], [1.0], [None]):
        with pytest.raises(SettingError, match="0 to 5"):
            pool.subset(wrong)


def pairs_pool(pairs):
    return Pool.from_records([{"text": text, "label": label} for text, label in pairs], TEMPLATE)


def test_duplicates_are_reported_by_kind_and_nothing_is_removed():
    pool = pairs_pool(
        [
            ("Hi there!", "a"),
            ("hi, THERE", "b"),
            ("Hi there!", "a"),
            ("other", "a"),
            ("Other?", "a"),
            ("x", "b"),
        ]
    )
    report = pool.duplicates()
    assert report.exact == ((0, 2),)
    assert report.normalised == ((0, 1, 2), (3, 4))
    assert report.conflicting == ((0, 1, 2),)
    assert len(pool) == 6


def test_duplicates_are_removed_only_as_asked():
    pool = pairs_pool([("a!", "x"), ("A", "y"), ("a!", "x"), ("b", "x"), ("B", "x"), ("c", "x")])
    assert pool.without_duplicates().questions == tuple(pool.questions[i] for i in (0, 1, 3, 4, 5))
    assert pool.without_duplicates("normalised").questions == tuple(pool.questions[i] for i in (0, 3, 5))
    dropped = pool.without_duplicates("normalised", drop_conflicting=True)
    assert dropped.questions == tuple(pool.questions[i] for i in (3, 5))
    with pytest.raises(SettingError, match="fuzzy"):
        pool.without_duplicates("fuzzy")
    assert pool.without_duplicates("none") == pool
    with pytest.raises(DataError, match="no examples"):
        pairs_pool([("a", "x"), ("a", "y")]).without_duplicates(drop_conflicting=True)


def test_texts_without_letters_and_parts_of_several_fields_do_not_run_together():
    assert pairs_pool([("???", "a"), ("!!!", "a"), ("🙂", "a"), ("🙁", "a")]).duplicates().normalised == ()
    assert pairs_pool([("कि", "a"), ("की", "a")]).duplicates().normalised == ()
    assert pairs_pool([("Ｓtraße", "a"), ("STRASSE.", "a")]).duplicates().normalised == ((0, 1),)
    two_fields = Template("{a} / {b}", "{label}")
    records = [{"a": "ab", "b": "c", "label": "x"}, {"a": "a", "b": "bc", "label": "x"}]
    assert Pool.from_records(records, two_fields).duplicates().normalised == ()


def test_json_lines_with_odd_but_valid_content(tmp_path):
    texts = ["a\u2028b", "{text}", "\x85", "é", "tab\t"]
    lines = [json.dumps({"text": text, "label": "a"}, ensure_ascii=False) for text in texts]
    path = write(tmp_path, "a.jsonl", b"\xef\xbb\xbf" + ("\r\n".join(lines) + "\n\n").encode())
    assert [example["text"] for example in Pool.from_jsonl(path, TEMPLATE)] == texts
    assert Pool.from_file(path, TEMPLATE) == Pool.from_jsonl(str(path), TEMPLATE)


GOOD = '{"text": "a", "label": "b"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        (GOOD + "\n{broken\n", "line 3 .* no JSON"),
        (GOOD + "[1]\n", "line 2 .* holds list"),
        (GOOD + '{"text": "a", "text": "b", "label": "c"}\n', "line 2 .* occurs twice"),
        (GOOD + "[" * 100_000, "line 2 .* no JSON"),
        (GOOD.encode() + b'{"text": "\xff", "label": "b"}\n', "line 2 .* not UTF-8"),
        (GOOD.encode("utf-16"), "not UTF-8"),
        (GOOD + '{"text": NaN, "label": "b"}\n', "example 1: nan"),
        (GOOD + '{"text": "\\ud800", "label": "b"}\n', "example 1: a lone surrogate"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_bad_json_lines_file_is_refused_with_the_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        Pool.from_jsonl(write(tmp_path, "a.jsonl", content), TEMPLATE)


def test_a_file_that_cannot_be_read_is_a_typed_error(tmp_path):
    for path in (tmp_path / "missing.jsonl", tmp_path / "missing.csv"):
        with pytest.raises(DataError, match="No such file"):
            Pool.from_file(path, TEMPLATE)
    with pytest.raises(DataError, match="cannot read"):
        Pool.from_jsonl(tmp_path, TEMPLATE)
    with pytest.raises(DataError, match=r"'\.parquet'.*\.jsonl.*\.csv"):
        Pool.from_file("train.parquet", TEMPLATE)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), st.sampled_from([",", "|", ";"]))
@settings(max_examples=60, deadline=None)
def test_csv_gives_back_what_the_csv_module_wrote(tmp_path_factory, pairs, delimiter):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["text", "label"])
        writer.writerows(pairs)
    pool = Pool.from_csv(path, BARE, delimiter=delimiter)
    assert [(example["text"], example["label"]) for example in pool] == pairs


def test_a_json_array_is_read_as_its_records(tmp_path):
    records = [{"text": "a\u2028b", "label": "x"}, {"text": "c", "label": "y"}]
    path = write(tmp_path, "a.json", b"\xef\xbb\xbf" + json.dumps(records, indent=1).encode())
    assert Pool.from_file(path, TEMPLATE) == Pool.from_records(records, TEMPLATE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"text": "a"', "no JSON.*jsonl"),
        (b'{"text": "a"}\n{"text": "b"}', "no JSON.*jsonl"),
        (b'{"text": "a"}', "holds dict"),
        (b'[{"text": "a", "label": "b"}, 3]', "element 1 .* holds int"),
        (b'[{"text": "a", "text": "b"}]', "twice"),
        (b"", "is empty"),
        (b"[]", "no examples"),
        (b'["\xff"]', "not UTF-8"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_a_bad_json_file_is_refused(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        Pool.from_file(write(tmp_path, "a.json", content), TEMPLATE)


def test_the_delimiter_follows_the_suffix(tmp_path):
    assert Pool.from_file(write(tmp_path, "a.tsv", "text\tlabel\na, b\tc\n"), BARE).questions == ("a, b",)
    assert Pool.from_file(
        write(tmp_path, "a.CSV", '\ufefftext,label\r\n"a, ""b""",c\r\n\r\n'), BARE
    ).questions == ('a, "b"',)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "is empty"),
        ("a.csv", "text,label\n", "no examples"),
        (
            "a.csv",
            "hello,positive\nbye,negative\n",
            r"no column 'text'.*'hello', 'positive'.*add a first line",
        ),
        ("a.csv", "text;label\na;b\n", "no column 'text'.*'text;label'.*delimiter"),
        ("a.csv", "text,label,text\na,b,c\n", "repeat .*'text'"),
        ("a.csv", 'text,label\n"a\nb",c\nd\n', "1 values at line 4"),
        ("a.csv", "text,label\na,b,c\n", "3 values at line 2"),
        ("a.csv", 'text,label\na,b\n"c,d\n', "line 3 .*"),
        ("a.csv", 'text,label\n"a"b,c\n', "line 2 .*"),
        ("a.csv", b"text,label\na,b\n\xe9,c\n", "line 3 .* not UTF-8"),
        ("a.csv", "text,label\na, \n", "empty answer: 0"),
        ("a.tsv", 'text\tlabel\n"one\tx\ntwo"\ty\n', "line 2 .* runs on to line 3"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_bad_csv_file_is_refused_with_the_line(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        Pool.from_csv(write(tmp_path, name, content), BARE)


@pytest.mark.parametrize("delimiter", ["", "::", 3])
def test_a_delimiter_must_be_one_character(tmp_path, delimiter):
    with pytest.raises(DataError, match="one character"):
        Pool.from_csv(write(tmp_path, "a.csv", "text,label\na,b\n"), BARE, delimiter=delimiter)


def test_a_csv_column_that_only_the_labels_need_is_checked_too(tmp_path):
    with pytest.raises(TemplateError, match="no column 'group'"):
        Pool.from_csv(write(tmp_path, "a.csv", "text,label\na,b\n"), BARE, label_field="group")


@pytest.fixture(scope="module")
def split():
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
            "choices": datasets.List(datasets.Value("string")),
        }
    )
    rows = {"text": ["a", "b"], "label": [1, 0], "choices": [["x", "y"], ["z"]]}
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("form", ["plain", "numpy", "streaming"])
def test_a_dataset_gives_class_names_whatever_its_format(split, form):
    dataset = {"plain": split, "numpy": split.with_format("numpy"), "streaming": split.to_iterable_dataset()}[
        form
    ]
    pool = Pool.from_dataset(dataset, Template("{text} {choices}", " {label}"))
    assert pool.texts == ("a (A) x (B) y pos", "b (A) z neg")
    assert pool.examples[0] == {"text": "a", "label": "pos", "choices": ["x", "y"]}


def test_a_dataset_without_labels_or_without_a_chosen_split_is_refused(split):
    with pytest.raises(DataError, match=r"splits: 'train'.*dataset\['train'\]"):
        Pool.from_dataset(datasets.DatasetDict(train=split), TEMPLATE)
    with pytest.raises(DataError, match="list for a data set"):
        Pool.from_dataset([{"text": "a"}], TEMPLATE)
    unlabelled = datasets.Dataset.from_dict(
        {"text": ["a"], "label": [-1]}, features=split.select_columns(["text", "label"]).features
    )
    with pytest.raises(DataError, match="example 0: None in 'label'"):
        Pool.from_dataset(unlabelled, TEMPLATE)
