"""What the tests of tuning share: tasks, sequences and the slow way to their losses."""

import json

import numpy as np
import torch
from tiny_models import tiny_model

from icl_plugins import Pool, Proxy, Template
from icl_plugins.tuning import ManyICL, Stage, Task
from icl_plugins.tuning.checkpoints import load_last
from icl_plugins.tuning.drawing import Drawer
from icl_plugins.tuning.rows import collate
from icl_plugins.tuning.sequences import Sequence, Shown, encode

TEXT = "my card has not arrived yet what is the exchange rate today I lost phone"
WORDS = TEXT.split()
NAMES = ("card_arrival", "rate", "lost_or_stolen_phone", "cash")
TEMPLATE = Template(question="Query: {text}\nIntent:", answer=" {label}", separator="\n\n")
OTHER = Template(question="{text} ->", answer=" {label}", separator="\n")
PLAIN = ("my card has not arrived yet " * 12, "what is the exchange rate today, and what was it? " * 9)


def make_task(name="intents", size=24, *, words=WORDS, classes=True, template=TEMPLATE, **more):
    """A task whose texts and answers have many lengths."""
    records = [
        {"text": " ".join(words[row % 5 : row % 5 + 1 + row % 4]) + f" {row}", "label": NAMES[row % 4]}
        for row in range(size)
    ]
    return Task(name, Pool.from_records(records, template), classes=classes, **more)


def make_drawer(encoder, tasks, text=(), words=(), **stage):
    stage = Stage(**{"context": 96, "zero_shot": 0.0, **stage})
    tokens = [
        np.array(encoder.count([one + task.pool.template.separator for one in task.pool.texts]))
        for task in tasks
    ]
    return Drawer(stage, tasks, text, words, encoder, tokens)


def rngs(count, seed=0):
    return [np.random.default_rng([seed, number]) for number in range(count)]


def show(encoder, pairs, template=TEMPLATE, factor=1.0, task="some", limit=10_000):
    questions, answers = (list(part) for part in zip(*pairs, strict=True))
    return encode(encoder, Shown(questions, answers, template, [factor] * len(pairs)), limit, task)


def numbers(length, start=0, answers=(), factor=1.0, task="some"):
    """A sequence of made-up tokens."""
    ids = [(11 * at + 5) % 300 + 2 for at in range(start, start + length)]
    return Sequence(ids, tuple(answers), tuple(stop for _, stop in answers), (factor,) * len(answers), task)


def batch_of(*rows, weighting):
    return collate([[row] if isinstance(row, Sequence) else row for row in rows], weighting)


def settings(model, *, steps=4, rows=2, context=96, **changed):
    """A run that is over in a second."""
    stage = {key: changed.pop(key) for key in list(changed) if key in Stage.__dataclass_fields__}
    values = {"lora_rank": 4, "learning_rate": 3e-3, "warmup": 2, "checkpoint_every": 2, **changed}
    return ManyICL(model=model, stages=(Stage(steps=steps, rows=rows, context=context, **stage),), **values)


def make_proxy(architecture, tokenizer, **overrides):
    return Proxy.from_model(tiny_model(architecture, **overrides).eval(), tokenizer, name=architecture)


def all_nats(model, ids):
    """-log p of each token but the first, by the model's plain forward: (L,), 0 at the first."""
    ids = torch.tensor([ids])
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    nats = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    return torch.cat([nats.new_zeros(1), nats])


def last_checkpoint(out):
    """The last checkpoint of a folder, whatever it was made from."""
    newest = max((out / "checkpoints").iterdir())
    return load_last(out, json.loads((newest / "state.json").read_text())["made_from"])


def steps_of(out):
    """The names of the checkpoints in a folder."""
    return sorted(path.name for path in (out / "checkpoints").iterdir())
