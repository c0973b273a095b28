"""What GradCE promises: estimates for single queries, each choice behind the ones before, and a ranker."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from icl_plugins import GradCE, Hybrid, Pool, Proxy, Random
from icl_plugins.algorithms.honesty import EstimateQuality
from icl_plugins.errors import BudgetError, EstimateError, EstimateWarning, NonFiniteError, TooLongError
from icl_plugins.selectors._rankers import RankerMaker

QUESTION = "Query: what is the exchange rate of my card\nIntent:"
QUESTIONS = [QUESTION, "Query: I lost it\nIntent:", "Query: has my card arrived yet or not\nIntent:"]
SETTINGS = {"check": 0, "anchors": 1, "candidates": 6, "each": 3}


@pytest.fixture
def make(reader):
    return lambda **settings: GradCE(**{"proxy": reader, **SETTINGS, **settings})


@pytest.fixture
def trust(monkeypatch):
    return lambda verdict: monkeypatch.setattr(EstimateQuality, "trusted", verdict)


@pytest.fixture
def near(reader, pool):
    return GradCE(proxy=reader, **SETTINGS)._nearby(reader, pool, np.arange(len(pool)))


def tokens(proxy, text):
    return proxy.tokenizer(text, add_special_tokens=False)["input_ids"]


def by_hand(proxy, slots, shown, question):
    """The loss of the question's own tokens behind slots (k, T, h), in one plain pass."""
    table = proxy.model.get_input_embeddings()
    ids = torch.tensor(tokens(proxy, question))
    begin = table(torch.tensor([proxy.tokenizer.bos_token_id]))
    whole = torch.cat([begin, slots.flatten(0, 1), table(ids)])[None]
    seen = torch.cat([torch.ones(1), shown.flatten().float(), torch.ones(len(ids))])[None].long()
    places = torch.arange(whole.shape[1])[None]
    logits = proxy.model(inputs_embeds=whole, attention_mask=seen, position_ids=places).logits[0]
    # The first token of the question is read where the last one before it stands, which a pad never is.
    start = whole.shape[1] - len(ids)
    return -logits[start - 1 : -1].log_softmax(-1)[torch.arange(len(ids)), ids].sum()


def slot(proxy, text, width):
    ids = tokens(proxy, text)
    padded = torch.zeros(width, proxy.model.config.hidden_size)
    with torch.no_grad():
        padded[width - len(ids) :] = proxy.model.get_input_embeddings()(torch.tensor(ids))
    return padded, torch.arange(width) >= width - len(ids)


def taylor(proxy, texts, before, standing, left, question):
    """Expand the loss around the embeddings of an anchor, for each text left in its place."""
    width = max(len(tokens(proxy, text)) for text in texts)
    made = [slot(proxy, text, width) for text in texts]
    places = [*before, standing]
    leaf = torch.stack([made[place][0] for place in places]).requires_grad_(True)
    shown = torch.stack([made[place][1] for place in places])
    loss = by_hand(proxy, leaf, shown, question)
    (gradient,) = torch.autograd.grad(loss, leaf)
    moves = [made[place][0] - made[standing][0] for place in left]
    return [float(loss.detach()) + float((gradient[-1] * move).sum()) for move in moves]


def texts_of(pool):
    return [text + pool.template.separator for text in pool.texts]


@pytest.mark.parametrize("before", [[], [3], [3, 14]], ids=str)
def test_estimates_are_the_taylor_expansion_of_the_loss_of_the_question(near, reader, pool, before):
    left = [place for place in (7, 1, 20, 11) if place not in before]
    found, at_anchor = near.estimates([QUESTION], np.array([before], dtype=int), np.array([left]), 1)
    expected = taylor(reader, texts_of(pool), before, left[0], left, QUESTION)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-3)
    assert found[0, 0] == pytest.approx(at_anchor[0])  # at the anchor there is nothing to estimate


