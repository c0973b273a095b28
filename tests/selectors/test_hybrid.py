"""What a hybrid promises: a fixed block that never changes, and behind it the nearest to each query."""

import copy
import math
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples_of
from hypothesis import strategies as st

from icl_plugins import GradientMatching, ManyShotPrompt, Pool, Random, Template
from icl_plugins.errors import BudgetError, ProxyError, SettingError, TemplateError, TooLongError
from icl_plugins.ordering import Ordered
from icl_plugins.selectors._tokens import JoinedTexts
from icl_plugins.selectors.hybrid import Hybrid, HybridPrompt, RankerMaker

LAYOUTS = ["turns", "single", "json"]
QUERY = {"text": "what is the exchange rate of my card"}
WORDS = st.lists(st.sampled_from(["my", "card", "rate", "lost", "I", "Zürich", "{x}", "—", "7"]), max_size=12)
QUERIES = WORDS.map(" ".join)
MANY = examples_of(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@dataclass(frozen=True)
class Always:
    """Ranks the same rows whatever is asked."""

    rows: tuple = ()

    def ranker(self, pool, rows):
        return lambda question: self.rows


@dataclass(frozen=True)
class Telling(Always):
    """As Always, with a ranker that tells something of itself."""

    told: object = None

    def ranker(self, pool, rows):
        rank = super().ranker(pool, rows)
        rank.about = self.told
        return rank


@pytest.fixture(scope="session")
def prompt(pool, tokenizer_folder):
    return Hybrid(Random(tokenizer=tokenizer_folder), m=3).fit(pool, 6, instruction="Name the intent.")


@pytest.fixture(scope="session")
def counter(reader):
    return JoinedTexts("reader", reader.count_tokens)


@pytest.fixture
def make(reader, counter):
    def make(nearest="bm25", **settings):
        return Hybrid(Random(tokenizer=counter), nearest, proxy=reader, **settings)

    return make


def shown(prompt, query):
    """The texts of everything that stands before the query."""
    return [question + answer for question, answer in prompt.prompt_for(query).demonstrations]


# --- what every query begins with ---------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@MANY
@given(text=QUERIES)
def test_every_request_begins_with_the_bytes_of_the_fixed_block(prompt, layout, text):
    fixed = prompt.fixed.messages(QUERY, layout)
    messages = prompt.messages({"text": text}, layout)
    if layout == "single":
        assert messages[0]["content"].startswith(prompt.fixed.prefix)
    else:
        assert messages[: len(fixed) - 1] == fixed[:-1]
    assert prompt.text({"text": text}).startswith(prompt.prefix) and prompt.prefix == prompt.fixed.prefix


@MANY
@given(text=QUERIES)
def test_texts_and_turns_are_those_of_the_prompt_of_one_query(prompt, text):
    whole = prompt.prompt_for({"text": text})
    assert len(whole.demonstrations) == 9 and whole.examples[-1]["text"] + "\nIntent:" in whole.text(QUERY)
    assert prompt.text({"text": text}) == whole.text({"text": text})
    for layout in ("turns", "single"):
        assert prompt.messages({"text": text}, layout) == whole.messages({"text": text}, layout)


def test_in_layout_json_the_nearest_stand_with_the_query(prompt, pool):
    system, user = prompt.messages(QUERY, "json")
    assert system == prompt.fixed.messages(QUERY, "json")[0]
    lines = ",\n".join(
        f'{{"question": "Query: {pool.examples[row]["text"]}\\nIntent:", "answer": "{pool.labels[row]}"}}'
        for row in prompt.rows_for(QUERY)
    )
    question = f"Query: {QUERY['text']}\nIntent:"
    assert user == {"role": "user", "content": f"[\n{lines}\n]\n\n{question}"}


@MANY
@given(text=QUERIES)
def test_nothing_is_shown_twice(records, text):
    doubled = Pool.from_records([*records, *records], Template("Query: {text}\nIntent:", " {label}"))
    prompt = Hybrid(Random(), m=8).fit(doubled, 12)
    again = [at for at, n in Counter(prompt.fixed.demonstrations).items() if n > 1]
    nearest = [(doubled.questions[row], doubled.answers[row]) for row in prompt.rows_for({"text": text})]
    assert len(set(nearest)) == 8 and not set(nearest) & set(prompt.fixed.demonstrations)
    assert len(again) == 0 or set(again) <= set(prompt.fixed.demonstrations)


def test_normalised_leaves_out_what_differs_in_case_and_signs_only(template_pool):
    fixed = Random().select(template_pool.subset([0, 4]), 1)
    exact = Hybrid(m=4).around(fixed, template_pool)
    normalised = Hybrid(m=4, distinct="normalised").around(fixed, template_pool)
    kept = [template_pool.questions[row].lower().strip("?!") for row in normalised.rows]
    said = fixed.examples[0]["q"].lower()
    assert len(exact.rows) == 4 and sorted([*kept, said]) == ["card lost", "phone", "rate"]


@pytest.fixture
def template_pool():
    texts = ["card lost", "Card lost?", "CARD LOST!", "rate", "phone"]
    return Pool.from_records([{"q": q, "a": "x"} for q in texts], Template("{q}", " {a}"))


# --- which are nearest --------------------------------------------------------------------------------------


def bm25_by_hand(pool, row, question, k1=1.5, b=0.75):
    """The definition: Lucene's BM25 of one question for another."""
    split = [Counter(words_of(q)) for q in pool.questions]
    mean = sum(sum(words.values()) for words in split) / len(split)
    own, score = split[row], 0.0
    for word in words_of(question):
        df = sum(word in words for words in split)
        if df:
            idf = math.log(1 + (len(split) - df + 0.5) / (df + 0.5))
            length = sum(own.values()) / mean
            score += idf * own[word] / (own[word] + k1 * (1 - b + b * length))
    return score


def words_of(text):
    return "".join(c if c.isalnum() or c == "_" else " " for c in text.lower()).split()


@MANY
@given(text=QUERIES)
def test_bm25_gives_the_highest_scores_by_the_definition(prompt, pool, text):
    question = pool.template.render_question({"text": text})
    scores = {row: bm25_by_hand(pool, row, question) for row in prompt.rows}
    best = sorted(scores.values(), reverse=True)[:3]
    assert [scores[row] for row in reversed(prompt.rows_for({"text": text}))] == pytest.approx(best)


def test_the_nearest_by_the_proxy_have_the_highest_cosines(make, pool, reader):
    prompt = make("proxy", m=5).fit(pool, 6)
    vectors = reader.embed(pool.questions).double().numpy()
    (query,) = reader.embed([pool.template.render_question(QUERY)]).double().numpy()
    cosines = {
        row: vectors[row] @ query / np.linalg.norm(vectors[row]) / np.linalg.norm(query)
        for row in prompt.rows
    }
    expected = sorted(cosines, key=cosines.get)[-5:]
    assert prompt.rows_for(QUERY) == tuple(expected)


@pytest.mark.parametrize("nearest", ["bm25", "proxy"])
def test_a_question_of_the_pool_is_nearest_to_itself_and_stands_last(make, pool, nearest):
    prompt = make(nearest, m=3).fit(pool, 6)
    for row in prompt.rows:
        assert prompt.rows_for(pool.examples[row])[-1] == row


@pytest.mark.parametrize("nearest", ["bm25", "proxy"])
def test_leave_out_same_keeps_a_query_from_its_own_answer(make, pool, nearest):
    prompt = make(nearest, m=3, leave_out_same=True).fit(pool, 6)
    for row in prompt.rows:
        loud = {"text": f" {pool.examples[row]['text'].upper()}"}
        for query in (pool.examples[row], loud):
            assert row not in prompt.rows_for(query) and len(prompt.rows_for(query)) == 3


def test_ties_go_to_the_lowest_row(pool, prompt):
    assert prompt.rows_for({"text": "Zanzibar"}) == tuple(
        sorted(prompt.rows, key=lambda row: (-bm25_by_hand(pool, row, "query zanzibar intent"), row))[:3][
            ::-1
        ]
    )


def test_a_pool_without_any_word_is_ranked_by_row():
    pool = Pool.from_records([{"q": "!" * n, "a": "x"} for n in range(1, 6)], Template("{q}", " {a}"))
    prompt = Hybrid(m=2).around(Random().select(pool.subset([4]), 1), pool)
    assert prompt.rows_for({"q": "?"}) == (1, 0)


def test_a_sentence_transformers_model_ranks_too(pool, monkeypatch):
    class Letters:
        max_seq_length, device = None, "cpu"

        def encode(self, texts, **kwargs):
            return np.array([[text.count(c) for c in "abcdefghij"] for text in texts], dtype=np.float32)

    monkeypatch.setattr("icl_plugins.selectors._rankers.sentence_encoder", lambda name: Letters())
    prompt = Hybrid(Random(), "some/model", m=3).fit(pool, 6)
    row = prompt.rows[5]
    assert pool.questions[prompt.rows_for(pool.examples[row])[-1]] == pool.questions[row]


def test_an_object_of_ones_own_may_rank(pool):
    assert isinstance(Always(), RankerMaker)
    prompt = Hybrid(Random(), Always(tuple(range(23, -1, -1))), m=3).fit(pool, 6)
    assert prompt.rows_for(QUERY) == tuple(sorted(prompt.rows)[-3:])
    few = Hybrid(Random(), Always((*prompt.rows[:2], prompt.rows[0])), m=3).fit(pool, 6)
    assert few.rows_for(QUERY) == (prompt.rows[1], prompt.rows[0])


def test_what_a_ranker_tells_of_itself_is_part_of_the_prompt(pool):
    selection = Random().select(pool, 6)
    prompts = [Hybrid(Random(), Telling((1, 2), told)).around(selection) for told in ({"a": 1}, None, print)]
    assert prompts[0].config["a"] == 1 and prompts[0].config["nearest"]["selector"] == "Telling"
    assert all("a" not in prompt.config for prompt in prompts[1:])


@pytest.mark.parametrize("rows", [(99,), (-1,), (0.5,), ("a",), ((0, 1),)], ids=str)
def test_a_ranker_that_returns_no_rows_of_the_pool_is_named(pool, rows):
    prompt = Hybrid(Random(), Always(rows), m=3).fit(pool, 6)
    with pytest.raises(SettingError, match="a ranker that returns"):
        prompt.rows_for(QUERY)


# --- budgets ------------------------------------------------------------------------------------------------


@MANY
@given(text=QUERIES, max_tokens=st.integers(140, 400), m=st.integers(1, 5))
def test_the_budget_holds_and_the_fixed_block_stays(pool, reader, text, max_tokens, m, counter):
    hybrid = Hybrid(Random(tokenizer=counter), m=m)
    prompt = hybrid.fit(pool, max_tokens=max_tokens)
    rows = (*prompt.selection.indices, *prompt.rows_for({"text": text}))
    joined = "".join(pool.texts[row] + pool.template.separator for row in rows)
    assert reader.count_tokens([joined])[0] <= max_tokens
    assert prompt.text({"text": text}).startswith(prompt.fixed.prefix)
    unlimited = hybrid.around(prompt.selection)
    assert unlimited.fixed == prompt.fixed


def test_room_is_kept_for_m_demonstrations_of_mean_size(pool, reader, counter):
    prompt = Hybrid(Random(tokenizer=counter), m=4).fit(pool, max_tokens=200)
    counts = [len(prompt.rows_for(example)) for example in pool.examples]
    assert np.mean(counts) > 3 and len(prompt.fixed.demonstrations) > 3


def test_what_does_not_fit_is_passed_over_for_the_next_nearest(pool, reader, counter):
    costs = reader.count_tokens([text + "\n\n" for text in pool.texts])
    fixed = Random(tokenizer=counter).select(pool, 6)
    ranked = [row for row in sorted(range(24), key=lambda row: -costs[row]) if row not in fixed.indices]
    base = reader.count_tokens(["".join(pool.texts[row] + "\n\n" for row in fixed.indices)])[0]
    hybrid = Hybrid(Random(tokenizer=counter), Always(tuple(ranked)), m=2)
    least = min(costs[row] for row in ranked)
    prompt = hybrid.around(fixed, max_tokens=base + least)
    (row,) = prompt.rows_for(QUERY)
    assert costs[row] <= least
    assert hybrid.around(fixed, max_tokens=base).rows_for(QUERY) == ()
    assert hybrid.around(fixed, max_tokens=base).prompt_for(QUERY) == prompt.fixed


def test_a_fixed_block_over_the_budget_is_refused_not_cut(pool, reader, counter):
    fixed = Random(tokenizer=counter).select(pool, 12)
    with pytest.raises(BudgetError, match=r"a fixed block of \d+ tokens in a budget of 60"):
        Hybrid(Random(tokenizer=counter)).around(fixed, max_tokens=60)


@pytest.mark.parametrize("max_tokens", [1, 40, 60])
def test_a_budget_without_room_for_both_names_what_is_kept(pool, reader, max_tokens, counter):
    with pytest.raises(BudgetError, match="nearest"):
        Hybrid(Random(tokenizer=counter), m=4).fit(pool, 6, max_tokens=max_tokens)


def test_the_tokenizer_given_counts_for_the_fixed_block_too(pool, reader):
    for fixed in (Random(tokenizer="no such folder"), Ordered(Random(tokenizer="none"), "reversed")):
        prompt = Hybrid(fixed, tokenizer=CountsWords()).fit(pool, max_tokens=60)
        assert prompt.selection.details["tokens"] <= 60 - 4 * 5
        assert prompt.config["tokenizer"] == "words"


@pytest.mark.parametrize("max_tokens", range(60, 100, 3))
def test_tokens_that_come_in_where_texts_meet_count_too(pool, max_tokens):
    seams = Seams()
    fixed = Random(tokenizer=seams).select(pool, 4)
    prompt = Hybrid(Random(), m=6, tokenizer=seams).around(fixed, max_tokens=max_tokens)
    for query in pool.examples:
        rows = prompt.rows_for(query)
        assert rows and seams.total(pool, (*fixed.indices, *rows)) <= max_tokens


class CountsWords:
    name = "words"

    def fixed(self, pool):
        return 0

    def costs(self, pool):
        return [len(text.split()) for text in pool.texts]

    def total(self, pool, indices):
        return sum(len(pool.texts[row].split()) for row in indices)


class Seams(CountsWords):
    """Three tokens more than the demonstrations have alone, wherever two of them meet."""

    def total(self, pool, indices):
        return super().total(pool, indices) + 3 * max(0, len(indices) - 1)


# --- the same for all --------------------------------------------------------------------------------------


@pytest.mark.parametrize("nearest", ["bm25", "proxy"])
def test_equal_queries_get_equal_prompts_from_any_number_of_threads(make, pool, nearest):
    prompt, again = (make(nearest, m=4).fit(pool, 6, max_tokens=600) for _ in range(2))
    queries = [{"text": f"my card {word} {n}"} for n in range(4) for word in ("lost", "rate", "I", "yet")] * 2
    alone = [prompt.messages(query) for query in queries]
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(prompt.messages, queries)) == alone
        assert list(threads.map(again.messages, queries)) == alone
    assert again.fingerprint == prompt.fingerprint


