"""Texts as slots: where their tokens stand, and what stands there."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from icl_plugins.proxy.slots import Slots, SlotTexts

texts = st.lists(st.lists(st.integers(2, 329), max_size=9), min_size=1, max_size=8)
widths = st.integers(1, 7)


def kept(tokens, width):
    """The definition: (width,) token ids of a slot, None for pads."""
    last = tokens[-width:]
    return [None] * (width - len(last)) + last


def embedding(proxy, token):
    with torch.no_grad():
        return proxy.model.get_input_embeddings()(torch.tensor(token))


@given(texts, widths)
def test_tokens_stand_at_the_right_end_and_the_first_ones_go(proxy, tokens, width):
    tokens = [*tokens, [5]]
    slots = SlotTexts.of(proxy, tokens, width)
    assert slots.ids.shape == (len(tokens), width) and slots.ids.dtype == np.int64
    for row, one in zip(slots.ids, tokens, strict=True):
        for place, token in zip(row, kept(one, width), strict=True):
            assert (place == -1) == (token is None)
            if token is not None:
                assert (slots.embeddings[place] == embedding(proxy, token)).all()


@given(texts, widths)
def test_the_vocabulary_holds_each_token_that_is_left_once(proxy, tokens, width):
    slots = SlotTexts.of(proxy, [*tokens, [5]], width)
    left = {token for one in [*tokens, [5]] for token in one[-width:]}
    assert slots.embeddings.shape == (len(left), 16)
    assert set(slots.ids.flatten().tolist()) - {-1} == set(range(len(left)))
    assert not slots.embeddings.requires_grad


@given(texts, widths, st.data())
def test_rows_are_what_stands_in_the_slots_and_nothing_at_pads(proxy, tokens, width, data):
    tokens = [*tokens, [5]]
    rows = data.draw(st.lists(st.integers(0, len(tokens) - 1), min_size=1, max_size=5))
    found = SlotTexts.of(proxy, tokens, width).at(rows)
    assert found.embeddings.shape == (len(rows), width, 16)
    for slot, row in enumerate(rows):
        for place, token in enumerate(kept(tokens[row], width)):
            assert bool(found.shown[slot, place]) == (token is not None)
            expected = torch.zeros(16) if token is None else embedding(proxy, token)
            assert (found.embeddings[slot, place] == expected).all()


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 3), (2, 1, 3)])
def test_rows_of_any_shape_are_taken(proxy, shape):
    slots = SlotTexts.of(proxy, [[7, 8], [9], [7, 9, 11], [12] * 6], 4)
    rows = np.random.default_rng(0).integers(4, size=shape)
    found, flat = slots.at(rows), slots.at(rows.flatten())
    assert found.embeddings.shape == (*shape, 4, 16) and found.shown.shape == (*shape, 4)
    assert (found.embeddings.flatten(0, -3) == flat.embeddings).all()
    assert (found.shown.flatten(0, -2) == flat.shown).all()
    if shape != (0,):
        again = slots.at(rows.tolist())
        assert (again.embeddings == found.embeddings).all()


@given(texts, widths, st.data())
def test_the_mean_is_that_of_the_tokens_at_a_place_and_shown_where_half_of_the_rows_have_one(
    proxy, tokens, width, data
):
    tokens = [*tokens, [5]]
    rows = data.draw(st.lists(st.integers(0, len(tokens) - 1), min_size=1, max_size=8))
    found = SlotTexts.of(proxy, tokens, width).mean(3, rows)
    assert found.embeddings.shape == (3, width, 16) and found.shown.shape == (3, width)
    for place in range(width):
        there = [token for row in rows if (token := kept(tokens[row], width)[place]) is not None]
        shown = len(there) * 2 >= len(rows)
        expected = torch.stack([embedding(proxy, token) for token in there]).mean(0) if shown else 0
        for slot in range(3):
            assert bool(found.shown[slot, place]) == shown
            torch.testing.assert_close(
                found.embeddings[slot, place], torch.zeros(16) + expected, rtol=1e-5, atol=1e-6
            )


def test_the_mean_of_one_row_is_that_row(proxy):
    slots = SlotTexts.of(proxy, [[7, 8], [9]], 4)
    mean, row = slots.mean(2, [1]), slots.at([1, 1])
    assert (mean.shown == row.shown).all()
    torch.testing.assert_close(mean.embeddings, row.embeddings)


def test_slots_follow_each_other(proxy):
    texts = SlotTexts.of(proxy, [[7, 8], [9], [10, 11, 12]], 4)
    both, whole = texts.at([2, 0]) + texts.at([1]), texts.at([2, 0, 1])
    assert (both.embeddings == whole.embeddings).all() and (both.shown == whole.shown).all()
    none = texts.at([]) + texts.at([1])
    assert isinstance(none, Slots) and (none.embeddings == texts.at([1]).embeddings).all()


@pytest.mark.parametrize("architecture", ["gemma3_text", "opt"])
def test_embeddings_are_those_that_the_first_layer_gets(architecture, make_model, tokenizer):
    """Scaled where the embedding module scales; of its width where that is not the hidden size."""
    from icl_plugins.proxy.model import Proxy

    proxy = Proxy.from_model(make_model(architecture), tokenizer)
    found = SlotTexts.of(proxy, [[7, 8, 9]], 3).at([0]).embeddings
    ids = torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        expected = proxy.model.eval()(input_ids=ids).logits
        torch.testing.assert_close(proxy.model(inputs_embeds=found).logits, expected)
