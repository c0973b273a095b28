"""evaluate: what one prompt does on one target."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from icl_plugins.evaluation.metrics import Metric
from icl_plugins.evaluation.results import Evaluation
from icl_plugins.evaluation.target import Target
from icl_plugins.examples import Pool
from icl_plugins.prompt import ManyShotPrompt

if TYPE_CHECKING:
    from icl_plugins.evaluation.store import ResultStore

Choices = Sequence[str] | Sequence[Sequence[str]]


def evaluate(
    prompt: ManyShotPrompt,
    items: Pool,
    target: Target,
    *,
    metric: str | Metric | Callable[[str, str], float] = "accuracy",
    choices: Choices | None = None,
    max_tokens: int = 256,
    store: "ResultStore | None" = None,
    calibrate: bool = False,
    on_overlap: Literal["error", "drop"] = "error",
) -> Evaluation:
    """Ask a target about every item and measure its answers."""
    raise NotImplementedError