def test_selecting_and_ranking_with_one_proxy_at_once_do_not_mix(pool, reader):
    fixed = GradientMatching(proxy=reader, epochs=1, prefix_length=2)
    hybrid = Hybrid(fixed, "proxy", m=3, proxy=reader)
    prompt = hybrid.fit(pool, 4)
    expected = prompt.rows_for(QUERY), prompt.selection.indices
    with ThreadPoolExecutor(8) as threads:
        fits = [threads.submit(hybrid.fit, pool, 4) for _ in range(2)]
        rows = [threads.submit(prompt.rows_for, QUERY) for _ in range(32)]
        assert {future.result() for future in rows} == {expected[0]}
        assert {future.result().selection.indices for future in fits} == {expected[1]}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda prompt: pickle.loads(pickle.dumps(prompt))])  # noqa: S301
@pytest.mark.parametrize("nearest", ["bm25", "proxy"])
def test_copies_and_pickles_choose_the_same(make, pool, nearest, copied):
    prompt = make(nearest).fit(pool, 6, max_tokens=500)
    assert copied(prompt).messages(QUERY) == prompt.messages(QUERY)


def test_the_fingerprint_tells_what_decides(make, pool):
    selection = Random().select(pool, 6)
    prompts = [
        make().around(selection),
        make(m=3).around(selection),
        make("proxy").around(selection),
        make().around(selection, exclude=[9]),
        make().around(selection, max_tokens=600),
        make(leave_out_same=True).around(selection),
        make().around(selection, instruction="Name it."),
        make(Always((1, 2))).around(selection),
        make(Always((2, 1))).around(selection),
    ]
    assert len({prompt.fingerprint for prompt in prompts}) == len(prompts)


