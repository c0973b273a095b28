"""Losses behind slots against plain forwards, their gradient against finite differences."""

import numpy as np
import pytest
import torch

from icl_plugins import Pool, Template
from icl_plugins.algorithms.slots import slot_table
from icl_plugins.errors import BudgetError, TooLongError
from icl_plugins.proxy.model import Proxy
from icl_plugins.proxy.slots import Slots, make_slots, slot_gradients, slot_losses


@pytest.fixture(scope="module")
def pool():
    words = ("my card has not arrived", "what is the rate", "I lost my phone yesterday")
    rows = [
        {"text": f"{words[row % 3]} {row}", "label": ("card", "rate", "phone")[row % 3]} for row in range(24)
    ]
    return Pool.from_records(rows, Template("Query: {text}\nIntent:", " {label}"))


@pytest.fixture
def exact(make_proxy_of):
    return make_proxy_of("llama")


@pytest.fixture
def make_proxy_of(make_model, tokenizer):
    return lambda architecture: Proxy.from_model(
        make_model(architecture, max_position_embeddings=512).double(), tokenizer
    )


@pytest.fixture
def queries(exact, pool):
    return exact.encode(pool.subset(range(18, 24)))


def texts_of(pool, rows):
    return [pool.texts[row] + pool.template.separator for row in rows]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
def test_without_pads_the_losses_are_those_of_the_whole_text(architecture, make_proxy_of, pool):
    """One slot as wide as its text."""
    proxy = make_proxy_of(architecture)
    queries = proxy.encode(pool.subset(range(18, 24)))
    (text,) = texts_of(pool, [0])
    width = proxy.encoder.count([text])[0]
    losses = slot_losses(proxy, make_slots(proxy, [text], width), queries)
    lead = proxy.encoder.leading
    ids = proxy.encoder.tokenize([text], add_special_tokens=False)[0][0]
    for query, loss in zip(queries, losses.tolist(), strict=True):
        whole = [*query.ids[:lead], *ids, *query.ids[lead:]]
        with torch.no_grad():
            log_p = proxy.model.eval()(torch.tensor([whole])).logits[0].log_softmax(-1)
        answer = range(query.answer_start + width, query.answer_stop + width)
        assert loss == pytest.approx(-sum(float(log_p[at - 1, whole[at]]) for at in answer), abs=1e-8)


def test_the_anchor_has_its_own_loss_and_the_gradient_is_that_of_the_mean(exact, pool, queries):
    slots = make_slots(exact, texts_of(pool, [0, 1, 2]), 24)
    losses, gradient = slot_gradients(exact, slots, queries)
    np.testing.assert_allclose(losses, slot_losses(exact, slots, queries), atol=1e-10)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        step = torch.randn(slots.embeddings.shape, generator=generator, dtype=torch.float64)
        moved = [Slots(slots.embeddings + size * step, slots.shown) for size in (1e-3, -1e-3)]
        ends = [slot_losses(exact, one, queries).mean() for one in moved]
        expected = (gradient.double() * step).sum()
        # the norms of the model are computed in float32, whatever its weights are
        assert float((ends[0] - ends[1]) / 2e-3) == pytest.approx(float(expected), rel=2e-3, abs=1e-4)


def test_pads_are_seen_by_nobody_and_move_nothing(exact, pool, queries):
    """Whatever stands at a pad, the losses stay, and the gradient there is 0."""
    slots = make_slots(exact, texts_of(pool, [3, 4]), 30)
    filled = Slots(torch.where(slots.shown[..., None], slots.embeddings, 7.0), slots.shown)
    losses = slot_losses(exact, slots, queries)
    np.testing.assert_allclose(slot_losses(exact, filled, queries), losses, atol=1e-10)
    _, gradient = slot_gradients(exact, slots, queries)
    assert (gradient[~slots.shown] == 0).all() and (gradient[slots.shown] != 0).any()


def test_queries_do_not_depend_on_their_company(exact, pool, queries):
    slots = make_slots(exact, texts_of(pool, [5, 6]), 24)
    alone = [float(slot_losses(exact, slots, [query])[0]) for query in queries]
    np.testing.assert_allclose(slot_losses(exact, slots, queries), alone, atol=1e-9)


def test_the_table_of_the_gradient_estimates_the_anchor_exactly(exact, pool, queries):
    candidates = make_slots(exact, texts_of(pool, range(12)), 24)
    anchor = candidates.at([4, 0, 2])
    losses, gradient = slot_gradients(exact, anchor, queries)
    table = slot_table(
        gradient.double().numpy(),
        candidates.embeddings.numpy(),
        anchor.embeddings.numpy(),
        float(losses.mean()),
    )
    assert table.outcomes(np.array([[4, 0, 2]]))[0] == pytest.approx(float(losses.mean()), abs=1e-9)


def test_the_model_stays_as_it_came(exact, pool, queries):
    exact.model.train()
    slot_gradients(exact, make_slots(exact, texts_of(pool, [0]), 24), queries)
    assert exact.model.training and all(weight.grad is None for weight in exact.model.parameters())


def test_what_does_not_fit_is_refused(exact, pool, queries):
    with pytest.raises(BudgetError, match=r"2 of 2 texts longer than a slot, rows \[0, 1\]"):
        make_slots(exact, texts_of(pool, [0, 1]), 2)
    with pytest.raises(TooLongError, match="20 slots of 30 tokens"):
        slot_losses(exact, make_slots(exact, texts_of(pool, range(20)), 30), queries)
