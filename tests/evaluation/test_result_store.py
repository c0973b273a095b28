import sqlite3
import threading
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icl_plugins.errors import ArtefactError
from icl_plugins.evaluation.records import Conditions, Item
from icl_plugins.evaluation.store import ResultStore
from icl_plugins.evaluation.target import Answer, Usage

SCORED = Conditions("target", "prompt", "turns", "score", "{}", "the prefix" * 1000)
ITEM = Item("Which one?", ("a", "b"))
ANSWER = Answer(scores=(-0.5, -float("inf")), usage=Usage(10, 2, 8, 0.125), seconds=0.25)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SECONDS = st.floats(0, 1e6)
USAGES = st.one_of(
    st.none(),
    st.builds(
        Usage,
        prompt_tokens=st.integers(0, 10**9),
        completion_tokens=st.integers(0, 10**6),
        cached_tokens=st.integers(0, 10**9),
        cost=st.one_of(st.none(), st.integers(0, 9), st.floats(0, 1e9)),
    ),
)
SCORES = st.lists(st.floats(allow_nan=False), min_size=1).map(tuple)
ANSWERS = st.one_of(
    st.builds(Answer, text=TEXT, usage=USAGES, seconds=SECONDS),
    st.builds(Answer, scores=SCORES, usage=USAGES, seconds=SECONDS),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.sqlite"


@pytest.fixture
def store(path):
    with ResultStore(path) as store:
        yield store


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANSWERS, TEXT, st.lists(TEXT).map(tuple))
def test_an_answer_comes_back_as_it_was_kept(store, answer, query, choices):
    conditions = Conditions(str(id(answer)), query, "single", "generate", repr(answer), "")
    store.keep(conditions, Item(query, choices), answer)
    assert store.answer(conditions, Item(query, choices)) == answer


def test_answers_outlive_the_store(path):
    with ResultStore(path) as store:
        store.keep(SCORED, ITEM, ANSWER)
    with ResultStore(path) as store:
        assert store.answer(SCORED, ITEM) == ANSWER


@pytest.mark.parametrize("field", ["target", "prompt", "layout", "kind", "settings"])
def test_an_answer_under_other_conditions_is_another(store, field):
    other = replace(SCORED, **{field: "other"})
    store.keep(SCORED, ITEM, ANSWER)
    assert store.answer(other, ITEM) is None
    assert store.answer(SCORED, Item(ITEM.query, ("a", "c"))) is None
    assert store.answer(SCORED, Item("Another?", ITEM.choices)) is None


def test_a_failure_is_kept_but_asked_again_and_gives_way_to_an_answer(store, path):
    store.keep(SCORED, ITEM, Answer(error="503"))
    assert store.answer(SCORED, ITEM) is None
    assert sqlite3.connect(path).execute("SELECT error FROM answers").fetchall() == [("503",)]
    store.keep(SCORED, ITEM, ANSWER)
    store.keep(SCORED, ITEM, Answer(error="504"))
    store.keep(SCORED, ITEM, Answer(scores=(-9.0, -9.0)))
    assert store.answer(SCORED, ITEM) == ANSWER


def test_the_prompt_is_kept_once_for_all_items(store, path):
    for row in range(20):
        store.keep(SCORED, Item(f"query {row}", ITEM.choices), ANSWER)
    texts = [text for (text,) in sqlite3.connect(path).execute("SELECT content FROM texts")]
    assert len(texts) == 22 and texts.count(SCORED.prefix) == 1 and texts.count('["a","b"]') == 1


def test_several_writers_that_open_a_new_file_at_once_keep_all_their_answers(path):
    start, failures = threading.Barrier(4), []

    def write(writer):
        try:
            start.wait()
            with ResultStore(path) as store:
                for row in range(30):
                    store.keep(SCORED, Item(f"{row % 20 + 10 * writer}"), Answer(text=f"{row}"))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with ResultStore(path) as store:
        assert all(store.answer(SCORED, Item(str(query))) for query in range(50))


def test_a_new_file_can_be_opened_by_many_at_once(tmp_path):
    # one time in twenty SQLite refuses at once to begin a log, where another is about to write
    def open_at_once(path):
        start, failures = threading.Barrier(6), []

        def open_one():
            start.wait()
            try:
                ResultStore(path).close()
            except ArtefactError as error:
                failures.append(error)

        threads = [threading.Thread(target=open_one) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return failures

    assert not [failure for number in range(100) for failure in open_at_once(tmp_path / f"{number}.sqlite")]


def foreign(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE mine (a)")
    connection.close()


def newer(path):
    ResultStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (foreign, "no result store"),
        (newer, "a newer result store.*upgrade"),
        (lambda path: path.write_text("my notes\n" * 99), "not a database"),
        (lambda path: path.mkdir(), "unable to open"),
    ],
)
def test_a_file_that_is_no_store_is_refused_and_left_as_it_is(path, make, message):
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ArtefactError, match=message):
        ResultStore(path)
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ArtefactError, match="check folder, rights"):
        ResultStore(tmp_path / "missing" / "results.sqlite")


def test_a_store_that_another_program_holds_is_told(path, store):
    store._connection.execute("PRAGMA busy_timeout = 1")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(ArtefactError, match="locked.*another run"):
        store.keep(SCORED, ITEM, ANSWER)
    holder.execute("ROLLBACK")
    store.keep(SCORED, ITEM, ANSWER)
    assert store.answer(SCORED, ITEM) == ANSWER


def read_all(path):
    with ResultStore(path) as store:
        return [store.answer(SCORED, Item(f"query {row}", ("a", "b"))) for row in range(40)]


def test_damage_anywhere_is_told_or_answers_are_missing_but_never_wrong(path):
    kept = [Answer(scores=(-row / 7, -1.0), usage=Usage(row, 1), seconds=0.5) for row in range(40)]
    with ResultStore(path) as store:
        for row, answer in enumerate(kept):
            store.keep(SCORED, Item(f"query {row}", ("a", "b")), answer)
    whole, told = path.read_bytes(), 0
    for start in range(0, len(whole), 397):
        path.write_bytes(
            whole[:start] + bytes(b ^ 0x5A for b in whole[start : start + 3]) + whole[start + 3 :]
        )
        try:
            read = read_all(path)
        except ArtefactError:
            told += 1
        else:
            assert all(got is None or got == answer for got, answer in zip(read, kept, strict=True))
        for leftover in path.parent.glob("results.sqlite-*"):
            leftover.unlink()
    assert told > 5


def test_a_file_cut_in_half_is_told(path):
    with ResultStore(path) as store:
        for row in range(200):
            store.keep(SCORED, Item(f"query {row}"), ANSWER)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtefactError, match="malformed.*restore"):
        read_all(path)
