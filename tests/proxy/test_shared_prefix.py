"""Behind a shared prefix everything is as in a plain forward of the whole text, whatever the architecture."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_model import state_hash
from tiny_models import ARCHITECTURES

from icl_plugins.errors import ProxyError
from icl_plugins.proxy import prefix_state, shared_prefix
from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.model import Proxy
from icl_plugins.proxy.prefix_state import PrefixState
from icl_plugins.proxy.shared_prefix import SharedPrefix
from icl_plugins.proxy.token_tree import answer_tree, grow

PREFIX = [(11 * at + 5) % 330 for at in range(40)]
QUERIES = [  # of different lengths, with choices that begin alike, repeat, or are one token
    [([7, 8, 9], [20, 21, 22]), ([7, 8, 9], [20, 21, 23]), ([7, 8, 9], [20]), ([7, 8, 9], [20])],
    [([7, 8, 200, 201, 202], [40, 41])],
    [([300], [20, 21, 22]), ([300], [5, 6, 7, 8])],
]


def encoded(queries):
    return [[Encoded(q + a, len(q), len(q) + len(a)) for q, a in query] for query in queries]


def plain_scores(model, prefix, query):
    """The definition: a plain forward of each whole text, no cache, float64 sums."""
    scores = []
    for question, answer in query:
        ids = torch.tensor([[*prefix, *question, *answer]])
        with torch.no_grad():
            logits = model.eval()(input_ids=ids, use_cache=False).logits[0, -len(answer) - 1 : -1]
        scores.append(float(logits.double().log_softmax(-1).gather(1, ids[0, -len(answer) :, None]).sum()))
    return scores


def plain_greedy(model, ids, max_tokens):
    """The definition: one plain forward for each token."""
    answer = []
    for _ in range(max_tokens):
        with torch.no_grad():
            logits = model.eval()(input_ids=torch.tensor([[*ids, *answer]]), use_cache=False).logits[0, -1]
        answer.append(int(logits.argmax()))
    return answer


def all_scores(shared, state, queries):
    scores = [None] * len(queries)
    for rows, values in shared.score(state, queries):
        for row, value in zip(rows, values, strict=True):
            scores[row] = value
    return scores


def all_answers(shared, state, queries, max_tokens, ended=lambda ids: False):
    answers = [None] * len(queries)
    for rows, values in shared.generate(state, queries, max_tokens=max_tokens, ended=ended):
        for row, value in zip(rows, values, strict=True):
            answers[row] = value
    return answers


@pytest.fixture(scope="module")
def recurrent():
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 330, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "layer_types": ["conv", "full_attention"]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(AutoConfig.for_model("lfm2", **sizes, **heads))


@pytest.fixture
def shared(proxy):
    return SharedPrefix(proxy)


@pytest.mark.parametrize("slice_head", [True, False])
@pytest.mark.parametrize("length", [0, 1, 40])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_equal_plain_forwards(architecture, length, slice_head, make_model, tokenizer):
    model = make_model(architecture)
    proxy = Proxy.from_model(model, tokenizer)
    proxy.slice_head = slice_head
    shared = SharedPrefix(proxy)
    sliding = architecture in ("mistral", "gemma2", "gemma3_text")
    assert shared.way == ("rows" if architecture == "bloom" else "tree" if sliding else "shared")
    scores = all_scores(shared, shared.read(PREFIX[:length]), encoded(QUERIES))
    for query, values in zip(QUERIES, scores, strict=True):
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, plain_scores(model, PREFIX[:length], query), rtol=1e-5)


@pytest.mark.parametrize(
    ("way", "architecture"),
    [
        *itertools.product(["tree", "rows", "whole"], ["llama", "mistral", "gemma3_text", "gpt2"]),
        *(("shared", architecture) for architecture in ("llama", "gpt2", "gpt_neox", "cohere")),
    ],
)
def test_every_way_gives_the_same(way, architecture, make_model, tokenizer):
    """Prefixes beyond the window of sliding layers included: 40 tokens and more for a window of 16."""
    model = make_model(architecture)
    shared = SharedPrefix(Proxy.from_model(model, tokenizer))
    shared.way = way
    state = shared.read(PREFIX)
    for query, values in zip(QUERIES, all_scores(shared, state, encoded(QUERIES)), strict=True):
        np.testing.assert_allclose(values, plain_scores(model, PREFIX, query), rtol=1e-5)
    questions = [query[0][0] for query in QUERIES]
    for question, answer in zip(questions, all_answers(shared, state, questions, 20), strict=True):
        assert answer == plain_greedy(model, PREFIX + question, 20)


def test_a_shared_prefix_is_never_copied(proxy, monkeypatch):
    """What the model is given to add to holds the queries alone."""
    shared, seen = SharedPrefix(proxy), []
    forward = type(proxy.model).forward

    def watched(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        seen.append(kwargs["past_key_values"].layers[0].keys.shape[-2])
        return output

    state = shared.read(PREFIX)
    monkeypatch.setattr(type(proxy.model), "forward", watched)
    all_scores(shared, state, encoded(QUERIES))
    all_answers(shared, state, [[7, 8]], 3)
    assert shared.way == "shared"
    assert max(seen) < len(PREFIX)


def test_a_recurrent_model_reads_the_prefix_again(recurrent, tokenizer):
    shared = SharedPrefix(Proxy.from_model(recurrent, tokenizer))
    assert shared.way == "whole"
    assert "tree" in shared.reason
    state = shared.read(PREFIX)
    assert not state.layers
    for query, values in zip(QUERIES, all_scores(shared, state, encoded(QUERIES)), strict=True):
        np.testing.assert_allclose(values, plain_scores(recurrent, PREFIX, query), rtol=1e-5)
    assert all_answers(shared, state, [[7, 8]], 5) == [plain_greedy(recurrent, [*PREFIX, 7, 8], 5)]


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_rotary_frequencies_that_depend_on_the_length_share_nothing(rope_type, make_model, tokenizer):
    model = make_model()
    rope = {"rope_type": rope_type, "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 64}
    model.config.rope_parameters = rope
    proxy = Proxy.from_model(model, tokenizer)
    assert SharedPrefix(proxy).way == "whole"
    proxy.max_length = 64
    assert SharedPrefix(proxy).way == "shared"


def test_a_model_that_ignores_the_mask_is_not_packed(make_model, tokenizer, monkeypatch):
    """Its packed sequences would see each other; the probe sees the scores and takes the next way."""
    model = make_model("llama")
    inner = type(model.model).forward
    monkeypatch.setattr(
        type(model.model),
        "forward",
        lambda self, *args, attention_mask=None, **kwargs: inner(self, *args, **kwargs),
    )
    shared = SharedPrefix(Proxy.from_model(model, tokenizer))
    assert shared.way == "rows"
    assert "differ" in shared.reason


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "bloom"])
def test_reading_in_chunks_changes_nothing(architecture, make_model, tokenizer, monkeypatch):
    shared = SharedPrefix(Proxy.from_model(make_model(architecture), tokenizer))
    whole = shared.read(PREFIX)
    monkeypatch.setattr(prefix_state, "_CHUNK", 7)
    for pieces in ([PREFIX], [PREFIX[:1], PREFIX[1:30], PREFIX[30:]]):
        state = PrefixState()
        for piece in pieces:
            state = shared.read(piece, state)
        assert state.ids == whole.ids
        assert (state.slots, state.position) == (40, 40)
        for one, other in zip(state.layers, whole.layers, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text"])
def test_the_head_of_a_state_is_the_state_of_the_head(architecture, make_model, tokenizer):
    shared = SharedPrefix(Proxy.from_model(make_model(architecture), tokenizer))
    head, alone = shared.read(PREFIX).head(17), shared.read(PREFIX[:17])
    assert (head.ids, head.position, head.slots) == (alone.ids, 17, 17)
    torch.testing.assert_close(head.layers, alone.layers)


@pytest.mark.parametrize("way", ["shared", "tree", "rows"])
def test_a_state_may_stand_at_other_positions(way, make_model, tokenizer):
    """Keys made at positions 5 to 44, as of a text whose first five tokens are hidden from all."""
    model = make_model("llama").eval()
    shared = SharedPrefix(Proxy.from_model(model, tokenizer))
    shared.way = way
    positions = torch.arange(5, 45)[None]
    with torch.no_grad():
        cache = model(torch.tensor([PREFIX]), position_ids=positions, use_cache=True).past_key_values
    state = PrefixState(tuple(PREFIX), tuple((layer.keys, layer.values) for layer in cache.layers), 45)
    (question, answer) = QUERIES[0][0]
    whole = torch.tensor([[*PREFIX, *question, *answer]])
    with torch.no_grad():
        logits = model(whole, position_ids=torch.arange(5, 5 + whole.shape[1])[None]).logits[0, -4:-1]
    expected = logits.log_softmax(-1).gather(1, whole[0, -3:, None]).sum()
    (scores,) = all_scores(shared, state, encoded([QUERIES[0][:1]]))
    np.testing.assert_allclose(scores, [expected], rtol=1e-5)
    follow = shared.read(question, state)
    assert (follow.position, follow.slots) == (48, 43)


def test_using_a_state_does_not_change_it(shared):
    state = shared.read(PREFIX)
    before = [(keys.clone(), values.clone()) for keys, values in state.layers]
    first = all_scores(shared, state, encoded(QUERIES))
    all_answers(shared, state, [[3], [4, 5]], 6)
    shared.read([1, 2], state)
    torch.testing.assert_close(list(state.layers), before, rtol=0, atol=0)
    np.testing.assert_array_equal(np.hstack(all_scores(shared, state, encoded(QUERIES))), np.hstack(first))


def test_the_cache_of_a_batch_is_no_copy(shared):
    state = shared.read(PREFIX)
    for layer, (keys, _) in zip(state.cache(50).layers, state.layers, strict=True):
        assert layer.keys.untyped_storage().data_ptr() == keys.untyped_storage().data_ptr()


def test_the_model_stays_as_it_came(make_model, tokenizer):
    model = make_model("gpt2").train()
    before = state_hash(model)
    shared = SharedPrefix(Proxy.from_model(model, tokenizer))
    state = shared.read(PREFIX)
    list(shared.score(state, encoded(QUERIES)))
    list(shared.generate(state, [[3]], max_tokens=2, ended=lambda ids: False))
    assert state_hash(model) == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("way", ["shared", "tree", "rows", "whole"])
@pytest.mark.parametrize("budget", [1, 10, 10_000])
def test_scores_do_not_depend_on_the_batch(way, budget, proxy):
    shared = SharedPrefix(proxy)
    shared.way = way
    state, queries = shared.read(PREFIX), encoded(QUERIES)
    expected = np.hstack([all_scores(shared, state, [query])[0] for query in queries])
    shared.budget.tokens = budget
    np.testing.assert_allclose(np.hstack(all_scores(shared, state, queries)), expected, rtol=1e-5)
    reverse = all_scores(shared, state, queries[::-1])[::-1]
    np.testing.assert_allclose(np.hstack(reverse), expected, rtol=1e-5)


def test_out_of_memory_halves_the_packs(shared, monkeypatch):
    state, queries = shared.read(PREFIX), encoded(QUERIES)
    expected, real, sizes = all_scores(shared, state, queries), shared_prefix.score_tree, []

    def tight(proxy, state, pack, **how):
        sizes.append(len(pack))
        if len(pack) > 1:
            raise torch.OutOfMemoryError
        return real(proxy, state, pack, **how)

    monkeypatch.setattr(shared_prefix, "score_tree", tight)
    np.testing.assert_allclose(np.hstack(all_scores(shared, state, queries)), np.hstack(expected), rtol=1e-5)
    assert sizes[0] == 3
    monkeypatch.setattr(
        shared_prefix, "score_tree", lambda *args, **how: (_ for _ in ()).throw(MemoryError())
    )
    with pytest.raises(ProxyError, match="out of memory"):
        list(shared.score(state, queries))


def test_out_of_memory_halves_the_chunks_that_are_read(shared, monkeypatch):
    expected, real, sizes = shared.read(PREFIX), prefix_state._read_chunk, []

    def tight(proxy, ids, state):
        sizes.append(len(ids))
        if len(ids) > 10:
            raise torch.OutOfMemoryError
        return real(proxy, ids, state)

    monkeypatch.setattr(prefix_state, "_read_chunk", tight)
    torch.testing.assert_close(shared.read(PREFIX).layers, expected.layers)
    assert sizes == [40, 20, 10, 10, 10, 10]


def test_generation_ends_where_it_is_told_to(shared, make_model):
    state, queries = shared.read(PREFIX), [[3], [4, 5], [3]]
    free = all_answers(shared, state, queries, 12)
    stop = free[1][4]
    ended = all_answers(shared, state, queries, 12, lambda ids: ids[-1] == stop)
    for answer, cut in zip(free, ended, strict=True):
        assert cut == (answer[: answer.index(stop) + 1] if stop in answer else answer)
    assert len(ended[1]) <= 5


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral", "gemma2", "opt", "bloom"])
def test_generation_equals_that_of_transformers(architecture, make_model, tokenizer):
    model = make_model(architecture).eval()
    shared = SharedPrefix(Proxy.from_model(model, tokenizer))
    queries = [[3], [4, 5, 6], [3, 9]]
    answers = all_answers(shared, shared.read(PREFIX), queries, 10)
    model.generation_config.eos_token_id = None
    for query, answer in zip(queries, answers, strict=True):
        ids = torch.tensor([[*PREFIX, *query]])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=10, do_sample=False)
        assert out[0, ids.shape[1] :].tolist() == answer


token_lists = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=8)


@given(token_lists)
def test_a_tree_holds_each_beginning_once(sequences):
    tree, paths = grow(sequences)
    beginnings = {tuple(one[:stop]) for one in sequences for stop in range(1, len(one) + 1)}
    assert len(tree.tokens) == len(beginnings)
    sees = tree.ancestors()
    for sequence, path in zip(sequences, paths, strict=True):
        assert [tree.tokens[node] for node in path] == sequence
        assert [tree.depths[node] for node in path] == list(range(len(sequence)))
        assert np.flatnonzero(sees[path[-1]]).tolist() == path


@given(token_lists, st.data())
def test_every_answer_token_is_asked_for_once(sequences, data):
    examples = []
    for one in sequences:
        start = data.draw(st.integers(0, len(one) - 1)) + 1
        examples.append(Encoded([9, *one], start, len(one) + 1))
    tree, targets = answer_tree(examples)
    asked = sorted(zip(targets.sequences, targets.tokens, strict=True))
    assert asked == sorted(
        (row, token) for row, one in enumerate(examples) for token in one.ids[one.answer_start :]
    )
    assert len(set(targets.nodes)) == len(targets.nodes)
    assert len(tree.tokens) <= sum(len(one.ids) - 1 for one in examples)
