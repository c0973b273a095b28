"""From a prompt to a state: the recipe and the number of steps are chosen, then all of it is read."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from icl_plugins.evaluation.local_texts import LocalTexts
from icl_plugins.prompt import ManyShotPrompt
from icl_plugins.proxy.locking import lock_of
from icl_plugins.selectors._settings import load_proxy
from icl_plugins.thinking.checks import check_model, lasting
from icl_plugins.thinking.choosing import Choice, HeldOut, Recipe, choose, hold_out, summary
from icl_plugins.thinking.generating import generator_of
from icl_plugins.thinking.kv_state import KVState
from icl_plugins.thinking.prefix import prefix_tokens

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy
    from icl_plugins.thinking.context_tuning import ContextTuning
    from icl_plugins.thinking.deep_thinking import DeepThinking


def fit(
    settings: "DeepThinking | ContextTuning",
    prompt: ManyShotPrompt,
    recipes: "Callable[[Proxy, int], Sequence[Recipe]]",
) -> KVState:
    """Return the state of a prompt; recipes(proxy, tokens of the prompt): among which is chosen.

    Raises what DeepThinking.fit and ContextTuning.fit say.
    """
    proxy = lasting(load_proxy(settings.model))
    with lock_of(proxy):
        return _fit(settings, proxy, prompt, recipes)


def _fit(
    settings: "DeepThinking | ContextTuning",
    proxy: "Proxy",
    prompt: ManyShotPrompt,
    recipes: "Callable[[Proxy, int], Sequence[Recipe]]",
) -> KVState:
    check_model(proxy)
    texts = LocalTexts(proxy, settings.layout)
    ids = prefix_tokens(texts, prompt)
    choice, held_out = _choose(settings, recipes(proxy, len(ids)), proxy, prompt, texts)
    told: dict[str, list[Any]] = {"norms": [], "losses": []}
    for thought in choice.recipe.states(proxy, prompt, texts, ids, choice.steps):
        if thought.norms is not None:
            told["norms"].append(thought.norms.tolist())
        if thought.loss is not None:
            told["losses"].append(thought.loss)
    thinking = {
        "steps": choice.steps,
        **choice.recipe.told(),
        "reason": choice.reason,
        "reasons": {**choice.recipe.reasons(), "writing": generator_of(proxy).reason},
        "held_out": [summary(one) for one in held_out],
        **told,
    }
    layers = tuple((keys.detach(), values.detach()) for keys, values in thought.precise)
    return KVState(proxy, prompt, settings.layout, ids, layers, thinking)


def _choose(
    settings: "DeepThinking | ContextTuning",
    recipes: Sequence[Recipe],
    proxy: "Proxy",
    prompt: ManyShotPrompt,
    texts: LocalTexts,
) -> tuple[Choice, list[HeldOut]]:
    asked = settings.steps
    if asked != "auto" and len(recipes) == 1:
        return Choice(recipes[0], asked, "asked for"), []
    if len(prompt.demonstrations) == 1:
        steps = 1 if asked == "auto" else asked
        return Choice(recipes[0], steps, "one demonstration: none can be held out"), []
    steps = settings.max_steps if asked == "auto" else asked
    measured = [
        hold_out(proxy, prompt, texts, recipe, steps=steps, folds=settings.folds, seed=settings.seed)
        for recipe in recipes
    ]
    if asked == "auto":
        return choose(measured, settings.standard_errors), measured
    best = min(measured, key=lambda one: float(one.losses[:, -1].mean()))
    return Choice(best.recipe, asked, "the least held-out loss at this number of steps"), measured
