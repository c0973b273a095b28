"""Turn a training run into the model folder that ships: float16 safetensors, tokenizer, chat template.

python training/export_micro.py runs/micro icl_plugins/proxy/micro
"""

import argparse
import json
from pathlib import Path

import torch
from network import Llama
from safetensors.torch import load_file
from tokenizer import BOS, CHAT_TEMPLATE, EOS, PAD
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


def export(run: Path, out: Path) -> None:
    """Write the folder, after checking that transformers computes what training computed."""
    config = LlamaConfig.from_pretrained(run)
    weights = {k.removeprefix("model."): v for k, v in load_file(run / "last.safetensors").items()}
    ours = Llama(config)
    ours.load_state_dict(weights)
    model = LlamaForCausalLM(config)
    model.model.load_state_dict(weights)
    model.tie_weights()
    ids = torch.randint(3, config.vocab_size, (2, 300), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = ours(ids, torch.arange(300).expand(2, -1)) @ ours.embed_tokens.weight.T
        torch.testing.assert_close(model.eval()(ids).logits, expected, rtol=1e-3, atol=1e-3)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(run / "tokenizer.json"), bos_token=BOS, eos_token=EOS, pad_token=PAD,
        model_max_length=config.max_position_embeddings, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = CHAT_TEMPLATE
    model.generation_config = GenerationConfig(
        bos_token_id=0, eos_token_id=1, pad_token_id=2, max_new_tokens=64
    )
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    counters = json.loads((run / "counters.json").read_text())
    print(f"exported step {counters['step']}: {sum(f.stat().st_size for f in out.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    export(arguments.run, arguments.out)
