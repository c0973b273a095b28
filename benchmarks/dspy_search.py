"""ManyShotSearch against DSPy's own optimizers at equal metric calls, on micro in this process.

    python benchmarks/dspy_search.py DATA                       # DATA/NAME/train.jsonl and test.jsonl
    python benchmarks/dspy_search.py DATA --data-sets trec --test 100

Every optimizer gets the same trainset and valset and, as far as its settings allow, the same number of
metric calls; how many it made is counted. The test set is seen by none. LabeledFewShot and KNNFewShot take
no metric: they are shown with DSPy's 16 shots, KNNFewShot without bootstrapping, which would run the LM for
every demonstration of every query. MIPROv2's prompt model is micro too, which cannot write instructions.
micro answers with the likeliest tokens, so temperatures do nothing.
"""

import argparse
import contextlib
import io
import json
import logging
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dspy
from dspy.lm15 import Message, Request, Response, TextPart, Usage
from dspy_icl import ManyShotSearch, grid
from dspy_icl.trials import interval

from icl_plugins import GradientMatching, Proxy, Random, Typicality
from icl_plugins.evaluation.local import LocalTarget

sys.path.append(str(Path(__file__).parents[1] / "examples"))
from plain_adapter import PlainAdapter  # noqa: E402

# named as micro has learned to read them
SIGNATURES = {
    "trec": "Question -> Type",
    "snips": "Query -> Intent",
    "agnews": "Text -> Topic",
    "banking77": "Query -> Intent",
    "hwu64": "Query -> Intent",
    "sst2": "Review -> Sentiment",
}


class LocalEngine:
    """What dspy.LM asks instead of a server: a target in this process."""

    def __init__(self, target: LocalTarget) -> None:
        self.target = target

    def complete(self, request: Request) -> Response:
        messages = [{"role": one.role, "content": one.text or ""} for one in request.messages]
        if request.system:
            system = (
                request.system if isinstance(request.system, str) else "".join(p.text for p in request.system)
            )
            messages.insert(0, {"role": "system", "content": system})
        (answer,) = self.target.generate([messages], max_tokens=request.config.max_tokens)
        used = Usage(answer.usage.prompt_tokens, answer.usage.completion_tokens)
        message = Message.assistant([TextPart(answer.text)])
        return Response(None, self.target.name, message, "stop", used)

    def close(self) -> None:
        pass


class Counted:
    """The metric, and how often it was called."""

    def __init__(self, output: str) -> None:
        self.output, self.calls = output, 0

    def __call__(self, example: Any, prediction: Any, trace: object = None) -> bool:
        self.calls += 1
        return str(prediction[self.output]).strip().lower() == str(example[self.output]).strip().lower()


def read(path: Path, signature: str, seed: int) -> list[dspy.Example]:
    asked, answered = signature.split(" -> ")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    random.Random(seed).shuffle(rows)  # noqa: S311
    return [dspy.Example(**{asked: row["text"], answered: row["label"]}).with_inputs(asked) for row in rows]


