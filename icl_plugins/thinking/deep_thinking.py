"""Deep thinking (arXiv 2305.13016): read the demonstrations several times; the query then needs none."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from icl_plugins.prompt import Layout, ManyShotPrompt
from icl_plugins.selectors._settings import check_choice, check_real
from icl_plugins.thinking.settings import candidates, check_common

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy
    from icl_plugins.thinking.kv_state import KVState
    from icl_plugins.thinking.positions import Mode
    from icl_plugins.thinking.reading import Pace

_MODES = ("auto", "reference", "overlap", "relative")


@dataclass(frozen=True)
class DeepThinking:
    """Turns a prompt into a key-value state that has read its demonstrations `steps` times.

    model: "micro", a folder, a Hugging Face id, or a loaded Proxy. steps: readings (T in the paper); 1 is
    plain in-context learning; "auto" chooses among 1..max_steps on demonstrations held out of the prompt, in
    `folds` parts. step_size, positions: one value, or a tuple of candidates among which is chosen the same
    way. positions: see thinking.positions. layout: how the prompt is written, as in ManyShotPrompt.messages.

    Raises SettingError for values that cannot be.
    """

    # Fewer steps are taken where the loss says so little: most of the time more reading is noise.
    standard_errors: ClassVar[float] = 1.0

    model: "str | Proxy" = "micro"
    steps: int | Literal["auto"] = "auto"
    step_size: float | tuple[float, ...] = 0.01
    momentum: float = 0.9
    positions: "Mode | Literal['auto'] | tuple[Mode | Literal['auto'], ...]" = "auto"
    max_steps: int = 15
    folds: int = 5
    layout: Layout = "single"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check everything that can be checked without a model."""
        check_common(self)
        for size in candidates("step_size", self.step_size):
            check_real("step_size", size)
        check_real("momentum", self.momentum, at_most=1.0)
        for mode in candidates("positions", self.positions):
            check_choice("positions", mode, _MODES)

    @classmethod
    def paper(cls, model: "str | Proxy" = "micro", steps: int = 15) -> Self:
        """Return the published settings: step size 0.01, momentum 0.9, the positions of the published code.

        The paper takes, of 1..15 steps, those that are best on the evaluation set itself: see
        thinking.replication.
        """
        return cls(model, steps=steps, step_size=0.01, momentum=0.9, positions="reference")

    def fit(self, prompt: ManyShotPrompt) -> "KVState":
        """Read the prompt and return its state; the model stays as it came.

        Raises SettingError for a prompt without demonstrations, TooLongError where it does not fit,
        ProxyError for a model that keeps no keys and values or whose keys do not last, NonFiniteError.
        """
        from icl_plugins.thinking.fitting import fit

        return fit(self, prompt, self._paces)

    def _paces(self, proxy: "Proxy", length: int) -> "list[Pace]":
        from icl_plugins.thinking.positions import resolve
        from icl_plugins.thinking.reading import Pace

        resolved = {}
        for asked in candidates("positions", self.positions):
            mode, move, why = resolve(proxy, asked, length)
            resolved[mode] = (move, why)
        sizes = candidates("step_size", self.step_size)
        return [
            Pace(float(size), self.momentum, mode, *found)
            for mode, found in resolved.items()
            for size in sizes
        ]
