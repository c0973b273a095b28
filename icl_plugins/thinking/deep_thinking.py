"""Deep thinking (arXiv 2305.13016): read the demonstrations several times; the query then needs none."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.errors import SettingError
from icl_plugins.prompt import Layout, ManyShotPrompt
from icl_plugins.selectors._settings import check_choice, check_models, check_real, check_seed, load_proxy

if TYPE_CHECKING:
    from icl_plugins.evaluation.local_texts import LocalTexts
    from icl_plugins.proxy.model import Proxy
    from icl_plugins.thinking.choosing import Choice, HeldOut
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
        check_models(self)
        if self.steps != "auto":
            whole_number("steps", self.steps, 1)
        for size in _all(self.step_size):
            check_real("step_size", size)
        check_real("momentum", self.momentum, at_most=1.0)
        for mode in _all(self.positions):
            check_choice("positions", mode, _MODES)
        whole_number("max_steps", self.max_steps, 1)
        whole_number("folds", self.folds, 2)
        check_choice("layout", self.layout, ("single", "turns", "json"))
        check_seed(self.seed)
        for name in ("step_size", "positions"):
            if not _all(getattr(self, name)):
                raise SettingError(f"{name}=()", expected="one value at least", fix=f"leave {name} out")

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
        from icl_plugins.evaluation.local_texts import LocalTexts
        from icl_plugins.thinking.checks import check_model
        from icl_plugins.thinking.kv_state import KVState
        from icl_plugins.thinking.prefix import prefix_tokens
        from icl_plugins.thinking.reading import think

        proxy = load_proxy(self.model)
        check_model(proxy)
        texts = LocalTexts(proxy, self.layout)
        ids = prefix_tokens(texts, prompt)
        choice, held_out = self._choose(proxy, prompt, texts, len(ids))
        norms = []
        for thought in think(proxy, ids, choice.pace, choice.steps):
            if thought.norms is not None:
                norms.append(thought.norms.tolist())
        return KVState(
            proxy, prompt, self.layout, ids, tuple(thought.precise), self._told(choice, held_out, norms)
        )

    def _choose(
        self, proxy: "Proxy", prompt: ManyShotPrompt, texts: "LocalTexts", length: int
    ) -> "tuple[Choice, list[HeldOut]]":
        from icl_plugins.thinking.choosing import Choice, choose, hold_out

        paces = list(self._paces(proxy, length))
        if self.steps != "auto" and len(paces) == 1:
            return Choice(paces[0], self.steps, "asked for"), []
        if len(prompt.demonstrations) == 1:
            steps = 1 if self.steps == "auto" else self.steps
            return Choice(paces[0], steps, "one demonstration: none can be held out"), []
        steps = self.max_steps if self.steps == "auto" else self.steps
        measured = [
            hold_out(proxy, prompt, texts, pace, steps=steps, folds=self.folds, seed=self.seed)
            for pace in paces
        ]
        if self.steps != "auto":  # the pace alone is to be chosen
            best = min(measured, key=lambda one: float(one.losses[:, -1].mean()))
            return Choice(best.pace, self.steps, "the least held-out loss at this number of steps"), measured
        return choose(measured), measured

    def _paces(self, proxy: "Proxy", length: int) -> "Iterator[Pace]":
        from icl_plugins.thinking.positions import resolve
        from icl_plugins.thinking.reading import Pace

        resolved = {}
        for asked in _all(self.positions):
            mode, move, _ = resolve(proxy, asked, length)
            resolved[mode] = move
        for mode, move in resolved.items():
            for size in dict.fromkeys(_all(self.step_size)):
                yield Pace(float(size), self.momentum, mode, move)

    def _told(self, choice: "Choice", held_out: "list[HeldOut]", norms: list[Any]) -> dict[str, Any]:
        """Return how the state was made, as JSON holds it."""
        from icl_plugins.thinking.choosing import summary

        return {
            "steps": choice.steps,
            "step_size": choice.pace.step_size,
            "momentum": self.momentum,
            "positions": choice.pace.mode,
            "reason": choice.reason,
            "held_out": [summary(one) for one in held_out],
            "norms": norms,
        }


def _all(values: Any) -> tuple[Any, ...]:
    return values if isinstance(values, tuple) else (values,)
