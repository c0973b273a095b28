"""A state in a folder: its tensors, its prompt, and what they were made from."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

from icl_plugins.artefacts import atomic_write, canonical_json, fingerprint
from icl_plugins.errors import ArtefactError, DataError
from icl_plugins.prompt import Layout, ManyShotPrompt
from icl_plugins.proxy.chat import chat_template
from icl_plugins.proxy.prefix_state import Layers
from icl_plugins.thinking.checks import lasting

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy
    from icl_plugins.thinking.kv_state import KVState

TENSORS, PROMPT, STATE = "state.safetensors", "prompt.json", "state.json"

_KIND = "icl_plugins.KVState"
_SCHEMA = 1


def save(state: "KVState", folder: Path) -> None:
    """Write the folder, made if it is not there: all or nothing, but for a moment between three renames.

    state.json comes last and holds the checksums of the other two files, so that a mixture is told as damage.
    """
    from safetensors.torch import save as to_bytes

    tensors = {}
    for layer, (keys, values) in enumerate(state.layers):
        tensors[f"layers.{layer}.key"] = keys.cpu().contiguous()
        tensors[f"layers.{layer}.value"] = values.cpu().contiguous()
    # one entry: several would be written in any order
    data = to_bytes(tensors, metadata={"state": state.fingerprint})
    body = {
        "kind": _KIND,
        "schema": _SCHEMA,
        "fingerprint": state.fingerprint,
        "model": {"name": state.proxy.name, **state.proxy.fingerprint},
        "dtype": str(state.proxy.dtype).removeprefix("torch."),
        "layout": state.layout,
        "chat_template": fingerprint(chat_template(state.proxy.tokenizer, state.layout)),
        "ids": list(state.ids),
        "thinking": state.thinking,
        "tensors": hashlib.sha256(data).hexdigest(),
        "prompt": state.prompt.fingerprint,
    }
    text = canonical_json({**body, "checksum": _checksum(body)}, indent=1) + "\n"
    with _replacing(folder) as new:
        atomic_write(new / TENSORS, data)
        state.prompt.save(new / PROMPT)
        atomic_write(new / STATE, text)


def check_folder(folder: Path, name: str = "") -> None:
    """Raise ArtefactError where a state would be written among other things; name: of the option."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / STATE).is_file():
        raise ArtefactError(
            f"{name}{str(folder)!r} is a folder that holds other things than a state",
            expected="a folder that is new, empty or a state, which is then replaced",
            fix="choose another path",
        )


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield a folder whose files replace those of the state when all of them are written."""
    made = not folder.exists()
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".incomplete-") as new:
            yield Path(new)
            for name in (TENSORS, PROMPT, STATE):
                os.replace(Path(new, name), folder / name)
    except BaseException as error:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise ArtefactError(
                f"cannot write {str(folder)!r}: {error.strerror or error}",
                expected="a folder that can be made or is writable",
                fix="choose another path, or make room",
            ) from error
        raise


def load(
    folder: Path, model: "str | Path | Proxy"
) -> "tuple[Proxy, ManyShotPrompt, Layout, tuple[int, ...], Layers, dict[str, Any]]":
    """Return the fields of a KVState, its tensors on the model's device."""
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    from icl_plugins.proxy.model import Proxy

    body = describe(folder)
    prompt = prompt_of(folder, body)
    proxy = Proxy.load(model, dtype=body["dtype"]) if isinstance(model, str | Path) else model
    proxy = lasting(proxy)
    _check_model(folder, proxy, body)
    try:
        data = (folder / TENSORS).read_bytes()
        tensors = from_bytes(data)
    except (OSError, SafetensorError) as error:
        _damaged(folder, f"{TENSORS}: {error}", error)
    if hashlib.sha256(data).hexdigest() != body["tensors"]:
        _damaged(folder, f"{TENSORS} is not what was saved")
    layers = tuple(
        (tensors[f"layers.{at}.key"].to(proxy.device), tensors[f"layers.{at}.value"].to(proxy.device))
        for at in range(len(tensors) // 2)
    )
    return proxy, prompt, body["layout"], tuple(body["ids"]), layers, body["thinking"]


def describe(folder: Path) -> dict[str, Any]:
    """Return what a saved state says of itself, without its tensors; raises ArtefactError."""
    try:
        body = json.loads((folder / STATE).read_bytes().decode("utf-8"))
        kind, schema = body["kind"], body["schema"]
        checksum = body.pop("checksum", None)
        intact = checksum == _checksum(body)
    except OSError as error:
        raise ArtefactError(
            f"{str(folder)!r} holds no state: {error.strerror or error}",
            expected=f"a folder as KVState.save wrote it, with {STATE}",
            fix="check the path, or make the state with: icl-plugins think",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, DataError) as error:
        _damaged(folder, f"{STATE}: {type(error).__name__}: {error}", error)
    if kind != _KIND:
        _damaged(folder, f"it is of another kind: {kind!r:.80}")
    if type(schema) is int and schema > _SCHEMA:
        raise ArtefactError(
            f"{str(folder)!r} has schema version {schema}",
            expected=f"at most {_SCHEMA}",
            fix="upgrade icl-plugins to read it",
        )
    if schema != _SCHEMA or not intact:
        _damaged(folder, f"{STATE} was edited: its checksum does not match its content")
    return dict(body)


def prompt_of(folder: Path, body: Mapping[str, Any]) -> ManyShotPrompt:
    """Return the prompt of a saved state, of which `describe` gave the body; raises ArtefactError."""
    prompt = ManyShotPrompt.load(folder / PROMPT)
    if prompt.fingerprint != body["prompt"]:
        _damaged(folder, "its prompt is another")
    return prompt


def _check_model(folder: Path, proxy: "Proxy", body: dict[str, Any]) -> None:
    made = body["model"]
    other = [part for part, value in proxy.fingerprint.items() if made[part] != value]
    if other:
        dtype = str(proxy.dtype).removeprefix("torch.")
        loaded = f", loaded as {dtype}, not {body['dtype']}" if dtype != body["dtype"] else ""
        raise ArtefactError(
            f"{str(folder)!r} is the state of another model: {' and '.join(other)} of {made['name']!r}"
            f" are not those of {proxy.name!r}{loaded}",
            expected="the model, tokenizer and dtype that it was made with",
            fix=f"load {made['name']!r} with dtype={body['dtype']!r}, or make the state again",
        )
    if body["chat_template"] != fingerprint(chat_template(proxy.tokenizer, body["layout"])):
        raise ArtefactError(
            f"{str(folder)!r} was made with another chat template than {proxy.name!r} has",
            expected="the same, since queries would be written otherwise than the prompt was",
            fix="restore the chat template, or make the state again",
        )


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()


def _damaged(folder: Path, what: str, cause: Exception | None = None) -> NoReturn:
    raise ArtefactError(
        f"{str(folder)!r} is damaged: {what}",
        expected="a folder as KVState.save wrote it",
        fix="restore it, or make the state again from its prompt",
    ) from cause
