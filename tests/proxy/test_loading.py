"""Every model folder that cannot be used is refused with the reason, before its weights are read."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from icl_plugins.errors import ProxyError, SettingError
from icl_plugins.proxy import loading
from icl_plugins.proxy.model import Proxy


@pytest.fixture
def folder(make_model, tokenizer, tmp_path):
    make_model().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_saved_model_gives_the_losses_it_gave_in_memory(folder, proxy, make_pairs):
    loaded = Proxy.load(str(folder), device="cpu")
    assert torch.equal(loaded.answer_losses(make_pairs()), proxy.answer_losses(make_pairs()))
    assert loaded.fingerprint["tokenizer"] == proxy.fingerprint["tokenizer"]
    assert loaded.name == str(folder)
    assert loaded.reasons["device"] == "asked for"


def test_on_the_cpu_half_precision_weights_compute_in_float32(folder):
    weights = load_file(folder / "model.safetensors")
    half = {name: tensor.half() for name, tensor in weights.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    edit_config(folder, dtype="float16")
    loaded = Proxy.load(str(folder), device="cpu")
    assert loaded.dtype == torch.float32
    assert "float32" not in loaded.reasons["dtype"] and "cpu" in loaded.reasons["dtype"]
    assert Proxy.load(str(folder), device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_nothing_is_written_to_the_screen_and_the_bar_is_back(folder, capfd):
    from transformers.utils import logging

    assert logging.is_progress_bar_enabled()
    Proxy.load(str(folder), device="cpu")
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled()


def refusal(folder, match, **options):
    with pytest.raises(ProxyError, match=match) as caught:
        Proxy.load(str(folder), **options)
    assert caught.value.fix
    return caught.value


def test_a_missing_folder_is_refused(tmp_path):
    refusal(tmp_path / "nothing", "no folder")


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    refusal(tmp_path, r"holds no config\.json")


def test_a_pickle_only_checkpoint_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refusal(folder, r"no safetensors weights, only pytorch_model\.bin")


def test_a_model_without_tokenizer_is_refused(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    refusal(folder, "holds no tokenizer")


@pytest.mark.parametrize("model_type", ["bert", "t5", "vit"])
def test_what_is_no_causal_language_model_is_refused(folder, model_type, monkeypatch):
    config = AutoConfig.for_model(model_type)
    config.architectures = {"bert": ["BertForMaskedLM"], "t5": ["T5Model"], "vit": ["ViTModel"]}[model_type]
    config.save_pretrained(folder)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)  # weights must not be reached
    refusal(folder, "BertForMaskedLM|encoder-decoder|no causal language model")


def test_a_quantised_checkpoint_is_refused(folder):
    edit_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    refusal(folder, "quantised")


def test_an_incomplete_checkpoint_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refusal(folder, r"lacks 1 .*layers\.1\.mlp\.up_proj\.weight")


def test_weights_of_another_shape_are_refused(folder):
    edit_config(folder, intermediate_size=32)
    refusal(folder, "weights")


def test_damaged_weights_are_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    refusal(folder, "weights could not be loaded")


def test_code_that_a_checkpoint_brings_along_is_never_run(folder):
    marker = folder / "ran"
    (folder / "modeling_evil.py").write_text(
        f"open({str(marker)!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    )
    edit_config(
        folder,
        model_type="evil",
        trust_remote_code=True,
        auto_map={"AutoConfig": "modeling_evil.Config", "AutoModelForCausalLM": "modeling_evil.Model"},
    )
    refusal(folder, "remote code")
    assert not marker.exists()


def test_without_network_the_error_says_what_to_do(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files")

    monkeypatch.setattr(AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(ProxyError, match="couldn't connect") as caught:
        Proxy.load("someone/model")
    assert "without network" in caught.value.fix and "micro" in caught.value.fix


def test_by_id_too_only_safetensors_are_asked_for_and_no_code(monkeypatch, tokenizer, make_model):
    asked = {}
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda name, **options: make_model().config)
    monkeypatch.setattr(loading, "load_tokenizer", lambda name, revision: tokenizer)

    def record(name, **options):
        asked.update(options, name=name)
        raise OSError("nothing is loaded here")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", record)
    with pytest.raises(ProxyError, match="nothing is loaded here"):
        Proxy.load("someone/model", revision="abc")
    assert (asked["name"], asked["revision"]) == ("someone/model", "abc")
    assert asked["use_safetensors"] is True
    assert asked["trust_remote_code"] is False


def test_micro_missing_from_the_installation_is_explained(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "MICRO", tmp_path)
    with pytest.raises(ProxyError, match="shipped proxy 'micro'"):
        Proxy.load("micro")


@pytest.mark.parametrize(
    "options", [{"dtype": "int8"}, {"device": "nonsense"}, {"device": "cuda:99"}, {"revision": "main"}]
)
def test_settings_that_cannot_be_had_are_refused(folder, options):
    with pytest.raises(SettingError):
        Proxy.load(str(folder), **options)


def test_the_tokenizer_can_be_had_without_weights(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert loading.load_tokenizer(str(tmp_path)).encode("It is") == tokenizer.encode("It is")
