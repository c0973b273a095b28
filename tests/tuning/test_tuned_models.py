"""A tuned model: a plain folder of transformers, and proxy and target here."""

import json

import pytest
import torch
from tuning_tools import TEMPLATE, make_proxy, make_task, numbers, settings

from icl_plugins import DeepThinking, GradientMatching, ManyShotPrompt, Proxy
from icl_plugins.errors import ArtefactError, SettingError
from icl_plugins.evaluation.local import LocalTarget
from icl_plugins.tuning.tuned import read_record

IDS = torch.tensor([numbers(24).ids])
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tokenizer):
    """A model with an adapter and its folder; the base's tokenizer has a chat template."""
    from copy import deepcopy

    tokenizer = deepcopy(tokenizer)
    tokenizer.chat_template = CHAT
    base = make_proxy("llama", tokenizer, max_position_embeddings=512)
    base.model.generation_config.max_new_tokens = 7
    out = tmp_path_factory.mktemp("tuned") / "banker"
    return base, settings(base, learning_rate=1e-2).fit([make_task()], out), out


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS).logits


def test_the_folder_loads_in_transformers(trained):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base, tuned, out = trained
    model = AutoModelForCausalLM.from_pretrained(out / "model")
    torch.testing.assert_close(logits(model), logits(tuned.model), rtol=1e-4, atol=1e-4)
    assert (logits(model) - logits(base.model)).abs().max() > 0.01
    tokenizer = AutoTokenizer.from_pretrained(out / "model")
    assert tokenizer.chat_template == CHAT
    assert tokenizer("my card")["input_ids"] == base.tokenizer("my card")["input_ids"]
    assert model.generation_config.max_new_tokens == 7


def test_the_config_is_all_that_a_server_needs(trained):
    files = {path.name for path in (trained[2] / "model").iterdir()}
    config = json.loads((trained[2] / "model" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "float32"
    assert "auto_map" not in config and "peft" not in json.dumps(config).lower()
    assert files >= {"model.safetensors", "generation_config.json", "tokenizer.json", "README.md"}
    assert not [name for name in files if name.endswith((".bin", ".pt")) or name.startswith(".")]


def test_the_adapter_loads_on_the_base(trained):
    from peft import PeftModel

    base, tuned, out = trained
    from copy import deepcopy

    model = PeftModel.from_pretrained(deepcopy(base.model), out / "adapter")
    torch.testing.assert_close(logits(model), logits(tuned.model), rtol=1e-5, atol=1e-5)
    assert not (out / "adapter" / "model.safetensors").exists()


def test_it_is_a_proxy_and_a_target_and_can_think(trained):
    _, tuned, out = trained
    task = make_task(size=12)
    saved = Proxy.load(out / "model")
    for proxy in (saved, tuned.proxy):
        torch.testing.assert_close(
            proxy.answer_losses(task.pool), saved.answer_losses(task.pool), rtol=1e-3, atol=1e-3
        )
    selection = GradientMatching(proxy=saved, seed=0).select(task.pool, shots=3)
    assert len(selection.indices) == 3
    shown = tuple((task.pool.questions[row], task.pool.answers[row]) for row in selection.indices)
    prompt = ManyShotPrompt(TEMPLATE, shown, tuple(task.pool.examples[row] for row in selection.indices))
    (answer,) = LocalTarget(tuned.proxy).score(
        [prompt.messages({"text": "my card"}, "single")], [[" rate", " cash"]]
    )
    assert len(answer.scores) == 2
    state = DeepThinking(saved, steps=1).fit(prompt)
    assert state.score([{"text": "my card"}], ("rate", "cash")).isfinite().all()


def test_saving_changes_nothing_of_the_model_and_comes_out_the_same(trained, tmp_path):
    _, tuned, out = trained
    before = {name: weight.clone() for name, weight in tuned.model.state_dict().items()}
    tuned.save(tmp_path / "again")
    for name, weight in tuned.model.state_dict().items():
        assert torch.equal(weight, before[name]) and weight.dtype == before[name].dtype
    for path in (out / "model").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


@pytest.mark.parametrize("rank", [None, 4])
def test_a_half_precision_base_is_saved_in_half_precision_and_trained_in_more(
    make_model, tokenizer, task, tmp_path, rank
):
    base = Proxy.from_model(make_model().to(torch.float16).eval(), tokenizer)
    tuned = settings(base, steps=2, lora_rank=rank, precision="float32").fit([task], tmp_path)
    weights = {name: weight.clone() for name, weight in tuned.model.named_parameters()}
    saved = Proxy.load(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "float16"
    torch.testing.assert_close(logits(saved.model), logits(tuned.model), rtol=0.02, atol=0.05)
    rounded = [weight for weight in weights.values() if torch.equal(weight, weight.half().float())]
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert bool(rounded) == (rank is not None)  # the base's weights, which are not trained


def test_a_model_that_is_named_is_saved_as_it_lies_on_disk(task, tmp_path):
    tuned = settings("micro", steps=1, lora_rank=None).fit([task], tmp_path)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "float16"
    assert {weight.dtype for weight in tuned.model.parameters()} == {torch.float32}
    assert read_record(tmp_path / "model")["base"] == "micro"


def test_the_record_and_the_card_tell_how_it_was_made(trained):
    base, tuned, out = trained
    record = read_record(out / "model")
    assert record == json.loads(json.dumps(tuned.record))
    assert (record["name"], record["base"], record["kind"]) == ("banker", "llama", "icl_plugins.Tuned")
    assert record["made_from"]["weights"] == base.fingerprint["weights"]
    assert len(record["losses"]) == record["settings"]["stages"][0]["steps"] == 4
    card = (out / "model" / "README.md").read_text()
    assert card.startswith("---\npipeline_tag: text-generation")
    assert "# banker" in card and "| intents | 24 | 4 |" in card


def test_places_and_adapters_that_cannot_be_are_refused(trained, proxy_of, task, tmp_path):
    _, tuned, _ = trained
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="holds other things"):
        tuned.save(tmp_path)
    with pytest.raises(ArtefactError, match="cannot write"):
        tuned.save(tmp_path / "notes.txt" / "below")
    with pytest.raises(ArtefactError, match="cannot read"):
        read_record(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    whole = settings(proxy_of(), steps=1, lora_rank=None).fit([task], tmp_path / "run")
    with pytest.raises(SettingError, match="no adapter"):
        whole.save(tmp_path / "adapter", adapter=True)


def test_a_saved_model_replaces_all_of_what_was_there(proxy_of, task, tmp_path):
    tuned = settings(proxy_of()).fit([task], tmp_path / "run")
    tuned.save(tmp_path / "saved", adapter=True)
    tuned.save(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert "model.safetensors" in names and not [name for name in names if "adapter" in name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "saved"]


def test_the_config_of_the_model_stays_as_it_was(proxy_of, task, tmp_path):
    proxy = proxy_of()
    settings(proxy).fit([task], tmp_path)
    saved = json.loads((tmp_path / "model" / "config.json").read_text())
    assert saved["use_cache"] == proxy.model.config.use_cache is True
