"""Prefix tuning (latent concept learning): k embeddings in front of everything, all weights frozen.

arXiv 2506.04579, step A. The loss of an example is -log p(answer | prefix, question), summed over the
answer's tokens, averaged over the batch.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.errors import DataError, NonFiniteError, SettingError
from icl_plugins.progress import Progress, tell_progress
from icl_plugins.proxy.batching import run_batches
from icl_plugins.proxy.curriculum import Curriculum
from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.forward import frozen
from icl_plugins.proxy.gradients import example_gradients
from icl_plugins.proxy.lengths import OnTooLong
from icl_plugins.proxy.model import Proxy
from icl_plugins.proxy.tuning_state import STATE_FILE, TuningState, examples_hash

if TYPE_CHECKING:
    from icl_plugins.examples import Pool

Capture = Callable[[int, list[int], Tensor], None]

_BETAS, _EPSILON = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class PrefixTuning:
    """Settings of prefix tuning; the defaults are the paper's.

    length: prefix embeddings k. learning_rate: of AdamW (betas 0.9, 0.999, no weight decay). warmup: share of
    all steps. schedule: "constant" is the published main path, logarithmic warm-up to a constant rate;
    "linear" the published alternative, linear warm-up and linear decay to zero. seed: of the start, N(0,
    0.02^2), and of the shuffles.
    """

    length: int = 4
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.1
    schedule: Literal["constant", "linear"] = "constant"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values that cannot be trained with."""
        for name, least in (("length", 1), ("epochs", 1), ("batch_size", 1), ("seed", 0)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least))
        for name, expected in (("learning_rate", "a positive number"), ("warmup", "a share from 0 to 1")):
            object.__setattr__(self, name, _finite(name, getattr(self, name), expected))
        if self.learning_rate <= 0:
            raise _refused("learning_rate", self.learning_rate, "a positive number")
        if not 0 <= self.warmup <= 1:
            raise _refused("warmup", self.warmup, "a share from 0 to 1")
        if self.schedule not in ("constant", "linear"):
            raise _refused("schedule", self.schedule, '"constant" or "linear"')
        if self.seed >= 2**63:
            raise _refused("seed", self.seed, "a whole number below 2**63")

    @classmethod
    def paper(cls) -> "PrefixTuning":
        """Return the published settings (k 4, 10 epochs, batch 64, 1e-3, 10 % warm-up)."""
        return cls()

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of ``step`` (1 .. steps)."""
        warm = math.ceil(self.warmup * steps)
        if self.schedule == "constant":
            share = math.log(1 + step) / math.log(1 + warm) if step < warm else 1.0
        elif step <= warm:
            share = step / warm
        else:
            share = (steps - step + 1) / (steps - warm)
        return self.learning_rate * share


def tune_prefix(
    proxy: Proxy,
    pool: "Pool",
    *,
    length: int = 4,
    epochs: int = 10,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    warmup: float = 0.1,
    schedule: Literal["constant", "linear"] = "constant",
    seed: int = 0,
    on_too_long: OnTooLong = "error",
    capture: Capture | None = None,
    directory: str | os.PathLike[str] | None = None,
    progress: Progress = tell_progress,
) -> Curriculum:
    """Tune a prefix on all examples of the pool; return it before training and after each epoch.

    capture: online mode; called as ``capture(epoch, rows, gradients (len(rows), k, h))`` for every example
    once per epoch (0 .. epochs-1), with its gradient at the prefix its own step started from, so that no
    extra pass is needed. directory: state is saved here after each epoch, and a run that was interrupted goes
    on from it (an epoch that was not finished is captured again). progress: called as
    ``progress("prefix tuning", step, steps)`` after each step.

    Raises NonFiniteError naming step and rows when the loss diverges, StaleStoreError when ``directory``
    holds the state of another run, SettingError, and what Proxy.encode raises.
    """
    settings = PrefixTuning(length, epochs, batch_size, learning_rate, warmup, schedule, seed)
    examples = proxy.encode(pool, on_too_long=on_too_long, prefix_length=settings.length)
    rows = [row for row, example in enumerate(examples) if example is not None]
    if not rows:
        raise DataError(
            f"got {len(examples)} examples, none of which can be used",
            expected="at least one example that fits the proxy",
            fix="add examples, or choose a proxy with a longer context",
        )
    kept = [example for example in examples if example is not None]
    run = _Run(proxy, kept, rows, settings, capture, progress)
    fingerprint = {**proxy.fingerprint, "examples": examples_hash(kept, rows)}
    facts = {"config": asdict(settings), "fingerprint": fingerprint}
    path = None if directory is None else Path(directory) / STATE_FILE
    # Drawn for finished epochs too, so that a resumed run shuffles as an uninterrupted one does.
    generator = torch.Generator().manual_seed(settings.seed)
    start = torch.randn(settings.length, proxy.hidden_size, generator=generator) * 0.02
    orders = [torch.randperm(len(rows), generator=generator).tolist() for _ in range(settings.epochs)]
    state = TuningState.start(start.to(torch.promote_types(proxy.dtype, torch.float32)))
    if path is not None and path.exists():
        state = TuningState.load(path, facts)
    with frozen(proxy.model):
        for epoch in range(len(state.losses), settings.epochs):
            state = run.epoch(state, epoch, orders[epoch])
            if path is not None:
                state.save(path, facts)
    return Curriculum(state.checkpoints, state.losses, facts["config"], fingerprint)


@dataclass(frozen=True)
class _Run:
    """One tuning run: what stays the same from epoch to epoch."""

    proxy: Proxy
    examples: Sequence[Encoded]
    rows: Sequence[int]
    settings: PrefixTuning
    capture: Capture | None
    progress: Progress

    def epoch(self, state: TuningState, epoch: int, order: list[int]) -> TuningState:
        """Return the state after one pass over the examples in the given order."""
        settings, size, device = self.settings, self.settings.batch_size, self.proxy.device
        prefix = state.checkpoints[-1].to(device, copy=True)
        mean, square = state.mean.to(device, copy=True), state.square.to(device, copy=True)
        per_epoch = math.ceil(len(order) / size)
        total = 0.0
        for at in range(per_epoch):
            step = epoch * per_epoch + at + 1
            loss, gradient = self.batch(prefix, order[at * size : (at + 1) * size], epoch, step)
            total += loss
            mean.lerp_(gradient, 1 - _BETAS[0])
            square.mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
            scale = math.sqrt(1 - _BETAS[1] ** step)
            rate = settings.rate(step, settings.epochs * per_epoch) / (1 - _BETAS[0] ** step)
            prefix.addcdiv_(mean, square.sqrt().div_(scale).add_(_EPSILON), value=-rate)
            self.progress("prefix tuning", step, settings.epochs * per_epoch)
        checkpoints = torch.cat([state.checkpoints, prefix.cpu()[None]])
        return TuningState(checkpoints, mean.cpu(), square.cpu(), (*state.losses, total / len(order)))

    def batch(self, prefix: Tensor, chosen: list[int], epoch: int, step: int) -> tuple[float, Tensor]:
        """Return the summed loss and the gradient of the mean loss of one batch."""
        lengths = [len(self.examples[index].ids) + len(prefix) for index in chosen]
        total, gradient = 0.0, torch.zeros_like(prefix)
        for part, (losses, gradients) in run_batches(
            lengths,
            self.proxy.budget,
            lambda part: example_gradients(self.proxy, [self.examples[chosen[at]] for at in part], prefix),
        ):
            rows = [self.rows[chosen[at]] for at in part]
            _require_finite(losses, gradients, rows, step)
            total += float(losses.sum())
            gradient += gradients.sum(dim=0)
            if self.capture is not None:
                self.capture(epoch, rows, gradients.cpu())
        return total, gradient / len(chosen)


def _require_finite(losses: Tensor, gradients: Tensor, rows: list[int], step: int) -> None:
    finite = torch.isfinite(losses) & torch.isfinite(gradients).flatten(1).all(dim=1)
    if finite.all():
        return
    bad = [row for row, fine in zip(rows, finite.tolist(), strict=True) if not fine]
    raise NonFiniteError(
        f"NaN or infinity in loss or gradient at step {step}, {len(bad)} examples (rows {sorted(bad)[:5]})",
        expected="finite losses and gradients",
        fix="look at these examples, lower the learning rate, or use float32; a store in which an epoch was "
        "finished then needs a new folder",
    )


def _finite(name: str, value: object, expected: str) -> float:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value):  # type: ignore[arg-type]
        raise _refused(name, value, expected)
    return float(value)  # type: ignore[arg-type]


def _refused(name: str, value: object, expected: str) -> SettingError:
    return SettingError(f"{name}={value!r}", expected=expected, fix=f"change {name}")
