"""Gradients of whole prompts: the estimate at the anchor is its own loss, and small steps are foretold."""

import pytest
import torch

from icl_plugins import Pool, Template
from icl_plugins.errors import TooLongError
from icl_plugins.proxy.joined_gradients import joined_gradients
from icl_plugins.proxy.model import Proxy


@pytest.fixture
def pool():
    words = ("my card has not arrived", "what is the rate", "I lost my phone yesterday")
    rows = [{"text": f"{words[row % 3]} {row}", "label": words[row % 3][:5]} for row in range(12)]
    return Pool.from_records(rows, Template("Query: {text}\nIntent:", " {label}"))


@pytest.fixture
def exact(make_model, tokenizer):
    return Proxy.from_model(make_model("llama", max_position_embeddings=256).double(), tokenizer)


@pytest.fixture
def queries(exact, pool):
    return exact.encode(pool.subset(range(4)))


@pytest.fixture
def shown(exact, pool):
    texts = [pool.texts[row] + pool.template.separator for row in (8, 9)]
    return [token for ids, _ in exact.encoder.tokenize(texts, add_special_tokens=False) for token in ids]


def test_losses_are_those_of_the_answers_in_the_whole_prompt(exact, queries, shown):
    lead = exact.encoder.leading
    for row, loss, _, embeddings in joined_gradients(exact, shown, queries):
        query = queries[row]
        whole = [*query.ids[:lead], *shown, *query.ids[lead:]]
        with torch.no_grad():
            log_p = exact.model.eval()(torch.tensor([whole])).logits[0].log_softmax(-1)
        answer = range(query.answer_start + len(shown), query.answer_stop + len(shown))
        assert loss == pytest.approx(-sum(float(log_p[at - 1, whole[at]]) for at in answer), abs=1e-6)
        assert len(embeddings) == len(whole) - lead


def test_gradients_foretell_small_steps_and_are_zero_behind_the_last_answer(exact, queries, shown):
    lead = exact.encoder.leading
    row, loss, gradient, embeddings = next(iter(joined_gradients(exact, shown, queries[:1])))
    query = queries[row]
    assert (gradient[query.answer_stop - 1 + len(shown) - lead :] == 0).all()
    step = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0))
    begin = exact.model.get_input_embeddings()(torch.tensor(query.ids[:lead]))
    ends = []
    for size in (1e-3, -1e-3):
        moved = torch.cat([begin, (embeddings + size * step).double()])[None]
        with torch.no_grad():
            log_p = exact.model(inputs_embeds=moved).logits[0].log_softmax(-1)
        answer = range(query.answer_start, query.answer_stop)
        ends.append(-sum(float(log_p[at - 1 + len(shown), query.ids[at]]) for at in answer))
    assert (ends[0] - ends[1]) / 2e-3 == pytest.approx(float((gradient * step).sum()), rel=5e-3, abs=1e-3)


def test_prompts_beyond_the_context_are_refused(exact, queries):
    with pytest.raises(TooLongError, match="300 tokens of demonstrations"):
        list(joined_gradients(exact, [5] * 300, queries))
