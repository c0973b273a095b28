"""Losses behind slots against plain forwards, gradients against finite differences, packs against batches."""

from itertools import chain

import numpy as np
import pytest
import torch
from test_model import state_hash
from tiny_models import ARCHITECTURES, tiny_model, tiny_tokenizer

from icl_plugins import Pool, Template
from icl_plugins.algorithms.slots import mean_table, slot_table
from icl_plugins.errors import TooLongError
from icl_plugins.proxy import slot_gradients as module
from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.model import Proxy
from icl_plugins.proxy.slot_gradients import check_fit, query_gradients, query_losses, slot_gradients
from icl_plugins.proxy.slots import Slots, SlotTexts

WIDTH = 24


@pytest.fixture(scope="module")
def pool():
    words = ("my card has not arrived", "what is the rate", "I lost my phone yesterday")
    rows = [
        {"text": f"{words[row % 3]} {row}", "label": ("card", "rate", "phone")[row % 3]} for row in range(24)
    ]
    return Pool.from_records(rows, Template("Query: {text}\nIntent:", " {label}"))


@pytest.fixture(scope="module")
def make_exact(tokenizer):
    """Return a factory of proxies in float64; of each kind one, to be left as it is."""
    made = {}

    def make(architecture="llama", **overrides):
        key = f"{architecture} {overrides}"
        if key not in made:
            model = tiny_model(architecture, max_position_embeddings=512, **overrides).double()
            made[key] = Proxy.from_model(model, tokenizer)
        return made[key]

    return make


@pytest.fixture
def exact(make_exact):
    return make_exact("llama")


@pytest.fixture(scope="module")
def queries(make_exact, pool):
    return make_exact("llama").encode(pool.subset(range(18, 24)))


def tokens_of(proxy, pool, rows):
    texts = [pool.texts[row] + pool.template.separator for row in rows]
    return [ids for ids, _ in proxy.encoder.tokenize(texts, add_special_tokens=False)]


def texts_of(proxy, pool, rows=range(12), width=WIDTH):
    return SlotTexts.of(proxy, tokens_of(proxy, pool, rows), width)


def in_batches(monkeypatch, proxy):
    monkeypatch.setattr(proxy.shared_prefix, "way", "rows")


def one_by_one(proxy, slots, queries):
    """Losses (Q,) and gradients (Q, k, T, h) of each query, put back into their order."""
    losses = torch.full((len(queries),), torch.nan, dtype=torch.float64)
    gradients = torch.full((len(queries), *slots.embeddings.shape[-3:]), torch.nan)
    for rows, values, found in query_gradients(proxy, slots, queries):
        losses[rows], gradients[rows] = values, found
    return losses, gradients


def plain_losses(model, ids, positions, queries, lead):
    """The definition: a plain forward of each whole text at its positions, nothing padded."""
    losses = []
    for query in queries:
        whole = torch.tensor([[*query.ids[:lead], *ids, *query.ids[lead:]]])
        behind = positions[-1] + 1 + torch.arange(len(query.ids) - lead)
        at = torch.cat([torch.arange(lead), torch.tensor(positions), behind])[None]
        with torch.no_grad():
            seen = torch.ones_like(whole)
            log_p = model.eval()(whole, position_ids=at, attention_mask=seen).logits[0].log_softmax(-1)
        answer = range(query.answer_start + len(ids), query.answer_stop + len(ids))
        losses.append(-sum(float(log_p[one - 1, whole[0, one]]) for one in answer))
    return losses


