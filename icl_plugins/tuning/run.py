"""The steps of a run: what is watched, measured and kept on the way."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PrinterCallback, TrainingArguments

from icl_plugins import __version__
from icl_plugins.errors import SettingError
from icl_plugins.progress import tell_progress
from icl_plugins.tuning.answered import SHOTS, answered
from icl_plugins.tuning.checkpoints import Checkpoint, moments_of, save
from icl_plugins.tuning.curves import curve_of
from icl_plugins.tuning.drawing import Drawer
from icl_plugins.tuning.rows import Batches
from icl_plugins.tuning.tasks import Task
from icl_plugins.tuning.trainer import ManyShotTrainer, Schedule
from icl_plugins.tuning.tuned import Tuned
from icl_plugins.tuning.watch import of_stage, risen
from icl_plugins.tuning.weights import Learner

if TYPE_CHECKING:
    from icl_plugins.tuning.many_icl import ManyICL


class Diverged(Exception):  # noqa: N818
    """The loss or the weights are no longer numbers, or worse than at the beginning."""


class Run:
    """One run; log: losses of all steps, curves by step, and notes."""

    def __init__(
        self,
        settings: "ManyICL",
        model: Learner,
        drawers: Sequence[Drawer],
        validation: Sequence[Task],
        out: Path,
        made_from: Mapping[str, str],
        start: Checkpoint | None,
        notes: Sequence[str],
    ) -> None:
        self.settings, self.model, self.drawers, self.validation = settings, model, drawers, validation
        self.out, self.made_from, self.start = out, made_from, start
        self.log: dict[str, list[Any]] = {"losses": [], "curves": [], "notes": list(notes)}
        if start:
            self.forget(start)

    @property
    def begun(self) -> int:
        """The step that it begins or goes on at."""
        return self.start.step if self.start else 0

    def forget(self, last: Checkpoint) -> None:
        """Go back to what was known at a checkpoint."""
        self.log = {name: list(values) for name, values in last.log.items()}

    def train(self) -> None:
        """Do all steps that are left. Raises Diverged."""
        if self.begun == self.settings.steps:
            return
        if not self.begun:
            self._measure(0)
        config = self.model.proxy.model.config
        cached = getattr(config, "use_cache", None)
        trainer = self._trainer()
        trainer.remove_callback(PrinterCallback)
        try:
            trainer.train()
        finally:  # mixed precision and training without a cache are the run's, not the model's
            trainer.accelerator.unwrap_model(self.model.model, keep_fp32_wrapper=False)
            if cached is not None:
                config.use_cache = cached

    def tuned(self) -> Tuned:
        """Return the model as it is now."""
        record = {
            "kind": "icl_plugins.Tuned",
            "version": __version__,
            "name": self.out.resolve().name,
            "base": self.model.name,
            "settings": self.settings.as_json(),
            "made_from": dict(self.made_from),
            "tasks": [
                {"name": task.name, "examples": len(task.pool), "classes": len(task.names) * task.classes}
                for task in {task.name: task for one in self.drawers for task in one.tasks}.values()
            ],
            **self.log,
        }
        return Tuned(self.model.model, self.model.proxy.tokenizer, record, self.model.stored)

    def _trainer(self) -> ManyShotTrainer:
        settings = self.settings
        arguments = TrainingArguments(
            output_dir=str(self.out),
            num_train_epochs=1,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=settings.accumulation,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.clip,
            adam_beta2=0.98,
            bf16=self.model.mixed,
            use_cpu=self.model.proxy.device.type == "cpu",
            dataloader_pin_memory=self.model.proxy.device.type != "cpu",
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            ddp_find_unused_parameters=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=settings.seed,
        )
        if arguments.n_gpu > 1:
            raise SettingError(
                f"{arguments.n_gpu} GPUs in one process",
                expected="one process for each",
                fix="start with `accelerate launch` or torchrun, or set CUDA_VISIBLE_DEVICES to one of them",
            )
        per_step = settings.accumulation * arguments.world_size
        return ManyShotTrainer(
            self.model.model,
            arguments,
            Batches(self.drawers, settings.weighting, settings.seed, per_step=per_step, start=self.begun),
            Schedule(settings.steps, settings.warmup, settings.decay),
            start=self.start,
            text=settings.weighting.text,
            kl=settings.kl,
            base=self.model.base if settings.kl else nullcontext,
            on_step=self._after,
        )

    def _after(self, trainer: ManyShotTrainer, step: int, loss: float) -> None:
        self.log["losses"].append(loss)
        self._watch(step)
        tell_progress("tuning", step, self.settings.steps)
        last = step == self.settings.steps
        if last or step % self.settings.evaluate_every == 0:
            self._measure(step)
        if last or step % self.settings.checkpoint_every == 0:
            self._keep(trainer, step)

    def _watch(self, step: int) -> None:
        losses = self.log["losses"]
        if not np.isfinite(losses[-1]):
            raise Diverged(f"the loss of step {step} is {losses[-1]}")
        rise = risen(of_stage(losses, self.settings.stages))
        if rise:
            raise Diverged(f"the loss rose from {rise[0]:.2f} to {rise[1]:.2f} nats by step {step}")

    def _measure(self, step: int) -> None:
        for task in self.validation:
            with torch.random.fork_rng():
                found = curve_of(answered(self.model.proxy, task))
            self.log["curves"].append({"step": step, **asdict(found)})
            missing = sorted(set(SHOTS) - {point.shots for point in found.points})
            if missing and not step:
                shots = ", ".join(map(str, missing))
                self.log["notes"].append(
                    f"{task.name}: {shots} shots not measured: too few rows, or the context"
                )
            last = found.points[-1]
            told = f"{last.nats:.2f} nats" if last.accuracy is None else f"{last.accuracy:.2f}"
            tell_progress(f"{task.name} behind {last.shots} shots, step {step}: {told}", 1, 1)

    def _keep(self, trainer: ManyShotTrainer, step: int) -> None:
        weights = self.model.trained
        if not all(bool(weight.isfinite().all()) for weight in weights.values()):
            raise Diverged(f"weights are no longer finite after step {step}")
        if not trainer.is_world_process_zero():
            return
        optimiser: Any = trainer.optimizer
        inner = getattr(optimiser, "optimizer", optimiser)
        save(Checkpoint(step, self.made_from, self.log, weights, moments_of(inner)), self.out)
