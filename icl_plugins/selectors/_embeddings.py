"""Vectors of texts, from the proxy or from a sentence-transformers model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from icl_plugins.errors import OptionalDependencyError
from icl_plugins.selectors._common import load_proxy, proxy_identity

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


def embed(
    texts: Sequence[str], embeddings: str, proxy: "str | Proxy"
) -> tuple[np.ndarray, dict[str, object]]:
    """Embed texts -> float64 (N, h) and where they came from, JSON-able.

    `embeddings` is "proxy" (mean last hidden state) or the name of a sentence-transformers model.
    Equal texts get bitwise equal rows: each distinct text is embedded once.
    Raises OptionalDependencyError when sentence-transformers is needed and missing.
    """
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    if embeddings == "proxy":
        loaded = load_proxy(proxy)
        vectors = loaded.embed(list(rows)).numpy()
        source = proxy_identity(loaded)
    else:
        vectors = sentence_encoder(embeddings).encode(list(rows), show_progress_bar=False)
        source = {"name": embeddings}
    return np.asarray(vectors, dtype=np.float64)[[rows[text] for text in texts]], source


def sentence_encoder(name: str) -> Any:
    """Load a sentence-transformers model; raises OptionalDependencyError with the pip line when missing."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise OptionalDependencyError(
            f"embeddings={name!r} without sentence-transformers installed",
            expected='the package sentence-transformers, or embeddings="proxy"',
            fix='pip install "icl-plugins[embeddings]"',
        ) from error
    return SentenceTransformer(name, trust_remote_code=False, model_kwargs={"use_safetensors": True})
