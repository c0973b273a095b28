"""Find and load a causal LM with its tokenizer: safetensors only, no remote code, every refusal explained."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icl_plugins.errors import IclError, ProxyError, SettingError

MICRO = Path(__file__).parent / "micro"
_DTYPES = ("float32", "bfloat16", "float16", "float64")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model and tokenizer, with the reason of every choice that was made on the way."""

    model: Any
    tokenizer: Any
    reasons: dict[str, str] = field(default_factory=dict)


def load_checkpoint(name: str | Path, device: str, dtype: str, revision: str | None) -> Checkpoint:
    """Load ``name`` ("micro", a folder, or a Hugging Face id); the cheapest checks come first.

    Raises SettingError for a device or dtype that cannot be had, ProxyError for everything that is wrong with
    the checkpoint.
    """
    chosen_device, why_device = choose_device(device)
    chosen_dtype, why_dtype = choose_dtype(dtype, chosen_device)
    source = _source(name, revision)
    from transformers import AutoConfig, AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    options = {"trust_remote_code": False, "revision": revision or "main"}
    with _explained(str(name), "its config.json"):
        config = AutoConfig.from_pretrained(source, **options)
    _check_kind(str(name), config)
    tokenizer = load_tokenizer(name, revision)
    with _explained(str(name), "its weights"), progress_bar(shown=not Path(source).is_dir()):
        model, info = loader.from_pretrained(
            source,
            config=config,
            dtype=chosen_dtype,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    missing = sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"]))
    if missing:
        raise ProxyError(
            f"{name} lacks {len(missing)} of the model's weights ({', '.join(missing[:3])})",
            expected="a complete checkpoint of a causal language model",
            fix="copy the folder again, or name another model",
        )
    reasons = {"device": why_device, "dtype": why_dtype}
    commit = getattr(config, "_commit_hash", None)
    if commit:
        reasons["revision"] = f"commit {commit}"
    return Checkpoint(model.to(chosen_device).eval(), tokenizer, reasons)


def load_tokenizer(name: str | Path, revision: str | None = None, *, offline: bool = False) -> Any:
    """Load the tokenizer of "micro", a folder, or a Hugging Face id, without any weights.

    offline: an id is looked for in the local cache only. Raises ProxyError when there is none.
    """
    source = _source(name, revision, weights=False)
    from transformers import AutoTokenizer

    with _explained(str(name), "its tokenizer"):
        return AutoTokenizer.from_pretrained(
            source, trust_remote_code=False, revision=revision or "main", local_files_only=offline
        )


def choose_device(device: str) -> tuple[Any, str]:
    """Return the torch device and why it was taken."""
    import torch

    if device != "auto":
        try:
            chosen = torch.device(device)
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise SettingError(
                f"device {device!r} cannot be used: {error}",
                expected='"auto", "cpu", or an accelerator that torch sees',
                fix='leave device at "auto"',
            ) from error
        return chosen, "asked for"
    if torch.cuda.is_available():
        return torch.device("cuda"), "CUDA is available"
    return torch.device("cpu"), "no CUDA device; mps is taken only when asked for"


def choose_dtype(dtype: str, device: Any) -> tuple[Any, str]:
    """Return the torch dtype and why it was taken."""
    import torch

    if dtype != "auto":
        if dtype not in _DTYPES:
            raise SettingError(
                f"got dtype {dtype!r}",
                expected=", ".join(map(repr, ("auto", *_DTYPES))),
                fix='leave dtype at "auto"',
            )
        return getattr(torch, dtype), "asked for"
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16, "the GPU computes in bfloat16"
    return torch.float32, f"exact on {device.type}, where half precision is slow or overflows"


def _source(name: str | Path, revision: str | None, *, weights: bool = True) -> str:
    """Return what transformers is to be asked for, after checking a folder's files."""
    if not (isinstance(name, str | Path) and str(name)):
        raise ProxyError(
            f"got {name!r} as a proxy",
            expected='"micro", a folder of a saved model, or a Hugging Face id',
            fix="pass one of them",
        )
    name = str(name)
    if name == "micro":
        _check_folder(MICRO, "the shipped proxy 'micro'", weights)
        return str(MICRO)
    folder = Path(name).expanduser()
    if not folder.exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
            raise ProxyError(
                f"no folder {name!r}",
                expected='"micro", a folder of a saved model, or a Hugging Face id',
                fix="check the path",
            )
        return name
    if revision is not None:
        raise SettingError(
            f"got revision {revision!r} for the folder {name!r}",
            expected="a revision only with a Hugging Face id",
            fix="leave revision out",
        )
    _check_folder(folder, repr(name), weights)
    return str(folder)


def _check_folder(folder: Path, name: str, weights: bool) -> None:
    pickled = [path.name for pattern in _PICKLES for path in sorted(folder.glob(pattern))]
    if weights and not (folder / "config.json").is_file():
        got = f"{name} holds no config.json"
        fix = "name the folder that save_pretrained wrote"
    elif weights and not any(folder.glob("*.safetensors")):
        got = f"{name} holds no safetensors weights" + (f", only {', '.join(pickled[:3])}" if pickled else "")
        fix = "load the model once where you trust it and save it with model.save_pretrained(folder)"
    elif not any((folder / file).is_file() for file in _TOKENIZERS):
        got = f"{name} holds no tokenizer"
        fix = "save the tokenizer the model was trained with: tokenizer.save_pretrained(folder)"
    else:
        return
    raise ProxyError(got, expected="config.json, *.safetensors (no pickles) and tokenizer files", fix=fix)


def _check_kind(name: str, config: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    if getattr(config, "is_encoder_decoder", False):
        got = f"{name} is an encoder-decoder ({config.model_type})"
    elif config.model_type not in CAUSAL:
        got = f"{name} is of type {config.model_type!r}, which has no causal language model"
    elif getattr(config, "quantization_config", None):
        got = f"{name} is quantised"
    elif config.architectures and not set(config.architectures) & _class_names(CAUSAL):
        got = f"{name} was saved as {config.architectures[0]}"
    else:
        return
    raise ProxyError(
        got,
        expected="a causal (decoder-only) language model with plain weights",
        fix='name another model, or use the shipped proxy "micro"',
    )


def _class_names(mapping: Any) -> set[str]:
    return {name for names in mapping.values() for name in ((names,) if isinstance(names, str) else names)}


@contextmanager
def progress_bar(*, shown: bool) -> Iterator[None]:
    """Keep transformers' bar for downloads and off the screen for the moment a folder takes."""
    import transformers.utils.logging

    bar: Any = transformers.utils.logging
    if shown or not bar.is_progress_bar_enabled():
        yield
        return
    bar.disable_progress_bar()
    try:
        yield
    finally:
        bar.enable_progress_bar()


@contextmanager
def _explained(name: str, part: str) -> Iterator[None]:
    """Turn the many errors of a failed load into one ProxyError, the original kept as its cause."""
    try:
        yield
    except IclError:
        raise
    except Exception as error:
        first_line = str(error).strip().split("\n")[0]
        raise ProxyError(
            f"{name}: {part} could not be loaded: {first_line}",
            expected="a folder or Hugging Face id that transformers can load without remote code",
            fix="check the name; without network, name a local folder, a model that is already in the "
            'Hugging Face cache, or the shipped proxy "micro"',
        ) from error