def test_several_anchors_give_the_mean_of_their_expansions(near, reader, pool):
    left = [7, 1, 20, 11]
    found, _ = near.estimates([QUESTION], np.zeros((1, 0), dtype=int), np.array([left]), 3)
    each = [taylor(reader, texts_of(pool), [], anchor, left, QUESTION) for anchor in left[:3]]
    np.testing.assert_allclose(found[0], np.mean(each, 0), rtol=1e-4, atol=1e-3)


def test_queries_are_estimated_each_by_itself(near):
    left = np.array([[7, 1, 20], [2, 3, 4], [9, 1, 0]])
    before = np.array([[5], [6], [8]])
    together, _ = near.estimates(QUESTIONS, before, left, 2)
    for at, question in enumerate(QUESTIONS):
        alone, _ = near.estimates([question], before[at : at + 1], left[at : at + 1], 2)
        np.testing.assert_allclose(together[at], alone[0], rtol=1e-4)


def test_candidates_are_the_nearest_by_the_cosine_of_mean_hidden_states(near, reader, pool):
    vectors = reader.embed([*pool.questions, QUESTION]).double().numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.argsort(-(vectors[:-1] @ vectors[-1]), kind="stable")
    assert near.nearest([QUESTION], 6).tolist() == [order[:6].tolist()]
    own = near.nearest([pool.questions[4]], 5, others=True)[0].tolist()
    assert 4 not in own and len(own) == 5


@pytest.mark.parametrize("anchors", [1, 3, "mean"])
def test_each_choice_is_judged_behind_the_ones_before(make, near, pool, anchors):
    rank = make(anchors=anchors).ranker(pool, range(len(pool)))
    differ = 0
    for question in [*QUESTIONS, *pool.questions[:6]]:
        places, expected = near.nearest([question], 6), []
        for _ in range(3):
            left = np.array([[one for one in places[0] if one not in expected]])
            estimates, _ = near.estimates([question], np.array([expected], dtype=int), left, anchors)
            expected.append(int(left[0, estimates[0].argmin()]))
        assert rank(question)[:3].tolist() == expected
        alone, _ = near.estimates([question], places[:, :0], places, anchors)
        differ += places[0][alone[0].argsort()][:3].tolist() != expected
    assert differ


# --- the ranker -------------------------------------------------------------------------------------------


def test_a_ranker_gives_each_of_the_nearest_rows_once(make, pool):
    rows = [22, 1, 9, 4, 17, 6, 13, 20]
    selector = make()
    assert isinstance(selector, RankerMaker)
    rank = selector.ranker(pool, rows)
    for question in (*QUESTIONS, *pool.questions):
        ranked = rank(question).tolist()
        assert len(ranked) == len(set(ranked)) == 6 and set(ranked) <= set(rows)
        assert rank(question).tolist() == ranked == make().ranker(pool, sorted(rows))(question).tolist()


@pytest.mark.parametrize("check", [0, 8])
@pytest.mark.parametrize("rows", [[5], [5, 3], [5, 3, 8]], ids=str)
def test_a_ranker_of_few_rows(make, pool, rows, check):
    assert sorted(make(check=check).ranker(pool, rows)(QUESTION)) == sorted(rows)


def test_a_ranker_answers_eight_threads_as_it_answers_one(make, pool):
    rank = make().ranker(pool, range(24))
    questions = [*QUESTIONS, *pool.questions[:9]] * 3
    expected = [rank(question).tolist() for question in questions]
    with ThreadPoolExecutor(8) as threads:
        assert [one.tolist() for one in threads.map(rank, questions)] == expected


def test_where_estimates_do_not_rank_the_nearest_come_in_their_own_order(make, trust, near, pool):
    trust(False)
    rank = make(check=8).ranker(pool, range(24))
    for question in QUESTIONS:
        assert rank(question).tolist() == near.nearest([question], 6)[0].tolist()
    trust(True)
    ranked = make(check=8).ranker(pool, range(24))
    assert any(ranked(question).tolist() != rank(question).tolist() for question in QUESTIONS)