def test_a_saved_fixed_block_gets_its_nearest_back(make, pool, tmp_path):
    prompt = make().fit(pool, 6, instruction="Name it.", max_tokens=500)
    prompt.fixed.save(tmp_path / "prompt.json")
    loaded = make().around(ManyShotPrompt.load(tmp_path / "prompt.json"), pool, max_tokens=500)
    assert isinstance(loaded, HybridPrompt) and loaded.fingerprint == prompt.fingerprint
    assert loaded.messages(QUERY) == prompt.messages(QUERY)


def test_excluded_rows_are_in_neither_part_and_included_ones_are_fixed(make, pool):
    prompt = make(m=10).fit(pool, 6, include=[3], exclude=iter([0, 1, 2]))
    assert prompt.selection.indices[0] == 3
    assert not {0, 1, 2} & {*prompt.selection.indices, *prompt.rows}
    assert len(prompt.rows_for(QUERY)) == 10


# --- what is refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        *({"m": m} for m in (0, -1, 1.5, True, "4", None)),
        *({"nearest": nearest} for nearest in ("", 5, None, Always, Random())),
        *({"fixed": fixed} for fixed in (None, "random", Random)),
        {"on_too_long": "skip"},
        {"distinct": "near"},
        {"leave_out_same": 1},
        {"proxy": 3},
        {"tokenizer": 3},
    ],
    ids=str,
)
def test_bad_settings_are_refused_by_name(settings):
    with pytest.raises(SettingError, match=next(iter(settings))):
        Hybrid(**settings)


