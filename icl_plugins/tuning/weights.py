"""The model that learns: in the right precision, with an adapter or without, the caller's left alone."""

import random
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from icl_plugins.errors import ArtefactError, SettingError
from icl_plugins.proxy.loading import choose_device
from icl_plugins.tuning.checkpoints import Checkpoint
from icl_plugins.tuning.packing import packs

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy
    from icl_plugins.tuning.many_icl import ManyICL


@dataclass(frozen=True)
class Learner:
    """A model to train.

    proxy: around the model of transformers, in which the adapter's layers are. model: what is trained: the
    same, or with an adapter around it. mixed: whether it computes in bfloat16 with weights in float32.
    stored: the dtype in which the base's weights lie on disk, or were given. name, fingerprint: of the base.
    """

    proxy: "Proxy"
    model: Any
    mixed: bool
    stored: torch.dtype
    name: str
    fingerprint: dict[str, str]

    @cached_property
    def packs(self) -> tuple[bool, str]:
        """Whether the model keeps the sequences of a row apart, and why not."""
        return packs(self.proxy)

    def base(self) -> AbstractContextManager[None]:
        """Return the block in which the model is as it was before."""
        off: AbstractContextManager[None] = self.model.disable_adapter()
        return off

    @property
    def trained(self) -> dict[str, torch.Tensor]:
        """The weights that are trained, by name."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}


def learner(settings: "ManyICL") -> Learner:
    """Load the model, or copy the one that is given, and put the adapter on.

    All weights are trained in float32, since small steps vanish in half precision; below an adapter the base
    stays in the precision that is asked for. Raises what Proxy.load raises.
    """
    from icl_plugins.proxy.model import Proxy

    bfloat16 = settings.precision == "bfloat16" or (
        settings.precision == "auto" and device_of(settings).type == "cuda" and torch.cuda.is_bf16_supported()
    )
    rank = settings.lora_rank
    full = rank is None
    dtype = torch.bfloat16 if bfloat16 and not full else torch.float32
    base, stored = _base(settings.model, dtype)
    inner = (base.model if isinstance(settings.model, str) else deepcopy(base.model)).to(dtype)
    name, origin = base.name, base.fingerprint
    proxy = Proxy.from_model(inner, base.tokenizer, name)
    if settings.gradient_checkpointing:  # transformers is changing the name
        enable = (
            getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
        )
        enable({"use_reentrant": False})
    model = inner.requires_grad_(full)
    if rank is not None:
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        with warnings.catch_warnings():  # peft asks the model by a name that transformers is changing
            warnings.simplefilter("ignore", FutureWarning)
            model = get_peft_model(inner, lora)
    _freeze(model, settings.frozen)
    return Learner(proxy, model, bfloat16 and full, stored, name, origin)


def _freeze(model: Any, parts: tuple[str, ...]) -> None:
    """Freeze the weights whose names hold one of the parts; raises SettingError for parts of none or all."""
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for part in parts:
        found = [weight for name, weight in trained.items() if part in name]
        for weight in found:
            weight.requires_grad_(False)
        if not found or not any(weight.requires_grad for weight in trained.values()):
            raise SettingError(
                f"frozen: {part!r} is in the name of {'no weight' if not found else 'the last weight'}",
                expected=f"parts of some of the names {', '.join(list(trained)[:3])}, ...",
                fix="correct frozen",
            )


def device_of(settings: "ManyICL") -> torch.device:
    """Return where the model is, or will be loaded to."""
    given = settings.model
    device: torch.device = choose_device("auto")[0] if isinstance(given, str) else given.device
    return device


def _base(given: "str | Proxy", dtype: torch.dtype) -> "tuple[Proxy, torch.dtype]":
    """Return the base and the precision in which its weights lie on disk, or were given."""
    from transformers import AutoConfig

    from icl_plugins.proxy.model import Proxy

    if not isinstance(given, str):
        return given, given.dtype
    base = Proxy.load(given, dtype=str(dtype).removeprefix("torch."))
    config = AutoConfig.from_pretrained(base.model.config._name_or_path, trust_remote_code=False)
    return base, config.dtype or dtype


def restore(learner: Learner, checkpoint: Checkpoint | None) -> None:
    """Put the weights of a checkpoint into the model; raises ArtefactError for those of another."""
    if checkpoint is None:
        return
    trained = learner.trained
    if {n: w.shape for n, w in trained.items()} != {n: w.shape for n, w in checkpoint.weights.items()}:
        raise ArtefactError(
            f"the checkpoint of step {checkpoint.step} has weights of another model",
            expected="the weights that are trained",
            fix="delete it: the run goes on from the one before",
        )
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(checkpoint.weights[name])


@contextmanager
def kept_randomness(seed: int) -> Iterator[None]:
    """Seed the global generators, which Trainer and peft use, and put them back as they were."""
    python, array = random.getstate(), np.random.get_state()  # noqa: NPY002  # only kept
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)  # noqa: NPY002
