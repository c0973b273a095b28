"""The curriculum: the prefix before training and after each epoch, with its proof of origin."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, uint8

from icl_plugins.artefacts import atomic_write, canonical_json
from icl_plugins.errors import ArtefactError, StaleStoreError

FORMAT = "icl-plugins curriculum 1"


@dataclass(frozen=True)
class Curriculum:
    """What prefix tuning leaves behind.

    checkpoints: (E+1, k, h) on the CPU, float32 (float64 for a float64 proxy), 0 = the true start, e = after
    epoch e. losses: E means over the epoch's examples, in nats per example, each taken just before the step
    the example took part in. config: the settings. fingerprint: sha256 of weights, tokenizer and tokenized
    examples.
    """

    checkpoints: Tensor
    losses: tuple[float, ...]
    config: Mapping[str, object]
    fingerprint: Mapping[str, str]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, all of it or nothing."""
        write_tensors(
            path,
            {"checkpoints": self.checkpoints},
            {"losses": list(self.losses), "config": dict(self.config), "fingerprint": dict(self.fingerprint)},
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Curriculum":
        """Read what save wrote; raises ArtefactError for a missing, damaged or other file."""
        tensors, facts = read_tensors(path, ("checkpoints",))
        return cls(tensors["checkpoints"], tuple(facts["losses"]), facts["config"], facts["fingerprint"])


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], facts: Mapping[str, object]
) -> None:
    """Write tensors and JSON facts into one safetensors file, atomically."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = canonical_json(facts)
    metadata = {"format": FORMAT, "facts": text, "sha256": _sha256(text, whole)}
    atomic_write(path, save(whole, metadata=metadata))


def read_tensors(
    path: str | os.PathLike[str], names: tuple[str, ...]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the named tensors and the facts of a file that write_tensors wrote; raises ArtefactError."""
    if not Path(path).is_file():
        raise _damaged(path, "it does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise _damaged(path, f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata["sha256"] != _sha256(metadata["facts"], tensors):
                raise _damaged(path, "its contents do not match their sha256")
            tensors = {name: tensors[name] for name in names}
            facts = json.loads(metadata["facts"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, str(error)) from error
    kinds = {"losses": list, "config": dict, "fingerprint": dict}
    if not isinstance(facts, dict) or any(type(facts.get(name)) is not kind for name, kind in kinds.items()):
        raise _damaged(path, f"its header does not hold {', '.join(kinds)}")
    return tensors, facts


def require_origin(
    path: str | os.PathLike[str],
    saved: Mapping[str, Mapping[str, object]],
    wanted: Mapping[str, Mapping[str, object]],
) -> None:
    """Raise StaleStoreError naming each part of ``wanted`` that what was saved differs in."""
    differing = [
        f"{part}.{name}"
        for part, expected in wanted.items()
        for name in expected
        if saved[part].get(name) != expected[name]
    ]
    if differing:
        raise StaleStoreError(
            f"{os.fspath(path)!r} holds what another run has tuned: {', '.join(differing)} differ",
            expected="the same examples, proxy and settings",
            fix="choose another folder, or remove this one to start afresh",
        )


def _sha256(facts: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(facts.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(uint8).numpy().tobytes())
    return digest.hexdigest()


def _damaged(path: str | os.PathLike[str], why: str) -> ArtefactError:
    return ArtefactError(
        f"{os.fspath(path)!r} cannot be read as a curriculum: {why}",
        expected="a file that Curriculum.save wrote",
        fix="delete the file and run again: the prefix is then tuned anew",
    )
