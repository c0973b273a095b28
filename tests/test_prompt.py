import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icl_plugins import ManyShotPrompt, Template
from icl_plugins.artefacts import canonical_json, fingerprint
from icl_plugins.errors import ArtefactError, DataError, SettingError, TemplateError

TEMPLATE = Template("Query: {text}\nIntent:", " {label}", "\n###\n")
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SHOTS = (("Query: a {x}\nIntent:", " one"), ("Query: b\nIntent:", "\n two "))
FIELDS = ({"text": "a {x}", "label": "one"}, {"text": "b", "label": "two"})


def make(instruction="Name it.", **changes):
    arguments = {"template": TEMPLATE, "demonstrations": SHOTS, "examples": FIELDS, "provenance": {"seed": 0}}
    return ManyShotPrompt(**{**arguments, "instruction": instruction, **changes})


def test_text_is_instruction_demonstrations_and_query_joined_by_the_separator():
    shown = "Query: a {x}\nIntent: one\n###\nQuery: b\nIntent:\n two \n###\n"
    expected = "Name it.\n###\n" + shown + "Query: {label}\nIntent:"
    assert make().text({"text": "{label}"}) == expected
    assert make("").text({"text": "{label}"}) == expected.removeprefix("Name it.\n###\n")
    assert make("", demonstrations=(), examples=()).text({"text": "q"}) == "Query: q\nIntent:"


@given(TEXT)
@settings(max_examples=50, deadline=None)
def test_the_prefix_is_the_same_for_every_query(query):
    prompt = make()
    assert prompt.text({"text": query}) == prompt.prefix + "Query: " + query + "\nIntent:"
    for layout in ("turns", "json"):
        query_last, other_last = (prompt.messages({"text": text}, layout) for text in (query, "other"))
        assert query_last[:-1] == other_last[:-1]
        assert query_last[-1] == {"role": "user", "content": "Query: " + query + "\nIntent:"}


def test_turns_alternate_and_answers_lose_leading_space_only():
    assert make().messages({"text": "q"}) == [
        {"role": "system", "content": "Name it."},
        {"role": "user", "content": "Query: a {x}\nIntent:"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "Query: b\nIntent:"},
        {"role": "assistant", "content": "two "},
        {"role": "user", "content": "Query: q\nIntent:"},
    ]
    assert make("").messages({"text": "q"})[0]["role"] == "user"


def test_a_single_message_holds_the_text():
    prompt = make()
    assert prompt.messages({"text": "q"}, "single") == [
        {"role": "user", "content": prompt.text({"text": "q"})}
    ]
    with pytest.raises(SettingError, match="'yaml'"):
        prompt.messages({"text": "q"}, layout="yaml")


@given(TEXT, TEXT, st.sampled_from(["", "Name it."]))
@settings(max_examples=50, deadline=None)
def test_the_json_layout_holds_every_demonstration_as_json_can_say_it(question, answer, instruction):
    shots = ((question, " " + answer), ("Query: b\nIntent:", " two"))
    system, query = make(instruction, demonstrations=shots).messages({"text": "q"}, "json")
    assert (system["role"], query) == ("system", {"role": "user", "content": "Query: q\nIntent:"})
    assert system["content"].startswith("Name it.\n###\n[" if instruction else "[")
    block = system["content"].removeprefix("Name it.\n###\n")
    assert [list(shot.items()) for shot in json.loads(block)] == [
        [("question", shown), ("answer", given.lstrip())] for shown, given in shots
    ]
    assert block.count("\n") == 3


def test_changing_the_messages_does_not_reach_the_prompt():
    prompt = make()
    prompt.messages({"text": "q"})[1]["content"] = "changed"
    assert prompt.messages({"text": "q"})[1]["content"] == SHOTS[0][0]


def test_a_query_without_its_field_is_refused():
    for call in (make().text, make().messages):
        with pytest.raises(TemplateError, match=r"'text'.*'query'"):
            call({"query": "q"})


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"instruction": None}, DataError),
        ({"instruction": "a\udc00"}, DataError),
        ({"demonstrations": (("a", None), ("b", "c"))}, DataError),
        ({"demonstrations": (("a", "\ud800"), ("b", "c"))}, DataError),
        ({"examples": FIELDS[:1]}, SettingError),
        ({"examples": (object(), {})}, DataError),
        ({"provenance": {"score": float("nan")}}, DataError),
    ],
    ids=str,
)
def test_what_could_not_be_saved_is_refused_when_made(changes, error):
    with pytest.raises(error):
        make(**changes)


