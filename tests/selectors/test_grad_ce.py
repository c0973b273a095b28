"""What GradCE promises: estimates for single queries, each choice behind the ones before, and a ranker."""

import copy
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from icl_plugins import GradCE, Hybrid, Pool, Proxy, Random
from icl_plugins.algorithms.honesty import EstimateQuality
from icl_plugins.errors import BudgetError, EstimateError, EstimateWarning, NonFiniteError, TooLongError
from icl_plugins.selectors import grad_ce
from icl_plugins.selectors._context import context_losses
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


def test_a_ranker_gives_each_row_once(make, pool):
    rows = [22, 1, 9, 4, 17, 6, 13, 20]
    selector = make()
    assert isinstance(selector, RankerMaker)
    rank = selector.ranker(pool, rows)
    for question in (*QUESTIONS, *pool.questions):
        ranked = rank(question).tolist()
        assert len(ranked) == len(set(ranked)) and set(ranked) == set(rows)
        assert rank(question).tolist() == ranked == make().ranker(pool, sorted(rows))(question).tolist()


@pytest.mark.parametrize("check", [0, 8])
@pytest.mark.parametrize("rows", [[5], [5, 3], [5, 3, 8]], ids=str)
def test_a_ranker_of_few_rows(make, pool, rows, check):
    assert sorted(make(check=check).ranker(pool, rows)(QUESTION)) == sorted(rows)


def test_behind_the_candidates_come_the_others_nearest_first(make, near, pool):
    rank = make(candidates=5, each=2).ranker(pool, range(24))
    for question in QUESTIONS:
        ranked, nearest = rank(question).tolist(), near.nearest([question], 24)[0].tolist()
        assert set(ranked[:5]) == set(nearest[:5]) and ranked[5:] == nearest[5:]


def test_a_hybrid_prompt_shows_more_than_there_are_candidates(make, pool, tokenizer_folder):
    selector = make(candidates=5, each=2)
    prompt = Hybrid(Random(tokenizer=tokenizer_folder), nearest=selector, m=8).fit(pool, 6)
    assert len(set(prompt.rows_for({"text": "my card"}))) == 8


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda rank: pickle.loads(pickle.dumps(rank))])  # noqa: S301
def test_copies_and_pickles_of_a_ranker_rank_the_same(make, trust, pool, copied):
    trust(True)
    rank = make(check=8).ranker(pool, range(24))
    again = copied(rank)
    assert again.about == rank.about
    for question in QUESTIONS:
        assert again(question).tolist() == rank(question).tolist()


def test_a_hybrid_prompt_tells_what_was_measured(make, trust, pool, tokenizer_folder):
    fixed = Random(tokenizer=tokenizer_folder).select(pool, 6)
    prompts = {}
    for verdict in (True, False):
        trust(verdict)
        hybrid = Hybrid(Random(), nearest=make(check=8))
        prompts[verdict] = hybrid.around(fixed)
        told = prompts[verdict].config["estimate"]
        assert told["fell_back"] is not verdict and told["subsets"] >= 8 and -1 <= told["low"] <= 1
        assert hybrid.around(fixed).fingerprint == prompts[verdict].fingerprint
    assert prompts[True].fingerprint != prompts[False].fingerprint
    unmeasured = Hybrid(Random(), nearest=make(), m=3).around(fixed)
    assert unmeasured.ranker.about == {} and "estimate" not in unmeasured.config


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
        assert rank(question).tolist() == near.nearest([question], 24)[0].tolist()
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
    assert all(len(rank(question)) == 24 for question in pool.questions)


def test_examples_longer_than_a_slot_in_a_ranker(make, pool, reader):
    wide = {row for row, text in enumerate(texts_of(pool)) if len(tokens(reader, text)) > 22}
    with pytest.raises(BudgetError, match="longer than a slot, rows") as caught:
        make(slot_width=22, on_too_long="error").ranker(pool, range(24))
    assert str(min(wide)) in str(caught.value)
    ranker = make(slot_width=22, on_too_long="skip", candidates=24).ranker(pool, range(24))
    assert set(ranker(QUESTION)) == set(range(24)) - wide
    with pytest.raises(BudgetError, match="24 .*longer than a slot"):
        make(slot_width=5, on_too_long="skip").ranker(pool, range(24))
    assert len(make(slot_width=5).ranker(pool, range(24))(QUESTION)) == 24
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


# --- what is measured -------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch):
    """Collects the groups that estimates are measured on."""
    groups = []

    def estimate_quality(found):
        groups.extend(found)
        return whole(found)

    whole = grad_ce.estimate_quality
    monkeypatch.setattr(grad_ce, "estimate_quality", estimate_quality)
    return groups


