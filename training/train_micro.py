"""Train micro, the proxy that ships with icl_plugins: a small Llama that learns in context.

    python training/train_micro.py DATA_OPEN --out runs/micro

DATA_OPEN is the folder of openly licensed tasks (`tasks.json`, `tasks/`, `text/`). Loss on every answer of
many-shot sequences (ManyICL's objective, arXiv 2506.11103), and a little language modelling. Writes a
checkpoint every 500 steps and goes on from the last one when started again.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from sklearn.cluster import MiniBatchKMeans
from tokenizers import Tokenizer
from transformers import LlamaConfig

from corpus import WordTable, load_documents, load_sources
from initialise import initialise
from network import Llama
from sequences import Sampler, Stage
from tokenizer import train_tokenizer
from word_vectors import ppmi_vectors

SYMBOLS_ONLY = {"words": 1.0}
PHRASES = {"words": 0.2, "keyword": 0.25, "opening": 0.05, "real": 0.4, "topic": 0.05, "text": 0.05}
SENTENCES = {"words": 0.05, "keyword": 0.2, "opening": 0.08, "cluster": 0.1, "real": 0.38, "topic": 0.07,
             "answers": 0.07, "text": 0.05}  # fmt: skip

STAGES = (
    Stage("few words", 400, 64, 4096, (1, 1), 1, 4, 32, SYMBOLS_ONLY, True, enough=0.9),
    Stage("some words", 400, 96, 4096, (1, 1), 1, 8, 600, SYMBOLS_ONLY, True, enough=0.93),
    Stage("all words", 500, 128, 4096, (1, 1), 1, 16, 6000, SYMBOLS_ONLY, False, enough=0.93),
    Stage("phrases 1-3", 600, 192, 8192, (1, 3), 2, 12, 6000, PHRASES, enough=0.9),
    Stage("phrases 2-6", 600, 256, 8192, (2, 6), 3, 12, 6000, PHRASES, enough=0.85),
    Stage("phrases 3-12", 900, 256, 8192, (3, 12), 6, 12, 6000, SENTENCES, enough=0.8),
    Stage("sentences", 2300, 512, 8192, (4, 40), 64, 16, 6000, SENTENCES),
    Stage("many shots", 700, 1024, 8192, (4, 60), 400, 16, 6000, SENTENCES),
    Stage("longest", 300, 2048, 8192, (4, 60), 400, 16, 6000, SENTENCES),
)


def config(vocabulary: int, width: int, layers: int) -> LlamaConfig:
    """Initialised at 1/sqrt(width): the default of 0.02 starves a narrow model."""
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=int(width * 2.75), num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=width // 32, max_position_embeddings=8192,
        rms_norm_eps=1e-5, tie_word_embeddings=True, initializer_range=width**-0.5, bos_token_id=0, eos_token_id=1,
        pad_token_id=2, rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )  # fmt: skip


def loss_and_recall(model: Llama, batch: dict[str, np.ndarray]) -> tuple[torch.Tensor, float]:
    """Weighted mean loss over the tokens of the answers; top-1 recall of names shown before."""
    t = {k: torch.from_numpy(v) for k, v in batch.items()}
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(t["ids"], t["positions"])
        rows, cols = (t["weight"][:, 1:] > 0).nonzero(as_tuple=True)
        logits = hidden[rows, cols] @ model.embed_tokens.weight.bfloat16().T
    target, weight = t["ids"][rows, cols + 1], t["weight"][rows, cols + 1]
    losses = F.cross_entropy(logits.float(), target, reduction="none")
    known = t["recall"][rows, cols + 1]
    recall = (logits.argmax(-1) == target)[known].float().mean().item()
    return (losses * weight).sum() / weight.sum(), recall


def rate(step: int, total: int, peak: float) -> float:
    """Warm up over 100 steps, hold, decay as a cosine over the last 35 %."""
    decay = max(0.0, (step / total - 0.65) / 0.35)
    return peak * min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, decay))))


def prepare(folder: Path, out: Path, vocabulary: int, width: int, seed: int) -> tuple[Tokenizer, Sampler, torch.Tensor]:
    """Tokenizer, sampler and word vectors, all from the corpus."""
    sources, documents = load_sources(folder), load_documents(folder)
    rng = np.random.default_rng(seed)
    path = out / "tokenizer.json"
    if not path.exists():
        texts = [t for s in sources for row in s.rows for t in (f" {row[0]}", f" {row[1]}")]
        train_tokenizer(texts + documents, vocabulary).save(str(path))
    tokenizer = Tokenizer.from_file(str(path))
    sampler = Sampler(sources, documents, WordTable(tokenizer), rng)
    sampler.prepare()
    streams = [np.array(sampler.table.tokens(line)) for line in sampler.lines]
    vectors = ppmi_vectors(streams, vocabulary, width)
    frequency = np.bincount(np.concatenate(streams), minlength=vocabulary) + 1
    rarity = torch.from_numpy(1e-3 / (1e-3 + frequency / frequency.sum())).float()  # SIF (Arora et al. 2017)
    means = np.stack([(vectors[s] * rarity[s, None]).sum(0).numpy() for s in streams])
    means /= np.linalg.norm(means, axis=1, keepdims=True) + 1e-9
    clusters = MiniBatchKMeans(400, random_state=seed, n_init=1, batch_size=4096).fit_predict(means)
    sampler.set_clusters(clusters)
    return tokenizer, sampler, vectors


def main() -> None:
    """Parse arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.time()
    _, sampler, vectors = prepare(args.data, args.out, args.vocabulary, args.width, args.seed)
    settings = config(args.vocabulary, args.width, args.layers)
    model = Llama(settings)
    initialise(model, vectors, args.seed)
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": 0.02},
         {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0}],
        lr=args.rate, betas=(0.9, 0.98),
    )  # fmt: skip
    total = sum(s.steps for s in STAGES)
    step, stage, in_stage = resume(args.out, model, optimizer)
    sampler.rng = np.random.default_rng([args.seed, step])
    log = (args.out / "log.jsonl").open("a")
    recall_mean, loss_mean = 0.0, 9.0
    print(f"ready in {time.time() - began:.0f} s; {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    while stage < len(STAGES):
        now = STAGES[stage]
        earlier = STAGES[int(sampler.rng.integers(max(0, stage - 3), stage + 1))]
        mixed = now if sampler.rng.random() < 0.8 else earlier
        loss, recall = loss_and_recall(model, sampler.batch(mixed))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        # Steps saved by stages that end early are spent in the last stage but two, so the schedule holds.
        for group in optimizer.param_groups:
            group["lr"] = rate(step, total, args.rate)
        optimizer.step()
        step, in_stage = step + 1, in_stage + 1
        loss_mean += (loss.item() - loss_mean) * 0.02
        if mixed is now and not math.isnan(recall):
            recall_mean += (recall - recall_mean) * 0.03
        if step % 50 == 0:
            entry = {"step": step, "stage": now.name, "loss": round(loss_mean, 4), "recall": round(recall_mean, 4),
                     "seconds": round(time.time() - began)}  # fmt: skip
            log.write(json.dumps(entry) + "\n")
            log.flush()
        later = sum(s.steps for s in STAGES[stage + 1 :])
        full = in_stage >= now.steps if now.name != "sentences" else step + later >= total
        if full or (recall_mean > now.enough and in_stage > 60):
            stage, in_stage, recall_mean = stage + 1, 0, 0.0
        if step % 500 == 0 or stage == len(STAGES):
            save(args.out, model, optimizer, step, stage, in_stage)
    settings.save_pretrained(args.out)


def save(out: Path, model: Llama, optimizer: torch.optim.Optimizer, step: int, stage: int, in_stage: int) -> None:
    """Weights, moments and counters, as safetensors and JSON."""
    moments = {f"{i}.{k}": v for i, s in optimizer.state_dict()["state"].items() for k, v in s.items()}
    save_file({**{f"model.{k}": v for k, v in model.state_dict().items()}}, out / "last.safetensors")
    save_file(moments, out / "moments.safetensors")
    (out / "counters.json").write_text(json.dumps({"step": step, "stage": stage, "in_stage": in_stage}))


def resume(out: Path, model: Llama, optimizer: torch.optim.Optimizer) -> tuple[int, int, int]:
    """Load what `save` wrote, if it did."""
    if not (out / "counters.json").exists():
        return 0, 0, 0
    weights = load_file(out / "last.safetensors")
    model.load_state_dict({k.removeprefix("model."): v for k, v in weights.items()})
    state = optimizer.state_dict()
    for key, value in load_file(out / "moments.safetensors").items():
        number, name = key.split(".", 1)
        state["state"].setdefault(int(number), {})[name] = value
    optimizer.load_state_dict(state)
    return tuple(json.loads((out / "counters.json").read_text()).values())


if __name__ == "__main__":
    main()
