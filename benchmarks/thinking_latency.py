"""A state against plain prompts and against ordinary prefix caching: latency, batch, and the cost of a step.

    python benchmarks/thinking_latency.py POOL.jsonl [--model micro] [--demonstrations 32 128 512]

Per query: choices scored, and eight tokens written, by (a) the whole prompt read for each query, (b) a cache
of the prompt made once, expanded for a batch as transformers' documentation does it, (c) the state. All three
must agree before anything is timed (one step is plain in-context learning). Processor time on one thread, the
best of three. Memory: the peak of a process of its own that writes for a batch of queries.
"""

import argparse
import copy
import json
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch

from icl_plugins import DeepThinking, ManyShotPrompt, Pool, Proxy, Template
from icl_plugins.proxy.forward import frozen
from icl_plugins.proxy.prefix_state import PrefixState, read
from icl_plugins.thinking import generating
from icl_plugins.thinking.positions import resolve
from icl_plugins.thinking.reading import Pace, in_precision, reread
from icl_plugins.thinking.recursion import Memory

TEMPLATE = Template(question="Question: {text}\nType:", answer=" {label}", separator="\n\n")
TOKENS = 8


@dataclass(frozen=True)
class Case:
    """A state of one step, queries, and the tokens that any way reads of them."""

    state: object
    queries: list
    labels: tuple

    @property
    def proxy(self):
        return self.state.proxy

    def texts(self, row):
        """The query's tokens behind the prompt with each label, and where the labels begin."""
        query = self.queries[row]
        target = self.state.target.texts
        (request,) = target.requests(self.state.messages([query]), [self.labels])
        return request.behind(len(self.state.ids))

    def written(self):
        tokens = self.state.target.texts.tokens(self.state.messages(self.queries))
        return [ids[len(self.state.ids) :] for ids in tokens]


def make(path, model, shots, queries):
    pool = Pool.from_jsonl(path, TEMPLATE)
    rows = list(range(shots))
    pairs = tuple((pool.questions[row], pool.answers[row]) for row in rows)
    prompt = ManyShotPrompt(TEMPLATE, pairs, tuple(pool.examples[row] for row in rows))
    proxy = Proxy.load(model, "cpu", "float32")
    proxy.max_length = max(proxy.max_length, 2**15)  # latency does not ask what was trained
    state = DeepThinking(proxy, steps=1).fit(prompt)
    return Case(state, [*pool.examples[shots : shots + queries]], tuple(sorted(set(pool.answers))))


def prompt_cache(case):
    cache = PrefixState().cache()
    ids = torch.tensor([case.state.ids])
    case.proxy.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def score_rows(case, row, cache):
    """(choices,): in one batch, behind the expanded cache, or with the prompt in front of each row."""
    encoded = case.texts(row)
    ahead = [] if cache is not None else list(case.state.ids)
    length = max(len(one.ids) for one in encoded)
    ids = torch.tensor([ahead + one.ids + [0] * (length - len(one.ids)) for one in encoded])
    if cache is not None:
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(encoded))
    first = min(one.answer_start for one in encoded)
    keep = length - first + 1
    logits = case.proxy.model(
        input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=keep
    ).logits
    log_p = logits.float().log_softmax(-1)
    return [
        sum(
            float(log_p[at, place - first, one.ids[place]])
            for place in range(one.answer_start, one.answer_stop)
        )
        for at, one in enumerate(encoded)
    ]


def write_rows(case, cache):
    """Texts of all queries in one batch, behind an expanded cache or with the whole prompt in each row."""
    tokens = case.written()
    length = max(map(len, tokens))
    prefix = list(case.state.ids)
    rows = [prefix + [0] * (length - len(one)) + one for one in tokens]
    mask = [[1] * len(prefix) + [0] * (length - len(one)) + [1] * len(one) for one in tokens]
    ids, mask = torch.tensor(rows), torch.tensor(mask)
    if cache is not None:
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(tokens))
    found = case.proxy.model.generate(
        ids, attention_mask=mask, past_key_values=cache, max_new_tokens=TOKENS, min_new_tokens=TOKENS,
        do_sample=False, pad_token_id=0,
    )  # fmt: skip
    return [case.proxy.tokenizer.decode(row, skip_special_tokens=True) for row in found[:, ids.shape[1] :]]


