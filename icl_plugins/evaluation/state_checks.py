"""Whether states can be made of what is chosen, and saved ones stand beside the methods of a comparison."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from icl_plugins.duplicates import plain_text
from icl_plugins.errors import DataError, SettingError
from icl_plugins.evaluation.datasets import DataSet
from icl_plugins.evaluation.golds import some_items
from icl_plugins.prompt import Layout

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy
    from icl_plugins.thinking.kv_state import KVState


def check_thinking(
    way: Literal["think", "tune"], proxy: "Proxy", examples: int, shots: Sequence[int | Literal["max"]]
) -> None:
    """Raise ProxyError for a target that cannot think or be tuned, SettingError for too few shots to tune.

    examples: of the pool.
    """
    from icl_plugins.thinking.checks import check_enough, check_masks, check_model, lasting

    check_model(lasting(proxy))
    if way == "tune":
        check_enough(min([examples, *(number for number in shots if number != "max")]))
        check_masks(lasting(proxy))


def check_state(state: "KVState", data: DataSet, layout: Layout, shots: Sequence[object]) -> None:
    """Raise SettingError for a state of another template, layout or number of shots, DataError for leaks.

    layout: of the target. shots: those of the comparison.
    """
    own, asked = state.prompt.template, data.config.template
    if (own.question, own.answer) != (asked.question, asked.answer):
        raise SettingError(
            f"a state with the question {own.question!r:.80} and the answer {own.answer!r:.40}",
            expected=f"those of {data.config.name}: {asked.question!r:.80} and {asked.answer!r:.40}",
            fix="name another state, or write the template in the config as the prompt has it",
        )
    if state.layout != layout:
        raise SettingError(
            f"a state of the layout {state.layout!r} on a target of {layout!r}",
            expected="one layout for all methods",
            fix=f"set target.settings.layout to {state.layout}, or think again with --layout {layout}",
        )
    own_shots = len(state.prompt.demonstrations)
    if own_shots not in shots:
        raise SettingError(
            f"a state of {own_shots} demonstrations, and shots {', '.join(map(str, shots))}",
            expected="its number among the shots, so that random sets of the same size stand beside it",
            fix=f"add {own_shots} to shots",
        )
    shown = {plain_text(question) for question, _ in state.prompt.demonstrations}
    items = [row for row, text in enumerate(data.items.questions) if plain_text(text) in shown]
    if items:
        raise DataError(
            f"the state shows {len(items)} of the items of {data.config.name}: {some_items(items)}",
            expected="items that were held out before the prompt was chosen",
            fix="keep a test file apart, choose the prompt from the other rows, and name the file as test",
        )
