"""Train micro, the proxy that ships with icl_plugins: a small Llama that learns in context.

    python training/train_micro.py DATA_OPEN --out runs/micro
    torchrun --nproc-per-node 2 training/train_micro.py DATA_OPEN --out runs/micro   # half the time

DATA_OPEN is the folder of openly licensed tasks (`tasks.json`, `tasks/`, `text/`). Loss on every answer of
many-shot sequences (ManyICL's objective, arXiv 2506.11103), and a little language modelling. Writes a
checkpoint every 250 steps and goes on from the last one when started again.
"""

import argparse
import json
import math
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from corpus import WordTable, load_documents, load_sources
from initialise import initialise
from network import Llama
from safetensors.torch import load_file, save_file
from sequences import CUES, PREFIXES, SEPARATORS, Sampler, Stage
from sklearn.cluster import MiniBatchKMeans
from tokenizer import train_tokenizer
from tokenizers import Tokenizer
from transformers import LlamaConfig
from word_vectors import ppmi_vectors

SYMBOLS_ONLY = {"words": 1.0}
PHRASES = {"words": 0.2, "keyword": 0.25, "opening": 0.05, "real": 0.4, "topic": 0.05, "text": 0.05}
SENTENCES = {"words": 0.04, "keyword": 0.16, "opening": 0.09, "cluster": 0.12, "real": 0.38, "topic": 0.1,
             "answers": 0.06, "text": 0.05}  # fmt: skip

STAGES = (
    Stage("some words", 300, 96, 4096, (1, 1), 1, 6, 800, SYMBOLS_ONLY, True, enough=0.93),
    Stage("all words", 400, 128, 4096, (1, 1), 1, 8, 6000, SYMBOLS_ONLY, False, enough=0.9),
    Stage("phrases 1-4", 450, 192, 8192, (1, 4), 3, 6, 6000, PHRASES, enough=0.85),
    Stage("phrases 3-12", 700, 256, 8192, (3, 12), 8, 6, 6000, SENTENCES, enough=0.8),
    Stage("sentences", 1450, 512, 8192, (4, 45), 100, 8, 6000, SENTENCES),
    Stage("written names", 550, 512, 8192, (4, 45), 100, 8, 6000, SENTENCES, capitals=True),
    Stage("many shots", 1300, 1024, 8192, (4, 60), 400, 12, 6000, SENTENCES, capitals=True),
    Stage("longest", 400, 2048, 8192, (4, 60), 400, 16, 6000, SENTENCES, capitals=True),
)
TOTAL = sum(stage.steps for stage in STAGES)


def config(vocabulary: int, width: int, layers: int) -> LlamaConfig:
    """Initialised at 1/sqrt(width): the default of 0.02 starves a narrow model."""
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=int(width * 2.75),
        num_hidden_layers=layers, num_attention_heads=width // 32, num_key_value_heads=width // 32,
        max_position_embeddings=8192, rms_norm_eps=1e-5, tie_word_embeddings=True,
        initializer_range=width**-0.5, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        rope_parameters={"rope_type": "default", "rope_theta": 1e10},
    )  # fmt: skip