def test_a_ranker_warns_or_refuses_as_asked(make, trust, pool):
    trust(False)
    with pytest.warns(EstimateWarning, match="rank correlation"):
        rank = make(check=8, on_bad_estimate="warn").ranker(pool, range(24))
    assert rank(QUESTION).tolist() == make().ranker(pool, range(24))(QUESTION).tolist()
    with pytest.raises(EstimateError, match="regret"):
        make(check=8, on_bad_estimate="error").ranker(pool, range(24))


def test_a_hybrid_prompt_ends_with_the_choice_nearest_to_the_query(make, pool, tokenizer_folder):
    selector = make(each=2)
    prompt = Hybrid(Random(tokenizer=tokenizer_folder), nearest=selector, m=2).fit(pool, 6)
    rank = selector.ranker(pool, prompt.rows)
    fields = {"text": "what is the exchange rate of my card"}
    assert prompt.rows_for(fields) == tuple(reversed(rank(QUESTION)[:2].tolist()))
    assert prompt.config["nearest"]["selector"] == "GradCE" and prompt.config["nearest"]["each"] == 2
    shown = prompt.prompt_for(fields).demonstrations
    assert len(shown) == len(set(shown)) == 8


def test_slots_of_a_ranker_leave_room_for_the_longest_question(make, pool, make_model, tokenizer):
    """As wide as the longest example, three of them and a question do not fit 96 positions."""
    proxy = Proxy.from_model(make_model(max_position_embeddings=96), tokenizer, name="short")
    near = make(proxy=proxy)._nearby(proxy, pool, np.arange(24))
    longest = 1 + max(len(tokens(proxy, question)) for question in pool.questions)
    assert near.texts.ids.shape[1] == (96 - longest) // 3
    rank = make(proxy=proxy).ranker(pool, range(24))
    assert all(len(rank(question)) == 6 for question in pool.questions)


def test_examples_longer_than_a_slot_in_a_ranker(make, pool, reader):
    wide = {row for row, text in enumerate(texts_of(pool)) if len(tokens(reader, text)) > 22}
    with pytest.raises(BudgetError, match="longer than a slot, rows") as caught:
        make(slot_width=22, on_too_long="error").ranker(pool, range(24))
    assert str(min(wide)) in str(caught.value)
    ranker = make(slot_width=22, on_too_long="skip", candidates=24).ranker(pool, range(24))
    assert set(ranker(QUESTION)) == set(range(24)) - wide
    with pytest.raises(BudgetError, match="all of them"):
        make(slot_width=5, on_too_long="skip").ranker(pool, range(24))
    assert len(make(slot_width=5).ranker(pool, range(24))(QUESTION)) == 6
    with pytest.raises(TooLongError):
        make(slot_width=800).ranker(pool, range(24))


def test_nan_is_not_ranked(make, pool, make_model, tokenizer):
    model = make_model("qwen2", max_position_embeddings=2048, tie_word_embeddings=False)
    proxy = Proxy.from_model(model, tokenizer, name="broken")
    rank = make(proxy=proxy).ranker(pool, range(24))
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="estimates"):
        rank(QUESTION)


# --- a fixed prompt ---------------------------------------------------------------------------------------


def test_as_a_selector_it_counts_the_votes_of_the_queries(make, pool):
    selection = make(queries=6, candidates=5, each=2).select(pool, 8)
    held_out = selection.details["skipped"]["held out as queries, or said by one of them"]
    rows = [row for row in range(24) if row not in held_out]
    rank = make(candidates=5, each=2).ranker(pool, rows)
    votes = Counter(row for query in held_out for row in rank(pool.questions[query])[:2].tolist())
    assert sum(votes.values()) == 12 and max(votes.values()) > 1
    assert list(selection.scores) == [votes[row] for row in selection.indices]
    assert list(selection.scores) == sorted((votes[row] for row in rows), reverse=True)[:8]


def test_shots_do_not_narrow_the_slots(make, records, pool):
    """Only `each` of them stand in front of a query at once, however many shots are chosen."""
    many = Pool.from_records(
        [{**one, "text": f"{one['text']} {copy}"} for copy in range(5) for one in records], pool.template
    )
    selection = make(queries=4, candidates=4, each=2).select(many, 76)
    assert "cut" not in selection.details and len(selection) == 76
