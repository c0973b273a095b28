"""Checkpoints of a run: model, optimiser and place, written whole or not at all, read without pickle."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from icl_plugins.artefacts import atomic_write, canonical_json
from icl_plugins.errors import ArtefactError
from icl_plugins.tuning.stage import Stage
from icl_plugins.tuning.watch import is_good, of_stage

FOLDER, STATE = "checkpoints", "state.json"
_WEIGHTS, _MOMENTS = "weights.safetensors", "optimiser.safetensors"
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stood.

    step: how many are done. made_from: fingerprints of data, model and settings. log: what was measured, as
    JSON. weights: those that are trained, by name. moments: of the optimiser, by number of the parameter and
    name.
    """

    step: int
    made_from: Mapping[str, str]
    log: Mapping[str, list[Any]]
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]


def save(checkpoint: Checkpoint, out: Path) -> Path:
    """Write a folder of ``out`` named after the step, and remove all but the last two -> the folder.

    Raises ArtefactError where the disk is full or the folder cannot be written; those before it stay.
    """
    folder = out / FOLDER / f"step-{checkpoint.step:07d}"
    new = folder.with_name(f".{folder.name}.incomplete")
    try:
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        save_file(_whole(checkpoint.weights), new / _WEIGHTS)
        save_file(_whole(checkpoint.moments), new / _MOMENTS)
        body = {
            "step": checkpoint.step,
            "made_from": dict(checkpoint.made_from),
            "log": dict(checkpoint.log),
        }
        atomic_write(new / STATE, canonical_json(body, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(new, folder)
    except (OSError, SafetensorError) as error:
        raise ArtefactError(
            f"cannot write the checkpoint {str(folder)!r}: {getattr(error, 'strerror', None) or error}",
            expected="a folder that is writable and has room",
            fix="make room, then run the same again: it goes on from the checkpoint before",
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    for older in _folders(out)[:-_KEPT]:
        shutil.rmtree(older, ignore_errors=True)
    return folder


def load_last(out: Path, made_from: Mapping[str, str]) -> Checkpoint | None:
    """Return the last checkpoint of a run, None where there is none.

    Raises ArtefactError for one that was made from other data, another model or other settings, naming
    which, and for one that is damaged.
    """
    folders = _folders(out)
    return _load(folders[-1], made_from) if folders else None


def load_good(out: Path, made_from: Mapping[str, str], stages: Sequence[Stage]) -> Checkpoint | None:
    """Return the last one whose losses had not risen yet; raises as load_last does."""
    kept = [_load(folder, made_from) for folder in _folders(out)]
    good = [one for one in kept if is_good(of_stage(one.log["losses"], stages))]
    return good[-1] if good else None


def last_log(out: Path) -> tuple[int, dict[str, list[Any]]] | None:
    """Return step and log of the last checkpoint, its tensors unread; None and errors as of load_last."""
    folders = _folders(out)
    return _state(folders[-1])[1:] if folders else None


def _state(folder: Path) -> tuple[dict[str, str], int, dict[str, list[Any]]]:
    try:
        body: dict[str, Any] = json.loads((folder / STATE).read_text("utf-8"))
        return dict(body["made_from"]), int(body["step"]), dict(body["log"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> ArtefactError:
    return ArtefactError(
        f"the checkpoint {str(folder)!r} is damaged: {error}",
        expected="a folder as it was written",
        fix="delete it: the run goes on from the one before",
    )


def _load(folder: Path, made_from: Mapping[str, str]) -> Checkpoint:
    found, step, log = _state(folder)
    try:
        weights, moments = load_file(folder / _WEIGHTS), load_file(folder / _MOMENTS)
    except (OSError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    other = sorted(name for name in {*found, *made_from} if found.get(name) != made_from.get(name))
    if other:
        raise ArtefactError(
            f"{str(folder.parent.parent)!r} holds a run that was made from other {', '.join(other)}",
            expected="the same data, model and settings, to go on with it",
            fix="choose another folder, or delete this one to begin anew",
        )
    return Checkpoint(step, found, log, weights, moments)


def moments_of(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the tensors of an optimiser's state, by number of the parameter and name."""
    state = optimiser.state_dict()["state"]
    return {
        f"{number}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for number, values in state.items()
        for name, value in values.items()
    }


def restore_moments(optimiser: torch.optim.Optimizer, moments: Mapping[str, Tensor]) -> None:
    """Put the tensors back."""
    state = optimiser.state_dict()
    for key, value in moments.items():
        number, name = key.split(".", 1)
        state["state"].setdefault(int(number), {})[name] = value
    optimiser.load_state_dict(state)


def _folders(out: Path) -> list[Path]:
    return sorted(path.parent for path in (out / FOLDER).glob(f"step-*/{STATE}"))


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