def write_state(case):
    return case.state.generate(case.queries, max_new_tokens=TOKENS, min_new_tokens=TOKENS, stop=())


def timed(run, times=3):
    best = np.inf
    for _ in range(times):
        start = time.process_time()
        run()
        best = min(best, time.process_time() - start)
    return best


def latency(case):
    """Milliseconds per query: scoring by (a), (b), (c), then writing by (a), (b), (c)."""
    count = len(case.queries)
    some = range(min(4, count))
    with frozen(case.proxy.model), torch.no_grad():
        cache = prompt_cache(case)
        expected = [score_rows(case, row, None) for row in some]
        np.testing.assert_allclose(
            [score_rows(case, row, cache) for row in some], expected, rtol=1e-3, atol=1e-2
        )
        found = case.state.score(case.queries, case.labels)
        np.testing.assert_allclose(found[: len(some)], expected, rtol=1e-3, atol=1e-2)
        texts = write_rows(case, cache)
        assert texts == write_state(case) == write_rows(case, None), "the ways write different texts"
        seconds = (
            timed(lambda: [score_rows(case, row, None) for row in some], 1) / len(some),
            timed(lambda: [score_rows(case, row, cache) for row in range(count)]) / count,
            timed(lambda: case.state.score(case.queries, case.labels)) / count,
            timed(lambda: write_rows(case, None), 1) / count,
            timed(lambda: write_rows(case, cache)) / count,
            timed(lambda: write_state(case)) / count,
        )
    return [1e3 * one for one in seconds]


def step_cost(case):
    """Seconds of one prefill and of one step."""
    proxy, ids = case.proxy, case.state.ids
    mode, move, _ = resolve(proxy, "auto", len(ids))
    memory = Memory.of(read(proxy, ids, PrefixState()).layers)
    pace = Pace(0.0, 0.9, mode, move)

    def step():
        memory.advance(reread(proxy, in_precision(proxy, ids, memory.history), pace), 0.0, 0.9)

    step()
    return timed(lambda: read(proxy, ids, PrefixState())), timed(step)


def peak(way, path, model, shots, batch):
    """The peak of a process that writes for a batch, less what it had before, in bytes."""
    command = [sys.executable, __file__, path, "--model", model, "--peak", way, str(shots), str(batch)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)  # noqa: S603


def peak_here(way, path, model, shots, batch):
    case = make(path, model, shots, batch)
    generating._ROWS["cpu"] = 2**30  # all in one batch
    cache = None
    with frozen(case.proxy.model), torch.no_grad():
        if way == "cache":
            cache = prompt_cache(case)
        case.state.generate(case.queries[:1], max_new_tokens=2)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak begins anew
        before = _status("VmRSS")
        write_state(case) if way == "state" else write_rows(case, cache)
    sys.stdout.write(json.dumps(_status("VmHWM") - before))


def _status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))


def memory(path, model, shots, batches):
    """MiB that one more query in a batch takes, for the whole prompt, the expanded cache, and the state."""
    rows = []
    for way in ("prompt", "cache", "state"):
        small, large = (peak(way, path, model, shots, batch) for batch in batches)
        rows.append((large - small) / (batches[1] - batches[0]) / 2**20)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pool", help="JSON Lines with the fields text and label")
    parser.add_argument("--model", default="micro")
    parser.add_argument("--demonstrations", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--batches", type=int, nargs=2, default=[8, 40], help="between which memory grows")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        peak_here(args.peak[0], args.pool, args.model, *map(int, args.peak[1:]))
        return
    print(
        "| demonstrations | tokens | score, ms: (a) | (b) | state | write 8 tokens, ms: (a) | (b) | state "
        "| a step / a prefill | MiB for one more query: (a) | (b) | state |"
    )
    print("|" + "---:|" * 12)
    for shots in args.demonstrations:
        case = make(args.pool, args.model, shots, args.queries)
        times = " | ".join(f"{one:.1f}" for one in latency(case))
        prefill, step = step_cost(case)
        grown = " | ".join(f"{one:.2f}" for one in memory(args.pool, args.model, shots, args.batches))
        print(f"| {shots} | {len(case.state.ids)} | {times} | {step / prefill:.2f} | {grown} |", flush=True)


if __name__ == "__main__":
    main()