def loss_and_recall(model: Llama, batch: dict[str, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted mean loss over the tokens of the answers; top-1 recall of names shown before."""
    t = {k: torch.from_numpy(v) for k, v in batch.items()}
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(t["ids"], t["positions"])
        rows, cols = (t["weight"][:, 1:] > 0).nonzero(as_tuple=True)
        # Kernels are compiled and kept for each shape: few shapes, or they fill the memory.
        spare = -len(rows) % 256
        rows, cols = F.pad(rows, (0, spare)), F.pad(cols, (0, spare))
        logits = hidden[rows, cols] @ model.embed_tokens.weight.bfloat16().T
    target, weight = t["ids"][rows, cols + 1], t["weight"][rows, cols + 1]
    weight = weight * (torch.arange(len(rows)) < len(rows) - spare)
    losses = F.cross_entropy(logits.float(), target, reduction="none")
    known = t["recall"][rows, cols + 1] & (weight > 0)
    recall = (logits[known].argmax(-1) == target[known]).float().mean()
    return (losses * weight).sum() / weight.sum(), recall


def share_gradients(model: Llama) -> None:
    """Average the gradients over the processes, if there are several."""
    if not dist.is_initialized():
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients]) / dist.get_world_size()
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def rate(step: int, peak: float) -> float:
    """Warm up over 200 steps, hold, decay as a cosine over the last 35 %."""
    decay = max(0.0, (step / TOTAL - 0.65) / 0.35)
    return peak * min(1.0, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, decay))))


def prepare(
    folder: Path, out: Path, vocabulary: int, width: int, seed: int
) -> tuple[Sampler, torch.Tensor, torch.Tensor]:
    """Sampler, word vectors (V, h) and token counts (V,), all from the corpus."""
    sources, documents = load_sources(folder), load_documents(folder)
    rng = np.random.default_rng(seed)
    path = out / "tokenizer.json"
    if not path.exists():
        texts = [t for s in sources for row in s.rows for t in (f" {row[0]}", f" {row[1]}")]
        # So often that each word of a template is one token, and every cue as long as the next.
        texts += [w for piece in CUES + PREFIXES for w in piece.strip().split(":")] * 500
        texts += capitalised(texts)
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
    always = [
        t for p in CUES + PREFIXES + SEPARATORS for t in sampler.piece(p)
    ]  # templates are not in the streams
    frequency[[0, 1, 2, *always]] = frequency.max()
    return sampler, vectors, torch.from_numpy(frequency).float()


def capitalised(texts: list[str], words: int = 4000, times: int = 150) -> list[str]:
    """The most common words as they are written where they name a class, often enough to become tokens."""
    counts = Counter(w for text in texts for w in text.split() if w.islower() and w.isalpha() and len(w) > 3)
    return [f" {w.capitalize()}" for w, _ in counts.most_common(words)] * times


@dataclass
class Progress:
    """Where a run stands: the step, the stage, the step within it; smoothed loss and recall."""

    step: int = 0
    stage: int = 0
    in_stage: int = 0
    loss: float = 9.0
    recall: float = 0.0

    def advance(self, loss: float, recall: float) -> None:
        """Count a step; recall is NaN for a batch of an earlier stage."""
        self.step, self.in_stage = self.step + 1, self.in_stage + 1
        self.loss += (loss - self.loss) * 0.02
        if not math.isnan(recall):
            self.recall += (recall - self.recall) * 0.03
        now = STAGES[self.stage]
        later = sum(s.steps for s in STAGES[self.stage + 1 :])
        # Steps that earlier stages saved are spent on sentences, so that the learning rate's schedule holds.
        full = self.in_stage >= now.steps if now.name != "sentences" else self.step + later >= TOTAL
        if full or (self.recall > now.enough and self.in_stage > 60):
            self.stage, self.in_stage, self.recall = self.stage + 1, 0, 0.0


def train(model: Llama, sampler: Sampler, out: Path, peak: float, seed: int) -> None:
    """Go through the stages, from the last checkpoint on."""
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98))
    at = resume(out, model, optimizer)
    place, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    sampler.rng = np.random.default_rng([seed, at.step, place])
    choices = np.random.default_rng([seed, at.step])  # the same in every process
    began = time.time()
    while at.stage < len(STAGES):
        now = STAGES[at.stage]
        earlier = STAGES[int(choices.integers(max(0, at.stage - 3), at.stage + 1))]
        shown = now if choices.random() < 0.8 else earlier
        loss, recall = loss_and_recall(model, sampler.batch(shown, processes))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        share_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate(at.step, peak)
        optimizer.step()
        if dist.is_initialized():  # stages must end together
            dist.broadcast(recall, 0)
        at.advance(loss.item(), recall.item() if shown is now else math.nan)
        if place == 0 and (at.step % 250 == 0 or at.stage == len(STAGES)):
            save(out, model, optimizer, at)
        if place == 0 and at.step % 50 == 0:
            entry = {**asdict(at), "stage": now.name, "seconds": round(time.time() - began)}
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")


def save(out: Path, model: Llama, optimizer: torch.optim.Optimizer, at: Progress) -> None:
    """Weights, moments and progress, as safetensors and JSON."""
    moments = {f"{i}.{k}": v for i, s in optimizer.state_dict()["state"].items() for k, v in s.items()}
    save_file({f"model.{k}": v for k, v in model.state_dict().items()}, out / "last.safetensors")
    save_file(moments, out / "moments.safetensors")
    (out / "counters.json").write_text(json.dumps(asdict(at)))


def resume(out: Path, model: Llama, optimizer: torch.optim.Optimizer) -> Progress:
    """Load what `save` wrote, if it did."""
    if not (out / "counters.json").exists():
        return Progress()
    weights = load_file(out / "last.safetensors")
    model.load_state_dict({k.removeprefix("model."): v for k, v in weights.items()})
    state = optimizer.state_dict()
    for key, value in load_file(out / "moments.safetensors").items():
        number, name = key.split(".", 1)
        state["state"].setdefault(int(number), {})[name] = value
    optimizer.load_state_dict(state)
    return Progress(**json.loads((out / "counters.json").read_text()))


def main() -> None:
    """Parse arguments, prepare, train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=12288)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    sampler, vectors, frequency = prepare(args.data, args.out, args.vocabulary, args.width, args.seed)
    settings = config(args.vocabulary, args.width, args.layers)
    settings.save_pretrained(args.out)
    model = Llama(settings)
    initialise(model, vectors, frequency, sampler.piece(":")[0], args.seed)
    train(model, sampler, args.out, args.rate, args.seed)


if __name__ == "__main__":
    main()