def optimizers(options: argparse.Namespace, proxy: Proxy) -> dict[str, Callable[..., Any]]:
    """Name -> how it makes a program of (student, trainset, valset, metric) within the budget."""
    budget, size = options.budget, options.val

    def labeled(student: Any, trainset: Any, valset: Any, metric: Any) -> Any:
        return dspy.LabeledFewShot(k=16).compile(student, trainset=trainset)

    def knn(student: Any, trainset: Any, valset: Any, metric: Any) -> Any:
        vectorizer = dspy.Embedder(lambda texts: proxy.embed(texts).numpy(), caching=False)
        labels_only = {"max_bootstrapped_demos": 0, "max_labeled_demos": 16}
        return dspy.KNNFewShot(16, trainset, vectorizer, **labels_only).compile(student)

    def random_search(student: Any, trainset: Any, valset: Any, metric: Any) -> Any:
        # three programs beside the candidates, and about two evaluations' worth of bootstrapping
        number = max(1, budget // size - 5)
        optimizer = dspy.BootstrapFewShotWithRandomSearch(
            metric, num_candidate_programs=number, num_threads=1, max_errors=10_000
        )
        return optimizer.compile(student, trainset=trainset, valset=valset)

    def mipro(student: Any, trainset: Any, valset: Any, metric: Any) -> Any:
        optimizer = dspy.MIPROv2(
            metric, auto=None, num_candidates=4, num_threads=1, max_errors=10_000, max_labeled_demos=16
        )
        trials = budget // size - 2  # the program as it came is evaluated beside them
        return optimizer.compile(
            student, trainset=trainset, valset=valset, num_trials=trials, minibatch=False
        )

    def many_shot(student: Any, trainset: Any, valset: Any, metric: Any) -> Any:
        selectors = (GradientMatching(proxy=proxy), Typicality(proxy=proxy), Random())
        candidates = grid(selectors, (16, 64), ("greedy", "reversed"))
        optimizer = ManyShotSearch(
            metric=metric, candidates=candidates, max_metric_calls=budget, num_threads=1, max_errors=10_000
        )
        return optimizer.compile(student, trainset=trainset, valset=valset)

    return {
        "LabeledFewShot, 16 shots": labeled,
        "KNNFewShot, 16 shots": knn,
        "BootstrapFewShotWithRandomSearch": random_search,
        "MIPROv2": mipro,
        "ManyShotSearch": many_shot,
    }


def scores(program: Any, test: Sequence[Any], metric: Counted) -> list[float]:
    """Score each example; a run that fails, or an answer that cannot be read, is wrong."""

    def score(example: Any) -> float:
        with contextlib.suppress(Exception):
            return float(metric(example, program(**example.inputs())))
        return 0.0

    return [score(example) for example in test]


def measured(name: str, make: Callable[..., Any], parts: Sequence[Any], signature: str) -> list[str]:
    train, val, test = parts
    metric, started = Counted(signature.split(" -> ")[1]), time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            program = make(dspy.Predict(signature), train, val, metric)
            calls, seconds = metric.calls, time.perf_counter() - started
            right = scores(program, test, metric)
    except Exception as error:
        return [name, f"failed: {type(error).__name__}: {error}"[:100], "", str(metric.calls), "", ""]
    low, high = interval(right)
    chosen = getattr(program, "search_report", {"best": {"candidate": ""}})["best"]["candidate"]
    mean = 100 * sum(right) / len(right)
    return [name, f"{mean:.1f}", f"{low:.1f} to {high:.1f}", str(calls), f"{seconds:.0f}", chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--data-sets", nargs="+", default=["trec", "snips", "agnews"], choices=SIGNATURES)
    parser.add_argument("--budget", type=int, default=320, help="metric calls of an optimizer")
    parser.add_argument("--train", type=int, default=200)
    parser.add_argument("--val", type=int, default=40)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the draw of the examples")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # failures are counted, not listed
    proxy = Proxy.load("micro")
    lm = dspy.LM(
        "micro",
        engine=LocalEngine(LocalTarget(proxy, layout="turns")),
        cache=False,
        temperature=0.0,
        max_tokens=16,
    )
    print("| data | optimizer | test accuracy, % | 95 % interval | metric calls | seconds | chosen |")
    print("|---|---|---|---|---|---|---|")
    with dspy.context(lm=lm, adapter=PlainAdapter(), num_threads=1):
        for name in options.data_sets:
            signature = SIGNATURES[name]
            rows = read(options.data / name / "train.jsonl", signature, options.seed)
            train, val = rows[: options.train], rows[options.train :][: options.val]
            test = read(options.data / name / "test.jsonl", signature, options.seed)[: options.test]
            for optimizer, make in optimizers(options, proxy).items():
                cells = measured(optimizer, make, (train, val, test), signature)
                print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
