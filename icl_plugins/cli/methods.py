"""Methods by name, and a selector made of the settings that the command line gives as text."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

import icl_plugins
from icl_plugins.errors import SettingError

if TYPE_CHECKING:
    from icl_plugins.selection import Selector

Method = Literal[
    "gradient_matching",
    "random",
    "bm25",
    "kmeans",
    "similarity",
    "typicality",
    "latent_bayesian",
    "best_of_n",
    "slot_assignment",
    "grad_re",
    "grad_fs",
    "grad_ce",
]
Order = Literal["greedy", "reversed", "easy_to_hard", "interleaved", "nearest_last", "shuffle", "search"]
CLASSES: dict[Method, str] = {
    "gradient_matching": "GradientMatching",
    "random": "Random",
    "bm25": "BM25",
    "kmeans": "KMeans",
    "similarity": "Similarity",
    "typicality": "Typicality",
    "latent_bayesian": "LatentBayesian",
    "best_of_n": "BestOfN",
    "slot_assignment": "SlotAssignment",
    "grad_re": "GradRE",
    "grad_fs": "GradFS",
    "grad_ce": "GradCE",
}
_OF_INFLUENCE = (
    "proxy=micro queries=128 slot_labels=true arrangements=32 slot_width=null anchors={} reduced=null"
    " check=200 on_bad_estimate=fallback seed=0 on_too_long=truncate tokenizer=null"
)
# For --help, which has no time to import the classes; a test compares them.
SETTINGS: dict[Method, str] = {
    "gradient_matching": "proxy=micro mode=exact scaling=none swaps=32 typical=0.1 prefix_length=4 epochs=10"
    " batch_size=64 learning_rate=0.001 warmup=0.1 schedule=constant seed=0 store=null on_too_long=error"
    " tokenizer=null",
    "random": "seed=0 tokenizer=micro",
    "bm25": "k1=1.5 b=0.75 tokenizer=micro",
    "kmeans": "embeddings=proxy proxy=micro seed=0 on_too_long=error tokenizer=null",
    "similarity": "embeddings=proxy proxy=micro on_too_long=error tokenizer=null",
    "typicality": "embeddings=proxy proxy=micro on_too_long=error tokenizer=null",
    "latent_bayesian": "proxy=micro prefix_length=4 epochs=10 batch_size=64 learning_rate=0.001 warmup=0.1"
    " seed=0 on_too_long=error tokenizer=null",
    "best_of_n": "sets=5 held_out=256 proxy=micro seed=0 tokenizer=null",
    "slot_assignment": f"{_OF_INFLUENCE.format(16)} rounds=16",
    "grad_re": f"{_OF_INFLUENCE.format(16)} subsets=null subset_size=null outcome=loss layout=slots",
    "grad_fs": f"{_OF_INFLUENCE.format(4)} true_steps=0",
    "grad_ce": f"{_OF_INFLUENCE.format(4)} candidates=20 each=4",
}
# what an order needs and not every method has
_OF_ORDER: dict[Order, tuple[str, ...]] = {
    "easy_to_hard": ("proxy",),
    "nearest_last": ("proxy",),
    "shuffle": ("seed",),
    "search": ("proxy", "seed"),
}


def make_ordered(
    order: Order, method: Method, options: Mapping[str, object], settings: Mapping[str, str]
) -> "tuple[Selector, Selector]":
    """Make the selector of a method, and the one that also puts what it chooses into an order.

    options and settings as in `make_selector`, but that a seed or proxy which only the order needs is the
    order's. Raises SettingError.
    """
    if order == "greedy":
        selector = make_selector(method, options, settings)
        return selector, selector
    from icl_plugins.ordering import Ordered

    known = {field.name for field in fields(getattr(icl_plugins, CLASSES[method]))}
    alone = {
        name: options[name]
        for name in _OF_ORDER.get(order, ())
        if name not in known and options.get(name) is not None
    }
    own = {name: value for name, value in options.items() if name not in alone}
    selector = make_selector(method, own, settings)
    seed = {"seed": selector.seed} if hasattr(selector, "seed") else {}
    ordered: Any = Ordered(selector, order, **{**seed, **alone})
    return selector, ordered


def make_selector(method: Method, options: Mapping[str, object], settings: Mapping[str, str]) -> "Selector":
    """Make the selector of a method.

    options: fields that have an option of their own (None: not given); settings: --set, as text. Raises
    SettingError for a field that the method lacks and for one given both ways.
    """
    kind = getattr(icl_plugins, CLASSES[method])
    known = {field.name: field.default for field in fields(kind)}
    given = {name: value for name, value in options.items() if value is not None}
    for name in (*given, *settings):
        if name not in known or (name in given and name in settings):
            raise SettingError(
                f"the setting {name!r} {'twice' if name in known else f'for the method {method}'}",
                expected=f"settings of the method, each once: {describe(known)}",
                fix="correct the name or leave it out",
            )
    parsed = {name: _value(text, known[name]) for name, text in settings.items()}
    selector: Selector = kind(**given, **parsed)
    return selector


def describe(settings: Mapping[str, object]) -> str:
    """Return settings with their defaults, written as --set takes them."""
    return " ".join(
        f"{name}={default if isinstance(default, str) else json.dumps(default, default=str)}"
        for name, default in settings.items()
    )


def _value(text: str, default: object) -> Any:
    """Read JSON (a number, true, null, a mapping); what is none, and what replaces text, is text."""
    if isinstance(default, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
