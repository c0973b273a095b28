"""What a prompt tells of where its demonstrations come from; it may have been made or cut by hand."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icl_plugins.prompt import ManyShotPrompt


@dataclass(frozen=True)
class Origin:
    """How a prompt was made, as far as its provenance says so.

    rows, scores: of each demonstration, None for all where there is not one number for each. config: the
    selector and its settings; fingerprints: of data and models; both empty where they are not told.
    """

    rows: tuple[int | None, ...]
    scores: tuple[float | None, ...]
    config: Mapping[str, Any]
    fingerprints: Mapping[str, Any]


def origin_of(prompt: "ManyShotPrompt") -> Origin:
    """Return what the provenance of a prompt says; rows are those of the user's file where it tells them."""
    told, size = prompt.provenance, len(prompt.demonstrations)
    return Origin(
        rows=_numbers(told.get("rows", told.get("indices")), size),
        scores=_numbers(told.get("scores"), size),
        config=_mapping(told.get("config")),
        fingerprints=_mapping(told.get("fingerprints")),
    )


def _numbers(values: Any, size: int) -> tuple[Any, ...]:
    one_each = isinstance(values, list) and len(values) == size
    return tuple(values) if one_each and all(type(v) in (int, float) for v in values) else (None,) * size


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
