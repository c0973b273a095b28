"""B1 and B1b: what per-example gradients cost, against the published loop and against prefix tuning alone.

B1: gradients with respect to k = 4 prefix embeddings. The loop is the published method restated: one example
at a time, logits of all positions, backward, copy the prefix's gradient; with trainable weights as published,
and with frozen ones. Ours must agree with it (relative error per example <= 1e-5) before any time is taken.
Models: the shipped proxy on the shipped Banking77 sample, and random ones with 32 to 128 tokens per example.
B1b: prefix tuning with gradients of all examples at all checkpoints ("exact") or captured on the way
("online"), into a store on disk, against prefix tuning alone; shipped proxy, shipped Banking77 sample.
Methods run in turns and the fastest run of each counts, since other work on the machine can only slow it.
Run: python benchmarks/extraction.py [--only b1|b1b] [--clock wall] [--threads 2] [--runs 5] [--epochs 10]
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from icl_plugins import Pool, Proxy, Template
from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.gradients import gradient_batches
from icl_plugins.proxy.pool_gradients import pool_gradients
from icl_plugins.proxy.prefix import PrefixTuning, tune_prefix

SHAPES = {  # the second is that of SmolLM2-135M
    "5M": {
        "vocab_size": 8192,
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
    "135M": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
}
EXAMPLES = {"micro": 256, "5M": 256, "135M": 12}
clock = time.process_time


def seconds(work: Callable[[], object]) -> float:
    start = clock()
    work()
    return clock() - start


def in_turns(works: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    best = dict.fromkeys(works, math.inf)
    for _ in range(runs):
        for name, work in works.items():
            best[name] = min(best[name], seconds(work))
    return best


def peak_gflops(size: int = 1024) -> float:
    matrix = torch.randn(size, size)
    best = min(seconds(lambda: [matrix @ matrix for _ in range(10)]) for _ in range(6))
    return 20 * size**3 / best / 1e9


def banking77(rows: int) -> Pool:
    sample = str(files("icl_plugins") / "data" / "banking77.jsonl")
    pool = Pool.from_jsonl(sample, Template(question="Query: {text}\nIntent:", answer=" {label}"))
    return pool.subset(range(rows))


def build(name: str) -> tuple[Proxy, list[Encoded]]:
    if name == "micro":
        proxy = Proxy.load("micro", device="cpu")
        return proxy, [example for example in proxy.encode(banking77(EXAMPLES[name])) if example]
    shape = SHAPES[name]
    width = shape["hidden_size"]
    config = LlamaConfig(**shape, tie_word_embeddings=True, initializer_range=width**-0.5)
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))
    proxy = Proxy.from_model(LlamaForCausalLM(config).eval(), tokenizer)
    generator = torch.Generator().manual_seed(0)
    encoded = []
    for length in torch.randint(32, 129, (EXAMPLES[name],), generator=generator).tolist():
        ids = torch.randint(shape["vocab_size"], (length,), generator=generator).tolist()
        answer = int(torch.randint(1, 9, (), generator=generator))
        encoded.append(Encoded(ids, length - answer, length))
    return proxy, encoded


def loop(proxy: Proxy, examples: list[Encoded], prefix: Tensor, trainable: bool) -> Tensor:
    """Batch of one, full logits, backward, copy: the published extraction."""
    model, gradients = proxy.model.requires_grad_(trainable), []
    for example in examples:
        parameter = prefix.clone().requires_grad_()
        embeddings = model.get_input_embeddings()(torch.tensor([example.ids]))
        logits = model(inputs_embeds=torch.cat([parameter[None], embeddings], dim=1), use_cache=False).logits[
            0
        ]
        answer = torch.tensor(example.ids[example.answer_start : example.answer_stop])
        predicted = logits[len(prefix) + example.answer_start - 1 : len(prefix) + example.answer_stop - 1]
        torch.nn.functional.cross_entropy(predicted, answer, reduction="sum").backward()
        gradients.append(parameter.grad.clone())
        model.zero_grad(set_to_none=True)
    return torch.stack(gradients)


def ours(proxy: Proxy, examples: list[Encoded], prefix: Tensor) -> Tensor:
    gradients = torch.empty(len(examples), *prefix.shape)
    for rows, values in gradient_batches(proxy, examples, prefix):
        gradients[rows] = values
    return gradients


def extraction(name: str, runs: int) -> None:
    proxy, examples = build(name)
    prefix = torch.randn(4, proxy.hidden_size, generator=torch.Generator().manual_seed(1)) * 0.02
    expected = loop(proxy, examples, prefix, trainable=False).flatten(1)
    error = (ours(proxy, examples, prefix).flatten(1) - expected).norm(dim=1) / expected.norm(dim=1)
    if not error.max() <= 1e-5:
        raise SystemExit(f"wrong gradients: relative error {error.max():.1e}")
    best = in_turns(
        {
            "loop, trainable weights": lambda: loop(proxy, examples, prefix, trainable=True),
            "loop, frozen weights": lambda: loop(proxy, examples, prefix, trainable=False),
            "ours": lambda: ours(proxy, examples, prefix),
        },
        runs,
    )
    tokens = sum(len(example.ids) + len(prefix) for example in examples)
    answers = sum(example.answer_stop - example.answer_start for example in examples)
    head = proxy.model.get_output_embeddings().weight.numel()
    body = sum(weight.numel() for weight in proxy.model.parameters()) - head
    flops = 4 * (body * tokens + head * answers)
    print(f"B1 {name}: {len(examples)} examples, {tokens} tokens; relative error at most {error.max():.1e}")
    for method, taken in best.items():
        print(f"  {method:24} {taken:8.2f} s   ours is {taken / best['ours']:.2f} x as fast")
    print(f"  ours: {flops / best['ours'] / 1e9:.0f} GFLOP/s of a GEMM peak of {peak_gflops():.0f}")


def pipeline(runs: int, epochs: int, rows: int) -> None:
    proxy = Proxy.load("micro", device="cpu")
    pool = banking77(rows)
    tuning = PrefixTuning(epochs=epochs)

    def whole(mode: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            pool_gradients(proxy, pool, tuning, mode=mode, folder=Path(folder))

    best = in_turns(
        {
            "prefix tuning": lambda: tune_prefix(proxy, pool, epochs=epochs),
            "online": lambda: whole("online"),
            "exact": lambda: whole("exact"),
        },
        runs,
    )
    print(f"B1b: {rows} examples, {epochs} epochs, shipped proxy")
    for method, taken in best.items():
        print(f"  {method:24} {taken:8.1f} s   {taken / best['prefix tuning']:.2f} x prefix tuning alone")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("b1", "b1b"))
    parser.add_argument("--clock", choices=("processor", "wall"), default="processor")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--pool", type=int, default=2000)
    args = parser.parse_args()
    global clock
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, {args.clock} seconds, fastest of {args.runs}")
    if args.only != "b1b":
        for name in EXAMPLES:
            extraction(name, args.runs)
    if args.only != "b1":
        pipeline(args.runs, args.epochs, args.pool)


if __name__ == "__main__":
    main()
