"""Context tuning (CT-KV, arXiv 2507.04221): a prompt's keys and values, trained on its demonstrations."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from icl_plugins.prompt import Layout, ManyShotPrompt
from icl_plugins.selectors._settings import check_real
from icl_plugins.thinking.settings import candidates, check_common

if TYPE_CHECKING:
    from icl_plugins.evaluation.local_texts import LocalTexts
    from icl_plugins.proxy.model import Proxy
    from icl_plugins.thinking.kv_state import KVState
    from icl_plugins.thinking.reading import Thought


@dataclass(frozen=True)
class ContextTuning:
    """Turns a prompt into a key-value state that is trained to answer each demonstration by the others.

    model, layout: as in DeepThinking. steps: 1 is plain in-context learning, each further one a step of Adam
    over all demonstrations; "auto" chooses among 1..max_steps on demonstrations that are held out, in `folds`
    parts. learning_rate: one value, or a tuple of candidates. dropout: the share of the prompt's slots that
    each step hides from all demonstrations.

    Raises SettingError for values that cannot be.
    """

    standard_errors: ClassVar[float] = 0.0  # the least held-out loss: early stopping

    model: "str | Proxy" = "micro"
    steps: int | Literal["auto"] = "auto"
    learning_rate: float | tuple[float, ...] = 0.01
    dropout: float = 0.0
    max_steps: int = 31
    folds: int = 5
    layout: Layout = "single"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check everything that can be checked without a model."""
        check_common(self)
        for rate in candidates("learning_rate", self.learning_rate):
            check_real("learning_rate", rate, positive=True)
        check_real("dropout", self.dropout, at_most=0.99)

    def fit(self, prompt: ManyShotPrompt) -> "KVState":
        """Read the prompt, train its keys and values, and return them; the model stays as it came.

        Raises what DeepThinking.fit raises, SettingError for a prompt of fewer than three demonstrations, of
        which none could be left out and one held out, and ProxyError for a model that takes no mask.
        """
        from icl_plugins.thinking.checks import check_enough
        from icl_plugins.thinking.fitting import fit

        check_enough(len(prompt.demonstrations))
        return fit(self, prompt, self._recipes)

    def _recipes(self, proxy: "Proxy", length: int) -> "Sequence[Training]":
        from icl_plugins.thinking.checks import check_masks

        check_masks(proxy)
        rates = candidates("learning_rate", self.learning_rate)
        return [Training(float(rate), self.dropout, self.seed) for rate in rates]


@dataclass(frozen=True)
class Training:
    """A learning rate and what goes with it, as a recipe for states."""

    learning_rate: float
    dropout: float
    seed: int

    def states(
        self,
        proxy: "Proxy",
        prompt: ManyShotPrompt,
        texts: "LocalTexts",
        ids: tuple[int, ...],
        steps: int,
    ) -> "Iterator[Thought]":
        """Yield the state of plain in-context learning, then that after each step of Adam."""
        from icl_plugins.thinking.left_out import left_out
        from icl_plugins.thinking.training import train

        options = (self.learning_rate, self.dropout, self.seed)
        yield from train(proxy, ids, left_out(prompt, texts, ids), steps, *options)

    def told(self) -> dict[str, Any]:
        """Return the settings, as JSON holds them."""
        hidden = f", dropout {self.dropout!r}" if self.dropout else ""
        named = f"learning rate {self.learning_rate!r}{hidden}"
        values = {"learning_rate": self.learning_rate, "dropout": self.dropout, "seed": self.seed}
        return {"method": "context tuning", "recipe": named, **values}

    def reasons(self) -> dict[str, str]:
        """Return nothing: all is as asked."""
        return {}
