"""ManyICL (arXiv 2506.11103): fine-tune on many-shot sequences, the loss on every answer in the context."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.errors import SettingError
from icl_plugins.selectors._settings import check_choice, check_models, check_real, check_seed
from icl_plugins.tuning.sequences import Weighting
from icl_plugins.tuning.stage import Stage
from icl_plugins.tuning.tasks import Task, listed

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy
    from icl_plugins.tuning.tuned import Tuned


@dataclass(frozen=True)
class ManyICL:
    """Teaches a causal language model to use many shots, on all tasks at once.

    model: "micro", a folder, a Hugging Face id, or a loaded Proxy, which stays as it is. stages: one behind
    the other; mostly one. weighting: which predictions count. accumulation: batches of a step on one device.
    lora_rank: of the adapter on all linear layers; None trains all weights. frozen: weights whose names hold
    one of these texts, such as "embed_tokens" or "layers.0.", stay as they are. learning_rate: its peak,
    after ``warmup`` steps; it falls over the last share ``decay`` of the steps. kl: weight of KL(base ||
    tuned) on plain text, which needs an adapter. precision: "auto" is bfloat16 where a GPU has it.
    on_too_long: what becomes of examples that do not fit a stage's context. checkpoint_every,
    evaluate_every: steps.

    Raises SettingError for values that cannot be.
    """

    model: "str | Proxy" = "micro"
    stages: tuple[Stage, ...] = (Stage(),)
    weighting: Weighting = Weighting()
    accumulation: int = 1
    lora_rank: int | None = 16
    frozen: tuple[str, ...] = ()
    learning_rate: float = 3e-4
    warmup: int = 20
    decay: float = 1.0
    weight_decay: float = 0.0
    clip: float = 1.0
    kl: float = 0.0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    gradient_checkpointing: bool = False
    on_too_long: Literal["error", "skip"] = "error"
    checkpoint_every: int = 100
    evaluate_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        """Check everything that can be checked without a model."""
        check_models(self)
        check_seed(self.seed)
        if not self.stages or not isinstance(self.stages, tuple):
            got = f"stages={self.stages!r:.60}"
            raise SettingError(got, expected="a tuple of Stage", fix="pass stages=(Stage(...),)")
        for name in ("accumulation", "checkpoint_every", "evaluate_every"):
            whole_number(name, getattr(self, name), 1)
        whole_number("warmup", self.warmup, 0)
        if self.lora_rank is not None:
            whole_number("lora_rank", self.lora_rank, 1)
        check_real("learning_rate", self.learning_rate, positive=True)
        check_real("clip", self.clip, positive=True)
        check_real("weight_decay", self.weight_decay)
        check_real("decay", self.decay, at_most=1.0, positive=True)
        check_real("kl", self.kl)
        check_choice("precision", self.precision, ("auto", "float32", "bfloat16"))
        check_choice("on_too_long", self.on_too_long, ("error", "skip"))
        if self.kl and (self.lora_rank is None or not any(stage.plain for stage in self.stages)):
            raise SettingError(
                f"kl={self.kl} with lora_rank={self.lora_rank} and no plain text"
                if self.lora_rank
                else f"kl={self.kl} without an adapter",
                expected="an adapter, which is switched off to ask the base, and a stage with plain > 0",
                fix="set lora_rank and plain, or leave kl at 0",
            )

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """Return the settings in JSON's types; a loaded model is its name."""
        model = self.model if isinstance(self.model, str) else self.model.name
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        stages = [asdict(stage) for stage in self.stages]
        return {**values, "model": model, "stages": stages, "weighting": asdict(self.weighting)}

    def fit(
        self,
        tasks: Sequence[Task],
        out: str | Path,
        *,
        text: Sequence[str] = (),
        validation: Sequence[Task] = (),
    ) -> "Tuned":
        """Train, and return the tuned model; all that is needed to go on after an interruption is in ``out``.

        text: documents of plain text. validation: tasks on which accuracy against shots is measured on the
        way; their examples are not trained on unless they are in ``tasks`` too. The same call on the same
        folder goes on from the last checkpoint, and returns at once where all steps are done.

        Raises DataError and TooLongError for tasks that cannot be trained on, SettingError for names of tasks
        that are not there, ProxyError for the model, ArtefactError for a folder that holds another run or a
        disk that is full, StoreLockedError where another process trains into it, TuningError when training
        diverges: the model of the last checkpoint is then in the folder.
        """
        from icl_plugins.tuning.fit import fit

        return fit(self, listed("tasks", tasks), Path(out), text, listed("validation", validation))
