"""Reading again against an ordinary forward of the doubled prompt, in every family and position mode."""

import pytest
import torch
from thinking_tools import LEARNED, ROTARY, tokens
from tiny_models import FAMILIES

from icl_plugins.errors import ProxyError, TooLongError
from icl_plugins.proxy.prefix_state import PrefixState, read
from icl_plugins.thinking import reading
from icl_plugins.thinking.positions import find_move, resolve
from icl_plugins.thinking.reading import Pace, reread, think

IDS = tokens(29)  # longer than the windows of the families that slide
MODES = ("reference", "overlap", "relative")
CASES = [(family, mode) for family in FAMILIES for mode in MODES if (family, mode[:3]) not in
         [(learned, "rel") for learned in LEARNED]]  # fmt: skip


def pace_of(proxy, mode, step_size=0.01, momentum=0.9):
    resolved, move, _ = resolve(proxy, mode, len(IDS))
    return Pace(step_size, momentum, resolved, move)


def first_reading(proxy):
    return read(proxy, IDS, PrefixState())


@torch.no_grad()
def doubled(proxy, mode):
    """The second half of an ordinary forward over [ids; ids], a mask given so that it is one text."""
    length, ids = len(IDS), torch.tensor([IDS + IDS])
    positions = torch.arange(2 * length)
    if mode == "overlap":
        positions = positions % length
    given = {} if proxy.model.config.model_type == "bloom" else {"position_ids": positions[None]}
    cache = PrefixState().cache()
    proxy.model(
        input_ids=ids, attention_mask=torch.ones_like(ids), past_key_values=cache, use_cache=True, **given
    )
    return [(layer.keys[:, :, length:], layer.values[:, :, length:]) for layer in cache.layers]


@pytest.mark.parametrize(("family", "mode"), CASES)
def test_the_second_reading_is_the_second_half_of_the_doubled_prompt(proxy_of, family, mode):
    proxy = proxy_of(family)
    pace = pace_of(proxy, mode)
    present = reread(proxy, first_reading(proxy), pace)
    for layer, (found, expected) in enumerate(zip(present, doubled(proxy, mode), strict=True)):
        keys = expected[0] if pace.move is None else pace.move(expected[0], layer, -len(IDS))
        torch.testing.assert_close(found[0], keys, rtol=1e-3, atol=2e-5)
        torch.testing.assert_close(found[1], expected[1], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize(("family", "mode"), CASES)
def test_a_full_step_keeps_the_second_reading_alone(proxy_of, family, mode):
    proxy = proxy_of(family)
    pace = pace_of(proxy, mode, step_size=1.0, momentum=0.0)
    *_, last = think(proxy, IDS, pace, 2)
    present = reread(proxy, first_reading(proxy), pace)
    for found, expected in zip(last.precise, present, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_step_changes_nothing_whatever_the_number(proxy_of, family):
    proxy = proxy_of(family)
    *_, last = think(proxy, IDS, pace_of(proxy, "auto", step_size=0.0), 4)
    for found, expected in zip(last.state.layers, first_reading(proxy).layers, strict=True):
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_layer_moves_by_its_positions_alone(proxy_of, family):
    """Its keys and values depend on tokens and positions only: methods page, A5.4."""
    proxy = proxy_of(family)
    norms = {}
    for mode in ("reference", "auto"):
        *_, last = think(proxy, IDS, pace_of(proxy, mode), 2)
        norms[mode] = last.norms
    scale = norms["auto"][1].min()
    assert norms["auto"][0].max() < 1e-4 * scale
    keys, values = norms["reference"][0] > 1e-2 * scale
    assert (keys, values) == (family != "bloom", family in LEARNED)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt2", "gptj", "bloom"])
@pytest.mark.parametrize("mode", ["reference", "overlap"])
def test_steps_in_chunks_are_steps_in_one_piece(proxy_of, family, mode, monkeypatch):
    proxy = proxy_of(family)
    whole = reread(proxy, first_reading(proxy), pace_of(proxy, mode))
    monkeypatch.setattr(reading, "_CHUNK", 7)
    monkeypatch.setattr("icl_plugins.proxy.prefix_state._CHUNK", 7)
    parts = reread(proxy, first_reading(proxy), pace_of(proxy, mode))
    for found, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-5)


def test_memory_that_runs_out_halves_the_chunks(proxy_of, monkeypatch):
    proxy, seen = proxy_of(), []
    read_chunk = reading._read_chunk

    def short_of_memory(proxy, ids, cache, start):
        seen.append(len(ids))
        if len(ids) > 10:
            raise torch.OutOfMemoryError("out of memory")
        read_chunk(proxy, ids, cache, start)

    whole = reread(proxy, first_reading(proxy), pace_of(proxy, "relative"))
    monkeypatch.setattr(reading, "_CHUNK", 29)
    monkeypatch.setattr(reading, "_read_chunk", short_of_memory)
    parts = reread(proxy, first_reading(proxy), pace_of(proxy, "relative"))
    assert seen[:3] == [29, 14, 7]
    torch.testing.assert_close(parts[1], whole[1], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("family", ROTARY)
def test_keys_of_rotary_models_can_be_moved(proxy_of, family):
    assert resolve(proxy_of(family), "auto", len(IDS))[0] == "relative"


@pytest.mark.parametrize("family", LEARNED)
def test_keys_of_learned_positions_cannot_be_moved(proxy_of, family):
    proxy = proxy_of(family)
    assert resolve(proxy, "auto", len(IDS))[0] == "overlap"
    with pytest.raises(ProxyError, match='positions="overlap" or "auto"'):
        resolve(proxy, "relative", len(IDS))


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4},
        {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "rope_theta": 1e4, "original_max_position_embeddings": 64},
    ],
)  # fmt: skip
def test_scaled_rotations_are_moved_too(tokenizer, make_model, rope):
    from icl_plugins import Proxy

    proxy = Proxy.from_model(make_model("llama", rope_parameters=rope), tokenizer)
    assert find_move(proxy, 40)[0] is not None


def test_frequencies_that_change_with_the_length_are_found_out(tokenizer, make_model):
    from icl_plugins import Proxy

    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}
    proxy = Proxy.from_model(make_model("llama", rope_parameters=rope), tokenizer)
    assert find_move(proxy, 40)[0] is not None  # within the original length
    assert find_move(proxy, 400)[0] is None


def test_a_prompt_longer_than_half_the_context_is_read_where_it_stands(proxy_of):
    proxy = proxy_of()
    assert resolve(proxy, "auto", proxy.max_length // 2 + 1)[0] == "overlap"
    for mode in ("reference", "relative"):
        with pytest.raises(TooLongError, match="overlap"):
            resolve(proxy, mode, proxy.max_length // 2 + 1)
