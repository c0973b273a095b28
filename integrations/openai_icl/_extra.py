"""The packages of the extra: a missing one is named with the line that installs it."""

from importlib.util import find_spec
from pathlib import Path

from icl_plugins.errors import OptionalDependencyError


def missing(what: str) -> OptionalDependencyError:
    """Return the error for a package, or a file of one, that is not there."""
    return OptionalDependencyError(
        f"no {what}",
        expected="openai, tiktoken, and litellm, which carries token tables and prices",
        fix="pip install 'icl-plugins[openai]'",
    )


def litellm_file(name: str) -> Path:
    """Return a file of the installed litellm, which is not imported: that takes seconds and asks the network.

    Raises OptionalDependencyError when there is none.
    """
    spec = find_spec("litellm")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (path := Path(folder) / name).is_file():
            return path
    raise missing(f"{name} of litellm" if spec else "litellm")
