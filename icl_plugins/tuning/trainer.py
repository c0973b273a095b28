"""transformers' Trainer for many-shot rows: our batches, our loss, our checkpoints, all else its own."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from icl_plugins.tuning.checkpoints import Checkpoint, restore_moments
from icl_plugins.tuning.objective import answer_weights, divergence, logits_at, nats
from icl_plugins.tuning.rows import Batches


@dataclass(frozen=True)
class Schedule:
    """The learning rate at each step: up over ``warmup`` steps, then held, then down as half a cosine.

    decay: share of all steps, at the end, over which it falls to 1 % of its peak.
    """

    steps: int
    warmup: int
    decay: float

    def __call__(self, step: int) -> float:
        """Return the share of the peak at a step, from 0."""
        up = min(1.0, (step + 1) / max(1, self.warmup))
        left = max(0.0, 1.0 - step / self.steps)
        down = 1.0 if left >= self.decay else 0.5 - 0.5 * math.cos(math.pi * left / self.decay)
        return up * (0.01 + 0.99 * down)


class ManyShotTrainer(Trainer):
    """Trains on Batches with the weighted loss; what it goes on from is given as a Checkpoint.

    The loss of a step is the weighted mean over all answers' predictions of its batches on all devices, plus
    ``text`` times the mean over their tokens of plain text, plus ``kl`` times the mean KL(base || tuned) over
    these. base: makes the block in which the model is as it was. on_step: called with (trainer, step, loss)
    after each, and may end the run by raising.
    """

    loss_is_scaled_for_ga = True  # by the weights of the whole step

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        batches: Batches,
        schedule: Schedule,
        *,
        start: Checkpoint | None,
        text: float,
        kl: float,
        base: Callable[[], AbstractContextManager[None]],
        on_step: Callable[["ManyShotTrainer", int, float], None],
    ) -> None:
        super().__init__(
            model=model, args=arguments, train_dataset=batches, data_collator=_only, callbacks=[_Steps(self)]
        )
        self.schedule, self.begin, self.base, self.on_step = schedule, start, base, on_step
        self.text, self.kl = text, kl
        self.loss = torch.zeros((), device=arguments.device)

    @property
    def start(self) -> int:
        """The step that the run began or went on at."""
        return self.begin.step if self.begin else 0

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """Return the batches of a step, and sums (2,) over all devices: weights of answers, plain tokens."""
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        parts = [(answer_weights(batch).sum(), batch["plain"].sum()) for batch in batches]
        sums = torch.tensor([[float(answers), float(plain)] for answers, plain in parts], device=device).sum(
            0
        )
        # a step without answers, or without plain text, has the loss 0 of them and not 0 / 0
        return batches, self.accelerator.reduce(sums, "sum").clamp(min=torch.finfo(sums.dtype).tiny)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return this batch's part of the loss of the step; gradients are averaged over the devices."""
        inner = self.accelerator.unwrap_model(model)
        sums = cast(Tensor, num_items_in_batch)
        logits = logits_at(inner, inputs, model)
        losses, plain = nats(logits, inputs), inputs["plain"]
        loss = (losses * answer_weights(inputs)).sum() / sums[0] + self.text * losses[plain].sum() / sums[1]
        if self.kl and plain.any():
            loss = loss + self.kl * divergence(logits, inner, inputs, self.base()) / sums[1]
        loss = loss * int(self.accelerator.num_processes)
        self.loss += loss.detach()
        return loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the optimiser, as the checkpoint left it."""
        optimiser = super().create_optimizer(model)
        if self.begin:
            restore_moments(optimiser, self.begin.moments)
        return optimiser

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the schedule, at the step that is to be done next."""
        if self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                cast(torch.optim.Optimizer, self.optimizer), lambda step: self.schedule(step + self.start)
            )
        return self.lr_scheduler

    def step_done(self) -> None:
        """Tell the loss of a step, the mean over the devices, and forget it."""
        loss = float(self.accelerator.reduce(self.loss, "mean"))
        self.loss.zero_()
        self.on_step(self, self.start + self.state.global_step, loss)


class _Steps(TrainerCallback):
    def __init__(self, trainer: ManyShotTrainer) -> None:
        self.trainer = trainer

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        # dropout of a step is the same wherever the run began
        trainer = self.trainer
        step = trainer.start + trainer.state.global_step
        device = trainer.args.process_index
        torch.manual_seed(int(np.random.SeedSequence([trainer.args.seed, step, device]).generate_state(1)[0]))

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.trainer.step_done()


def _only(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return batches[0]
