"""OpenAI's tokenizers from a copy that is already on this machine; nothing here touches the network."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from icl_plugins.errors import OptionalDependencyError
from openai_icl._extra import litellm_file, missing

try:
    import tiktoken
    from tiktoken.model import encoding_name_for_model
except ImportError as error:
    raise missing("tiktoken") from error

if TYPE_CHECKING:
    from tiktoken import Encoding

# sha256 of the token tables, as tiktoken itself demands them
_SHA256 = {
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
}
# never opened: its sha1 is the file's name
_URL = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
_FOLDER = "TIKTOKEN_CACHE_DIR"
_LOCK = Lock()


def encoding_name(model: str) -> str | None:
    """Return the encoding that tiktoken names for a model, None where it names none that we can load."""
    try:
        name = encoding_name_for_model(model.rsplit("/", 1)[-1])
    except KeyError:
        return None
    return name if name in _SHA256 else None


@lru_cache
def load_encoding(name: str) -> "Encoding":
    """Load "o200k_base" or "cl100k_base" from tiktoken's cache or from the copy inside litellm.

    The sha256 is checked first: tiktoken would delete another file and download. Raises
    OptionalDependencyError when no intact copy is there.
    """
    folder = _folder_with(name)
    with _LOCK, _tiktoken_folder(folder):
        return tiktoken.get_encoding(name)


def _folder_with(name: str) -> Path:
    file = hashlib.sha1(_URL.format(name).encode(), usedforsecurity=False).hexdigest()
    for folder in _folders(file):
        path = folder / file
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == _SHA256[name]:
            return folder
    raise OptionalDependencyError(
        f"no intact copy of {name} on this machine",
        expected=f"the token table in litellm, or as {file} in the folder that {_FOLDER} names",
        fix="pip install --force-reinstall litellm, or copy the file there",
    )


def _folders(file: str) -> Iterator[Path]:
    for variable in (_FOLDER, "DATA_GYM_CACHE_DIR"):
        if folder := os.environ.get(variable):
            yield Path(folder)
    yield Path(tempfile.gettempdir()) / "data-gym-cache"
    yield litellm_file(f"litellm_core_utils/tokenizers/{file}").parent


@contextmanager
def _tiktoken_folder(folder: Path) -> Iterator[None]:
    """Point tiktoken, which reads its folder from the environment only, to `folder` for a moment."""
    before = os.environ.get(_FOLDER)
    os.environ[_FOLDER] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_FOLDER]
        else:
            os.environ[_FOLDER] = before