@pytest.mark.parametrize("anchors", [1, 3, "mean"])
def test_real_losses_are_those_of_prompts_as_sent_behind_what_was_chosen(
    make, near, pool, reader, measured, anchors
):
    """Round by round: what stands in front is what the estimates chose, and no anchor is measured."""
    selector = make(anchors=anchors, check=20)
    selector._quality(near, list(QUESTIONS), near.nearest(QUESTIONS, 6))
    texts = texts_of(pool)
    exact = 0 if anchors == "mean" else anchors
    for done, question in enumerate(QUESTIONS):
        chosen, left = [], near.nearest([question], 6)[0].tolist()
        for _ in range(done):
            estimates, _ = near.estimates(
                [question], np.array([chosen], dtype=int), np.array([left]), anchors
            )
            chosen.append(left.pop(int(estimates[0].argmin())))
        estimates, at_anchor = near.estimates(
            [question], np.array([chosen], dtype=int), np.array([left]), anchors
        )
        skipped = exact if len(left) - exact >= 2 else 0
        fronts = ["".join(texts[place] for place in [*chosen, last]) for last in left[skipped:]]
        real = [context_losses(reader, [], "", [front], [question])[0] for front in fronts]
        np.testing.assert_allclose(measured[done].real, real, rtol=1e-5)
        np.testing.assert_allclose(measured[done].estimates, estimates[0, skipped:], rtol=1e-5)
        assert measured[done].anchor == pytest.approx(at_anchor[0])


def test_the_loss_of_a_question_is_that_of_its_tokens_in_a_plain_prompt(near, pool, reader):
    places = near.nearest([QUESTION], 3)[0]
    fits, real = near.losses(QUESTION, places[:1], places[1:])
    assert fits.all()
    for last, loss in zip(places[1:], real, strict=True):
        front = texts_of(pool)[places[0]] + texts_of(pool)[last]
        behind = reader.tokenizer(front + QUESTION, return_tensors="pt")["input_ids"]
        start = behind.shape[1] - len(tokens(reader, QUESTION))
        logits = reader.model(behind).logits[0, start - 1 : -1].detach().log_softmax(-1)
        assert loss == pytest.approx(float(-logits.gather(1, behind[0, start:, None]).sum()), rel=1e-5)


@pytest.mark.parametrize("anchors", [1, 4, 20, "mean"])
@pytest.mark.parametrize("check", [8, 40])
@pytest.mark.parametrize("each", [1, 3, 9])
def test_at_least_so_many_subsets_are_measured_as_asked(make, pool, measured, anchors, check, each):
    rank = make(check=check, anchors=anchors, each=each, on_bad_estimate="fallback").ranker(pool, range(24))
    sizes = [len(group.real) for group in measured]
    assert rank.about["estimate"]["subsets"] == sum(sizes) >= check and min(sizes) > 1
    assert len(set(sizes)) > 1 or each == 1


def test_a_selector_measures_as_many_too_where_it_has_the_queries(make, pool):
    details = make(queries=6, check=12, candidates=5, each=2).select(pool, 4).details
    assert details["estimate"]["subsets"] >= 12


def test_no_estimate_is_measured_where_it_is_exact(make, pool, measured):
    make(check=30, candidates=10).ranker(pool, range(24))
    assert not any(np.isclose(group.estimates, group.anchor, rtol=1e-9).any() for group in measured)


def test_prompts_that_do_not_fit_the_proxy_are_not_measured(make, pool, make_model, tokenizer):
    def ranker(length, rows=range(24), **settings):
        model = make_model(max_position_embeddings=length)
        proxy = Proxy.from_model(model, tokenizer, name="short")
        return make(proxy=proxy, check=12, **settings).ranker(pool, rows)

    lengths = [
        [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
        for texts in (pool.questions, texts_of(pool))
    ]
    assert ranker(1 + max(lengths[0]) + max(lengths[1]), each=2).about["estimate"]["subsets"] < 12
    with pytest.raises(TooLongError, match="lower each"):
        ranker(2 + max(lengths[0]), np.argsort(lengths[0])[-6:], each=1)


def test_estimates_hold_few_queries_at_once(near, monkeypatch):
    left, before = np.array([[7, 1, 20], [2, 3, 4], [9, 1, 0]]), np.array([[5], [6], [8]])
    expected = near.estimates(QUESTIONS, before, left, 2)
    held, width, numbers = [], near.texts.ids.shape[1], near.texts.embeddings.shape[1]
    monkeypatch.setattr(grad_ce, "_BLOCK", 2 * (1 + 1 + 3) * width * numbers + 1)
    monkeypatch.setattr(grad_ce, "questions_of", spy(grad_ce.questions_of, held))
    for found, whole in zip(near.estimates(QUESTIONS, before, left, 2), expected, strict=True):
        np.testing.assert_allclose(found, whole, rtol=1e-5)
    assert held == [2, 1]
    monkeypatch.setattr(grad_ce, "_BLOCK", 1)
    np.testing.assert_allclose(near.estimates(QUESTIONS, before, left, 2)[0], expected[0], rtol=1e-5)
    assert held == [2, 1, 1, 1, 1]


def spy(function, held):
    def called(proxy, questions):
        held.append(len(questions))
        return function(proxy, questions)

    return called


def test_published_settings_score_single_demonstrations(reader, near, pool):
    paper = GradCE.paper(proxy=reader, check=0, candidates=6)
    assert (paper.each, paper.anchors, paper.on_bad_estimate) == (1, 1, "warn")
    places = near.nearest([QUESTION], 6)
    estimates, _ = near.estimates([QUESTION], places[:, :0], places, 1)
    ranked = paper.ranker(pool, range(24))(QUESTION)[:6]
    assert ranked.tolist() == places[0][estimates[0].argsort(kind="stable")].tolist()


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