@pytest.mark.parametrize("way", ["tree", "rows"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_without_pads_the_losses_are_those_of_the_whole_text(
    architecture, way, make_exact, pool, queries, monkeypatch
):
    """One slot as wide as its text, wider than the window of sliding layers."""
    proxy = make_exact(architecture)
    if architecture == "bloom" or way == "rows":
        in_batches(monkeypatch, proxy)
    (tokens,) = tokens_of(proxy, pool, [2])
    assert len(tokens) > 16
    losses, _ = slot_gradients(proxy, SlotTexts.of(proxy, [tokens], len(tokens)).at([0]), queries)
    lead = proxy.encoder.leading
    positions = list(range(lead, lead + len(tokens)))
    expected = plain_losses(proxy.model, tokens, positions, queries, lead)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("way", ["tree", "rows"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "opt", "gpt_neox", "cohere"])
def test_pads_keep_their_place_and_are_seen_by_nobody(
    architecture, way, make_exact, pool, queries, monkeypatch
):
    """As if the tokens stood alone at the right ends of their slots, with nothing between them."""
    proxy = make_exact(architecture)
    monkeypatch.setattr(proxy.shared_prefix, "way", way)
    tokens, lead = tokens_of(proxy, pool, [3, 4, 5]), proxy.encoder.leading
    losses, _ = slot_gradients(proxy, SlotTexts.of(proxy, tokens, 30).at([0, 1, 2]), queries)
    ends = [lead + 30 * (slot + 1) for slot in range(3)]
    positions = [at for one, end in zip(tokens, ends, strict=True) for at in range(end - len(one), end)]
    expected = plain_losses(proxy.model, list(chain.from_iterable(tokens)), positions, queries, lead)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("architecture", "overrides"),
    [
        *((architecture, {}) for architecture in ARCHITECTURES if architecture != "bloom"),
        ("mistral", {"sliding_window": 12}),
        ("gemma2", {"sliding_window": 40}),
        ("gemma3_text", {"layer_types": ["sliding_attention", "full_attention"]}),
    ],
)
def test_packs_give_what_batches_give(architecture, overrides, make_exact, pool, queries, monkeypatch):
    """The whole, and query by query; also where sliding layers see less than a slot, or than two."""
    proxy = make_exact(architecture, **overrides)
    slots = texts_of(proxy, pool).at([4, 0, 2])
    assert proxy.shared_prefix.packs, proxy.shared_prefix.reason
    losses, gradient = slot_gradients(proxy, slots, queries)
    packed = [slot_gradients(proxy, slots, [query]) for query in queries]
    in_batches(monkeypatch, proxy)
    expected, of_mean = slot_gradients(proxy, slots, queries)
    singly, gradients = one_by_one(proxy, slots, queries)
    for one in (losses, singly, query_losses(proxy, slots, queries), torch.cat([one for one, _ in packed])):
        np.testing.assert_allclose(one, expected, rtol=1e-5)
    scale = of_mean.abs().max()
    assert scale > 0
    for one in (gradient, gradients.mean(0), torch.stack([one for _, one in packed]).mean(0)):
        assert (one - of_mean).abs().max() < 1e-4 * scale
    for (_, one), other in zip(packed, gradients, strict=True):
        assert (one - other).abs().max() < 1e-4 * scale


def test_a_model_that_cannot_pack_goes_in_batches(make_exact, pool, queries):
    proxy = make_exact("bloom")
    assert proxy.shared_prefix.way == "rows"
    slots = texts_of(proxy, pool).at([4, 0, 2])
    losses, gradient = slot_gradients(proxy, slots, queries)
    singly, gradients = one_by_one(proxy, slots, queries)
    np.testing.assert_allclose(losses, singly, rtol=1e-6)
    np.testing.assert_allclose(losses, query_losses(proxy, slots, queries), rtol=1e-6)
    assert (gradient - gradients.mean(0)).abs().max() < 1e-5 * gradient.abs().max()
    assert (gradient[~slots.shown] == 0).all()


@pytest.mark.parametrize("way", ["tree", "rows"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_the_gradient_is_that_of_the_mean_loss(architecture, way, make_exact, pool, queries, monkeypatch):
    """Finite differences along random directions."""
    proxy = make_exact(architecture)
    slots = texts_of(proxy, pool).at([0, 1, 2])
    monkeypatch.setattr(proxy.shared_prefix, "way", way)
    _, gradient = slot_gradients(proxy, slots, queries)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        step = torch.randn(slots.embeddings.shape, generator=generator, dtype=torch.float64)
        moved = [Slots(slots.embeddings + size * step, slots.shown) for size in (1e-3, -1e-3)]
        ends = [query_losses(proxy, one, queries).mean() for one in moved]
        expected = (gradient.double() * step).sum()
        # the norms of the model are computed in float32, whatever its weights are
        assert float((ends[0] - ends[1]) / 2e-3) == pytest.approx(float(expected), rel=2e-3, abs=2e-4)


@pytest.mark.parametrize("way", ["tree", "rows"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_whatever_stands_at_a_pad_moves_nothing(architecture, way, make_exact, pool, queries, monkeypatch):
    proxy = make_exact(architecture)
    monkeypatch.setattr(proxy.shared_prefix, "way", way)
    slots = texts_of(proxy, pool, [3, 4], 30).at([0, 1])
    filled = Slots(torch.where(slots.shown[..., None], slots.embeddings, 7.0), slots.shown)
    losses, gradient = slot_gradients(proxy, slots, queries)
    again, same = slot_gradients(proxy, filled, queries)
    np.testing.assert_allclose(again, losses, atol=1e-10)
    np.testing.assert_allclose(same, gradient, atol=1e-6)
    np.testing.assert_allclose(
        query_losses(proxy, filled, queries), query_losses(proxy, slots, queries), atol=1e-10
    )
    for one in (gradient, same):
        assert (one[~slots.shown] == 0).all() and (one[slots.shown] != 0).any(-1).all()


@pytest.mark.parametrize("way", ["tree", "rows"])
def test_queries_do_not_depend_on_their_company_or_order(way, make_exact, pool, queries, monkeypatch):
    proxy = make_exact("llama")
    monkeypatch.setattr(proxy.shared_prefix, "way", way)
    slots = texts_of(proxy, pool).at([5, 6])
    losses, gradient = slot_gradients(proxy, slots, queries)
    alone = [float(slot_gradients(proxy, slots, [query])[0]) for query in queries]
    np.testing.assert_allclose(losses, alone, rtol=1e-6)
    turned, same = slot_gradients(proxy, slots, queries[::-1])
    np.testing.assert_allclose(turned.flip(0), losses, rtol=1e-6)
    np.testing.assert_allclose(same, gradient, atol=1e-5)


@pytest.mark.parametrize("way", ["tree", "rows"])
@pytest.mark.parametrize("tokens", [1, 40, 10_000])
def test_batches_of_any_size_give_the_same(way, tokens, make_exact, pool, queries, monkeypatch):
    proxy = make_exact("llama")
    slots = texts_of(proxy, pool).at([5, 6])
    monkeypatch.setattr(proxy.shared_prefix, "way", way)
    expected, of_mean = slot_gradients(proxy, slots, queries)
    for budget in (proxy.budget, proxy.shared_prefix.budget):
        monkeypatch.setattr(budget, "tokens", tokens)
    losses, gradient = slot_gradients(proxy, slots, queries)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, of_mean, atol=1e-5)


def test_out_of_memory_halves_the_packs_and_counts_no_query_twice(make_exact, pool, queries, monkeypatch):
    proxy = make_exact("llama")
    slots = texts_of(proxy, pool).at([5, 6])
    expected, of_mean = slot_gradients(proxy, slots, queries)
    real, sizes = module._packed_losses, []

    def tight(proxy, state, places, pack):
        sizes.append(len(pack))
        if len(pack) > 2:
            raise torch.OutOfMemoryError
        return real(proxy, state, places, pack)

    monkeypatch.setattr(module, "_packed_losses", tight)
    monkeypatch.setattr(proxy.shared_prefix.budget, "tokens", proxy.shared_prefix.budget.tokens)
    losses, gradient = slot_gradients(proxy, slots, queries)
    assert sizes[0] == len(queries)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, of_mean, atol=1e-5)


def test_a_head_that_must_see_every_position_changes_nothing(make_exact, pool, queries, monkeypatch):
    proxy = make_exact("llama")
    slots = texts_of(proxy, pool).at([5, 6])
    expected, of_mean = slot_gradients(proxy, slots, queries)
    monkeypatch.setattr(proxy, "slice_head", not proxy.slice_head)
    losses, gradient = slot_gradients(proxy, slots, queries)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, of_mean, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gpt2"])
def test_slots_of_each_query_are_as_one_query_at_a_time(architecture, make_exact, pool, queries):
    proxy = make_exact(architecture)
    texts = texts_of(proxy, pool)
    rows = np.random.default_rng(0).integers(12, size=(len(queries), 3))
    slots = texts.at(rows)
    losses, gradients = one_by_one(proxy, slots, queries)
    np.testing.assert_allclose(query_losses(proxy, slots, queries), losses, rtol=1e-6)
    for query, row, loss, gradient in zip(queries, rows, losses, gradients, strict=True):
        expected, of_one = slot_gradients(proxy, texts.at(row), [query])
        np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
        assert (gradient - of_one).abs().max() < 1e-4 * of_one.abs().max()
    assert (gradients[~slots.shown] == 0).all()


@pytest.mark.parametrize("way", ["tree", "rows"])
def test_a_tokenizer_that_puts_nothing_in_front_is_no_exception(way, pool, monkeypatch):
    """The first tokens are then pads, which see nothing."""
    from tokenizers import processors

    bare = tiny_tokenizer()
    bare.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    proxy = Proxy.from_model(tiny_model(max_position_embeddings=512).double(), bare)
    assert proxy.encoder.leading == 0
    monkeypatch.setattr(proxy.shared_prefix, "way", way)
    queries = proxy.encode(pool.subset(range(18, 24)))
    tokens = tokens_of(proxy, pool, [3, 4])
    slots = SlotTexts.of(proxy, tokens, 30).at([0, 1])
    losses, gradient = slot_gradients(proxy, slots, queries)
    positions = [
        at for slot, one in enumerate(tokens) for at in range(30 * slot + 30 - len(one), 30 * slot + 30)
    ]
    expected = plain_losses(proxy.model, list(chain.from_iterable(tokens)), positions, queries, 0)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    assert gradient.isfinite().all() and (gradient[~slots.shown] == 0).all()


@pytest.mark.parametrize("way", ["tree", "rows"])
def test_an_answer_without_a_question_follows_the_last_slot(way, exact, pool, monkeypatch):
    monkeypatch.setattr(exact.shared_prefix, "way", way)
    queries = [Encoded([0, 7, 8], 1, 3), Encoded([0, 9, 10, 11], 2, 4)]
    slots = texts_of(exact, pool).at([5, 6])
    losses, gradient = slot_gradients(exact, slots, queries)
    tokens = list(chain.from_iterable(tokens_of(exact, pool, [5, 6])))
    positions = (1 + slots.shown.flatten().nonzero()[:, 0]).tolist()
    np.testing.assert_allclose(losses, plain_losses(exact.model, tokens, positions, queries, 1), rtol=1e-6)
    _, gradients = one_by_one(exact, slots, queries)
    np.testing.assert_allclose(gradient, gradients.mean(0), atol=1e-5)


def table_of(losses, gradient, texts, anchor):
    parts = (texts.ids, texts.embeddings.numpy(), anchor.embeddings.numpy())
    return slot_table(gradient.double().numpy(), *parts, float(losses.mean()))


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "bloom"])
def test_the_estimate_of_the_anchor_is_its_loss(architecture, make_exact, pool, queries):
    """Zero difference: the loss of the anchor itself, and of the same subset in a forward of its own."""
    proxy = make_exact(architecture)
    texts = texts_of(proxy, pool)
    anchor = texts.at([4, 0, 2])
    losses, gradient = slot_gradients(proxy, anchor, queries)
    (estimate,) = table_of(losses, gradient, texts, anchor).outcomes(np.array([[4, 0, 2]]))
    assert estimate == pytest.approx(float(losses.mean()), abs=1e-9)
    real = float(query_losses(proxy, texts.at([4, 0, 2]), queries).mean())
    # only LayerNorm stays in float64
    assert estimate == pytest.approx(real, abs=1e-9 if architecture in ("gpt2", "bloom") else 1e-5)


def test_the_table_of_the_mean_gradient_is_the_mean_of_the_tables_of_the_queries(exact, pool, queries):
    texts = texts_of(exact, pool)
    anchor = texts.mean(3, range(12))
    whole = table_of(*slot_gradients(exact, anchor, queries), texts, anchor)
    each = [
        table_of(loss, gradient, texts, anchor)
        for loss, gradient in zip(*one_by_one(exact, anchor, queries), strict=True)
    ]
    np.testing.assert_allclose(mean_table(each).table, whole.table, atol=1e-5)
    assert mean_table(each).constant == pytest.approx(whole.constant, abs=1e-5)


def test_estimates_near_the_anchor_are_the_losses_there(exact, pool, queries):
    """A thousandth of the way to other subsets, the error is of the order of its square."""
    texts = texts_of(exact, pool, width=16)
    anchor, others = texts.mean(3, range(12)), [[0, 1, 2], [5, 3, 8], [11, 4, 9]]
    table = table_of(*slot_gradients(exact, anchor, queries), texts, anchor)
    start = float(query_losses(exact, anchor, queries).mean())
    for rows in others:
        there = texts.at(rows)
        moved = Slots(anchor.embeddings + 1e-3 * (there.embeddings - anchor.embeddings), anchor.shown)
        real = float(query_losses(exact, moved, queries).mean()) - start
        (estimate,) = table.outcomes(np.array([rows])) - start
        assert real == pytest.approx(1e-3 * estimate, rel=0.05, abs=2e-6)


@pytest.mark.parametrize("way", ["tree", "rows"])
def test_the_model_and_the_slots_stay_as_they_came(way, make_model, tokenizer, pool, monkeypatch):
    """Training with dropout, gradients off: neither shows in the losses."""
    proxy = Proxy.from_model(make_model("gpt2", max_position_embeddings=512).train(), tokenizer)
    monkeypatch.setattr(proxy.shared_prefix, "way", way)
    queries = proxy.encode(pool.subset(range(18, 24)))
    slots = texts_of(proxy, pool).at([0, 1])
    proxy.model.transformer.wpe.weight.requires_grad_(False)
    before, standing = state_hash(proxy.model), slots.embeddings.clone()
    with torch.no_grad():
        losses, gradient = slot_gradients(proxy, slots, queries)
        one_by_one(proxy, slots, queries)
    np.testing.assert_allclose(query_losses(proxy, slots, queries), losses, rtol=1e-5)
    assert gradient.abs().max() > 0 and not gradient.requires_grad and not losses.requires_grad
    assert state_hash(proxy.model) == before and proxy.model.training
    assert [name for name, one in proxy.model.named_parameters() if not one.requires_grad] == [
        "transformer.wpe.weight"
    ]
    assert all(weight.grad is None for weight in proxy.model.parameters())
    assert (slots.embeddings == standing).all() and not slots.embeddings.requires_grad
    assert torch.is_grad_enabled()


def test_results_are_on_the_cpu_in_the_promised_precision(proxy, pool):
    queries = proxy.encode(pool.subset(range(18, 20)))
    slots = texts_of(proxy, pool).at([0, 1])
    for losses, gradient in (slot_gradients(proxy, slots, queries), one_by_one(proxy, slots, queries)):
        assert (losses.dtype, gradient.dtype) == (torch.float64, torch.float32)
        assert losses.device.type == gradient.device.type == "cpu"
    assert gradient.shape == (2, 2, WIDTH, 16)


def test_half_precision_is_close_to_single(make_model, tokenizer, pool):
    single, half = (
        Proxy.from_model(make_model("llama", max_position_embeddings=512).to(dtype), tokenizer)
        for dtype in (torch.float32, torch.bfloat16)
    )
    queries = single.encode(pool.subset(range(12, 24)))
    (losses, gradient), (rough, near) = (
        slot_gradients(proxy, texts_of(proxy, pool).at([0, 1]), queries) for proxy in (single, half)
    )
    np.testing.assert_allclose(rough, losses, rtol=0.1)
    assert (near - gradient).norm() < 0.15 * gradient.norm()


def test_what_does_not_fit_is_refused(exact, pool, queries):
    texts = texts_of(exact, pool, range(18), 30)
    longest = max(len(query.ids) for query in queries)
    slots = texts.at(range(18))
    for call in (slot_gradients, query_losses, one_by_one):
        with pytest.raises(TooLongError, match=f"18 slots of 30 tokens and a query: {540 + longest} tokens"):
            call(exact, slots, queries)
    with pytest.raises(TooLongError, match="18 slots of 30"):
        query_losses(exact, texts.at([range(18)] * len(queries)), queries)
    room = 512 - longest
    assert check_fit(exact, (1, room), queries) == room
    with pytest.raises(TooLongError):
        check_fit(exact, (1, room + 1), queries)
