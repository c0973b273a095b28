"""Vectors of texts, from the proxy or from a sentence-transformers model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from icl_plugins.errors import NonFiniteError, OptionalDependencyError, ProxyError, SettingError, TooLongError
from icl_plugins.selectors._kept import kept
from icl_plugins.selectors._settings import about, check_choice, load_proxy

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

TooLong = Literal["error", "truncate"]


def check_embeddings(embeddings: object, on_too_long: object) -> None:
    """Raise SettingError unless both are settings that `embed` takes."""
    if not isinstance(embeddings, str) or not embeddings:
        raise SettingError(
            f"embeddings={embeddings!r}",
            expected='"proxy" or the name of a sentence-transformers model',
            fix="pass one of them",
        )
    check_choice("on_too_long", on_too_long, ("error", "truncate"))


def embed(
    texts: Sequence[str], embeddings: str, proxy: "str | Proxy", on_too_long: TooLong
) -> tuple[np.ndarray, dict[str, object]]:
    """Embed texts -> float64 (N, h), and what the details of a selection say about the model.

    `embeddings` is "proxy" (mean of the last hidden states) or the name of a sentence-transformers model.
    Equal texts get equal rows to the last bit: each distinct text is embedded once (see `keeping`).
    Raises TooLongError, NonFiniteError naming rows, and what `sentence_encoder` raises.
    """
    if embeddings == "proxy":
        loaded = load_proxy(proxy)
        key, details = (*loaded.fingerprint.values(), on_too_long), about(loaded)
        vectors = kept(key, texts, lambda new: loaded.embed(new, on_too_long=on_too_long).numpy())
    else:
        encoder = sentence_encoder(embeddings)
        key, details = (embeddings, on_too_long), {"device": str(encoder.device)}
        vectors = kept(key, texts, lambda new: encode_texts(encoder, new, on_too_long))
    spread = np.asarray(vectors, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(spread).all(axis=1))
    if bad.size:
        raise NonFiniteError(
            f"{bad.size} vectors with NaN or infinity, rows {bad[:5].tolist()}",
            expected="finite vectors",
            fix='look at these examples, or load the proxy with dtype="float32"',
        )
    return spread, details


def sentence_encoder(name: str) -> Any:
    """Load a sentence-transformers model, safetensors only.

    Raises OptionalDependencyError with the pip line when the package is missing, ProxyError when the model
    cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise OptionalDependencyError(
            f"embeddings={name!r} without sentence-transformers installed",
            expected='the package sentence-transformers, or embeddings="proxy"',
            fix='pip install "icl-plugins[embeddings]"',
        ) from error
    try:
        return SentenceTransformer(name, trust_remote_code=False, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ProxyError(
            f"embeddings={name!r} cannot be loaded: {reason}",
            expected="a sentence-transformers model with safetensors weights, by id or by folder",
            fix="check the name and the network, or name a folder that holds modules.json",
        ) from error


def encode_texts(encoder: Any, texts: list[str], on_too_long: TooLong) -> np.ndarray:
    """Embed texts with a sentence-transformers model; TooLongError for those it would cut, if asked."""
    if on_too_long == "error":
        _refuse_too_long(encoder, texts)
    vectors: np.ndarray = encoder.encode(texts, show_progress_bar=False, convert_to_numpy=True)
    return vectors


def _refuse_too_long(encoder: Any, texts: Sequence[str]) -> None:
    """Raise TooLongError for texts that the model would cut in silence."""
    if encoder.max_seq_length is None:
        return
    lengths = [len(ids) for ids in encoder.tokenizer(list(texts), truncation=False)["input_ids"]]
    longer = [length for length in lengths if length > encoder.max_seq_length]
    if longer:
        raise TooLongError(
            f"{len(longer)} texts of up to {max(longer)} tokens",
            expected=f"at most {encoder.max_seq_length} tokens",
            fix='set on_too_long to "truncate", or choose a model with a longer context',
        )
