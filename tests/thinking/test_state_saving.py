"""A state on disk: every bit back, and nothing that was made of other things."""

import json

import pytest
import torch
from thinking_tools import LABELS, make_prompt, make_proxy, queries

from icl_plugins import DeepThinking, KVState, ManyShotPrompt, Proxy
from icl_plugins.errors import ArtefactError
from icl_plugins.thinking.saving import describe


@pytest.fixture
def state(proxy_of):
    return DeepThinking(proxy_of(), steps=3, step_size=0.1).fit(make_prompt())


def test_a_saved_state_comes_back_bit_by_bit(state, tmp_path):
    state.save(tmp_path / "a" / "state")
    found = KVState.load(tmp_path / "a" / "state", state.proxy)
    for one, other in zip(found.layers, state.layers, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    assert torch.equal(found.score(queries(), LABELS), state.score(queries(), LABELS))
    assert (found.ids, found.layout, found.fingerprint) == (state.ids, state.layout, state.fingerprint)
    assert (found.prompt, dict(found.thinking)) == (state.prompt, dict(state.thinking))
    assert ManyShotPrompt.load(tmp_path / "a" / "state" / "prompt.json") == state.prompt


def test_equal_states_give_equal_bytes(state, proxy_of, tmp_path):
    state.save(tmp_path / "one")
    DeepThinking(proxy_of(), steps=3, step_size=0.1).fit(make_prompt()).save(tmp_path / "two")
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_a_state_says_what_it_is_without_its_tensors(state, tmp_path):
    state.save(tmp_path)
    (tmp_path / "state.safetensors").unlink()
    told = describe(tmp_path)
    assert told["thinking"]["steps"] == 3
    assert told["model"]["name"] == "llama"


@pytest.mark.parametrize(
    "settings", [{"steps": 2}, {"step_size": 0.2}, {"momentum": 0.5}, {"positions": "overlap"}]
)
def test_every_setting_is_part_of_the_identity(state, proxy_of, settings):
    other = DeepThinking(proxy_of(), **{"steps": 3, "step_size": 0.1, **settings}).fit(make_prompt())
    assert other.fingerprint != state.fingerprint


def test_prompt_and_model_are_part_of_the_identity(state, proxy_of):
    given = {"steps": 3, "step_size": 0.1}
    same = DeepThinking(proxy_of(), **given).fit(make_prompt())
    assert same.fingerprint == state.fingerprint
    assert DeepThinking(proxy_of(), **given).fit(make_prompt(5)).fingerprint != state.fingerprint
    assert DeepThinking(proxy_of("qwen2"), **given).fit(make_prompt()).fingerprint != state.fingerprint


def test_the_state_of_another_model_is_refused(state, proxy_of, tokenizer, tmp_path):
    state.save(tmp_path)
    with pytest.raises(ArtefactError, match="weights of 'llama' are not those of 'qwen2'"):
        KVState.load(tmp_path, proxy_of("qwen2"))
    trained = make_proxy("llama", tokenizer)
    with torch.no_grad():
        trained.model.lm_head.weight[0, 0] += 1
    with pytest.raises(ArtefactError, match="another model"):
        KVState.load(tmp_path, trained)


def test_another_dtype_is_named(tmp_path):
    DeepThinking("micro", steps=2).fit(make_prompt()).save(tmp_path)
    with pytest.raises(ArtefactError, match="loaded as bfloat16, not float32"):
        KVState.load(tmp_path, Proxy.load("micro", dtype="bfloat16"))
    assert KVState.load(tmp_path, "micro").thinking["steps"] == 2


def cut(folder):
    path = folder / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def flip(folder):
    path = folder / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def edit(folder):
    path = folder / "state.json"
    path.write_text(path.read_text().replace('"steps": 3', '"steps": 4'))


def other_prompt(folder):
    make_prompt(5).save(folder / "prompt.json")


def newer(folder):
    path = folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2}))


def other_kind(folder):
    path = folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "kind": "notes"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "damaged"),
        (flip, "not what was saved"),
        (edit, "was edited"),
        (other_prompt, "its prompt is another"),
        (newer, "upgrade"),
        (other_kind, "another kind: 'notes'"),
        (lambda folder: (folder / "state.json").write_text("[]"), "damaged"),
        (lambda folder: (folder / "state.json").write_bytes(b"\xff\xfe"), "damaged"),
        (lambda folder: (folder / "state.json").unlink(), "holds no state"),
        (lambda folder: (folder / "state.safetensors").unlink(), "damaged"),
        (lambda folder: (folder / "prompt.json").unlink(), "prompt.json"),
    ],
)
def test_damage_is_told(state, tmp_path, damage, message):
    state.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ArtefactError, match=message):
        KVState.load(tmp_path, state.proxy)


def test_a_place_that_cannot_be_written_is_told(state, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="cannot write"):
        state.save(tmp_path / "file" / "state")


def test_an_interrupt_leaves_what_was_there(state, proxy_of, tmp_path, monkeypatch):
    def interrupted(self, path):
        raise KeyboardInterrupt

    state.save(tmp_path / "old")
    other = DeepThinking(proxy_of(), steps=2).fit(make_prompt(5))
    monkeypatch.setattr(ManyShotPrompt, "save", interrupted)
    for name in ("old", "new"):
        with pytest.raises(KeyboardInterrupt):
            other.save(tmp_path / name)
    monkeypatch.undo()
    assert KVState.load(tmp_path / "old", state.proxy).fingerprint == state.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old"]
    assert len(list((tmp_path / "old").iterdir())) == 3


def test_another_chat_template_is_another_state(tmp_path):
    proxy, other = (Proxy.load("micro") for _ in range(2))
    other.tokenizer.chat_template += " Sure:"
    thinking = {"steps": 2, "layout": "turns"}
    state = DeepThinking(proxy, **thinking).fit(make_prompt())
    assert DeepThinking(other, **thinking).fit(make_prompt()).fingerprint != state.fingerprint
    state.save(tmp_path)
    with pytest.raises(ArtefactError, match="another chat template"):
        KVState.load(tmp_path, other)


def test_a_model_named_is_loaded_as_the_state_was_made(tmp_path):
    DeepThinking(Proxy.load("micro", dtype="bfloat16"), steps=2).fit(make_prompt()).save(tmp_path)
    assert KVState.load(tmp_path, "micro").proxy.dtype == torch.bfloat16


def test_a_folder_of_other_things_is_left_alone(state, tmp_path):
    make_prompt(2).save(tmp_path / "prompt.json")
    with pytest.raises(ArtefactError, match="holds other things"):
        state.save(tmp_path)
    assert ManyShotPrompt.load(tmp_path / "prompt.json") == make_prompt(2)