def test_an_unknown_model_is_named_and_nothing_is_downloaded(pool, tmp_path):
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ProxyError, match="nothing"):
        Hybrid(Random(), tmp_path / "nothing").fit(pool, 6)


@pytest.mark.parametrize("shots", [21, 24, 25])
def test_m_examples_stay_for_the_queries(pool, shots):
    with pytest.raises(BudgetError, match="m=4"):
        Hybrid(Random()).fit(pool, shots)
    assert len(Hybrid(Random()).fit(pool, 20).rows_for(QUERY)) == 4


def test_a_fixed_block_that_shows_the_whole_pool_is_refused(pool):
    with pytest.raises(BudgetError, match="all there is to show"):
        Hybrid().around(Random().select(pool, 24))


def test_a_missing_field_is_named(prompt):
    for ask in (prompt.text, prompt.messages, prompt.rows_for, prompt.prompt_for):
        with pytest.raises(TemplateError, match="text"):
            ask({"txt": "?"})
    with pytest.raises(SettingError, match="layout"):
        prompt.messages(QUERY, "turn")


def test_a_query_too_long_for_the_model_is_an_error_or_cut(make, pool):
    long = {"text": "card " * 3000}
    with pytest.raises(TooLongError):
        make("proxy").fit(pool, 6).rows_for(long)
    assert len(make("proxy", on_too_long="truncate").fit(pool, 6).rows_for(long)) == 4


def test_a_block_and_a_pool_that_do_not_belong_together_are_refused(pool, records):
    selection = Random().select(pool, 3)
    other = Pool.from_records(records, Template("Q: {text}", " {label}"))
    for source, where in ((selection, other), (selection.to_prompt(), None), (pool, pool), (selection, [])):
        with pytest.raises(SettingError):
            Hybrid().around(source, where)
    with pytest.raises(SettingError, match="instruction"):
        Hybrid().around(selection.to_prompt(), pool, instruction="Name it.")
    with pytest.raises(SettingError, match="not in the pool"):
        Hybrid().around(
            selection, pool.subset([row for row in range(24) if row not in selection.indices]), max_tokens=99
        )
