"""A tuned model: to use here, and to save as a folder that transformers, its server and vLLM load."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from icl_plugins.artefacts import atomic_write, canonical_json
from icl_plugins.errors import ArtefactError, SettingError
from icl_plugins.tuning.card import card

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

RECORD = "tuning.json"
MODEL, ADAPTER = "model", "adapter"  # in the folder of a run


@dataclass(frozen=True)
class Tuned:
    """What tuning leaves behind.

    model: of transformers, with its adapter if it has one; tokenizer: as it was. record: settings,
    fingerprints, losses and curves. dtype: in which the weights are saved.
    """

    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    record: Mapping[str, Any] = field(repr=False)
    dtype: Any = None

    @cached_property
    def proxy(self) -> "Proxy":
        """The model as a Proxy: to choose demonstrations with, to think with, and, as LocalTarget, to ask."""
        from icl_plugins.proxy.model import Proxy

        return Proxy.from_model(_inner(self.model).eval(), self.tokenizer, name=self.record["name"])

    def save(self, folder: str | Path, *, adapter: bool = False) -> Path:
        """Write a folder of transformers: the whole model, the adapter merged into it, or the adapter alone.

        A folder that holds another tuned model is replaced. Raises ArtefactError for a folder with other
        things or that cannot be written, SettingError for an adapter where there is none.
        """
        merged = hasattr(self.model, "merge_and_unload")
        if adapter and not merged:
            raise SettingError(
                "no adapter: all weights were trained", expected="lora_rank", fix="save the whole model"
            )
        model = self.model if adapter else _whole(self.model, self.dtype)
        return write(Path(folder), model, self.tokenizer, self.record)


def write(folder: Path, model: Any, tokenizer: Any, record: Mapping[str, Any]) -> Path:
    """Write model, tokenizer, record and card; all of it, or the folder stays as it was but for a moment."""
    check_folder(folder)
    from icl_plugins.proxy.loading import progress_bar

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.incomplete-") as beside:
            new = Path(beside, "new")
            with progress_bar(shown=False):
                model.save_pretrained(new)
            tokenizer.save_pretrained(new)
            atomic_write(new / "README.md", card(record))
            atomic_write(new / RECORD, canonical_json(record, indent=1) + "\n")
            if folder.exists():
                folder.rename(Path(beside, "old"))
            new.rename(folder)
    except (OSError, SafetensorError) as error:
        raise ArtefactError(
            f"cannot write {str(folder)!r}: {getattr(error, 'strerror', None) or error}",
            expected="a folder that is writable and has room",
            fix="make room, or choose another path",
        ) from error
    return folder


def check_folder(folder: Path) -> None:
    """Raise ArtefactError where a tuned model would replace other things."""
    if folder.exists() and not (
        folder.is_dir() and (not any(folder.iterdir()) or (folder / RECORD).is_file())
    ):
        raise ArtefactError(
            f"{str(folder)!r} holds other things than a tuned model",
            expected="a folder that is new, empty or a tuned model, which is then replaced",
            fix="choose another path",
        )


def read_record(folder: str | Path) -> dict[str, Any]:
    """Return the record of a tuned model's folder; raises ArtefactError where there is none."""
    path = Path(folder) / RECORD
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(
            f"cannot read {str(path)!r}: {error}", expected="a folder of a tuned model", fix="check the path"
        ) from error
    return record


def _inner(model: Any) -> Any:
    """Return the model of transformers, in which the adapter's layers are."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _whole(model: Any, dtype: Any) -> Any:
    """Return the model without an adapter, in the precision to save it in; the one that is given stays."""
    merged = hasattr(model, "merge_and_unload")
    if not merged and dtype in (None, model.dtype):
        return model
    import torch

    whole = deepcopy(model)
    if merged:
        # in float32: a small change would vanish in the roundings of half precision
        whole = whole.to(torch.float32).merge_and_unload(safe_merge=True)
    return whole.to(dtype or model.dtype)