@given(TEXT, TEXT, TEXT, TEXT.filter(bool))
@settings(max_examples=60, deadline=None)
def test_a_saved_prompt_comes_back_equal_and_gives_the_same_bytes(
    tmp_path_factory, question, answer, instruction, separator
):
    folder = tmp_path_factory.mktemp("prompt")
    prompt = ManyShotPrompt(
        Template("{q}", "{a}", separator),
        ((question, answer),),
        ({"q": question, answer: [1.5, None]},),
        instruction,
    )
    prompt.save(folder / "one.json")
    loaded = ManyShotPrompt.load(folder / "one.json")
    assert loaded == prompt
    assert loaded.fingerprint == prompt.fingerprint
    assert loaded.text({"q": question}) == prompt.text({"q": question})
    loaded.save(folder / "two.json")
    assert (folder / "one.json").read_bytes() == (folder / "two.json").read_bytes()


def test_the_fingerprint_changes_with_all_that_a_target_reads_and_nothing_else():
    others = [
        make("name it."),
        make(demonstrations=SHOTS[::-1]),
        make(demonstrations=(SHOTS[0], ("Query: b\nIntent:\n", " two "))),
        make(template=Template("Query: {text}\nIntent:", " {label}")),
        make(demonstrations=(("Query: a {x}\nIntent: ", "one"), SHOTS[1])),
    ]
    assert len({prompt.fingerprint for prompt in [make(), *others]}) == 6
    assert make(provenance={}).fingerprint == make().fingerprint


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_a_damaged_file_is_refused_or_says_the_same(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("prompt") / "prompt.json"
    make().save(path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    damage = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    if damage == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    elif damage == "cut":
        del content[at:]
    else:
        content[at:at] = data.draw(st.binary(min_size=1, max_size=3))
    path.write_bytes(content)
    try:
        loaded = ManyShotPrompt.load(path)
    except ArtefactError:
        return
    assert loaded == make()  # white space between the values carries nothing


@given(
    st.recursive(
        st.none() | st.integers() | TEXT, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner)
    )
)
@settings(max_examples=25, deadline=None)
def test_a_value_of_another_shape_is_refused_even_with_a_matching_checksum(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("prompt") / "prompt.json"
    make().save(path)
    body = json.loads(path.read_text())
    del body["checksum"]
    for key in ("template", "demonstrations", "fingerprint", "schema", "extra"):
        changed = {**body, key: value}
        path.write_text(json.dumps({**changed, "checksum": fingerprint(canonical_json(changed))}))
        if value != body.get(key, ...) or type(value) is not type(body.get(key)):
            with pytest.raises(ArtefactError):
                ManyShotPrompt.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no JSON"),
        ("[]", "another kind: 'list'"),
        ("{}", "another kind: None"),
        ('{"kind": "icl_plugins.KVState"}', "another kind: 'icl_plugins.KVState'"),
        ('{"kind": "icl_plugins.ManyShotPrompt", "schema": 2}', "schema version 2 .*upgrade"),
        ('{"kind": "icl_plugins.ManyShotPrompt", "schema": "1"}', "unknown schema version: '1'"),
        ('{"kind": "icl_plugins.ManyShotPrompt", "schema": true}', "damaged|unknown schema"),
        ('{"kind": "icl_plugins.ManyShotPrompt", "schema": 1}', "is damaged: KeyError"),
        ("[" * 100_000, "no JSON"),
        ('{"kind": NaN}', "another kind"),
    ],
    ids=lambda value: value[:40],
)
def test_a_file_that_is_no_prompt_is_named_for_what_it_is(tmp_path, content, message):
    path = tmp_path / "prompt.json"
    path.write_text(content)
    with pytest.raises(ArtefactError, match=message):
        ManyShotPrompt.load(path)
    with pytest.raises(ArtefactError, match="cannot be read"):
        ManyShotPrompt.load(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("old", "new"), [(" one", " two"), ('"seed": 0', '"seed": 1'), ('"text": "b"', '"text": "c"')]
)
def test_an_edited_demonstration_example_or_provenance_is_noticed(tmp_path, old, new):
    path = tmp_path / "prompt.json"
    make().save(path)
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ArtefactError, match="checksum"):
        ManyShotPrompt.load(path)
