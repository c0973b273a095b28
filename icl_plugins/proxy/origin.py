"""What the curriculum in a folder was made from: settings, proxy and the examples it was tuned on."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from icl_plugins.artefacts import atomic_write, canonical_json
from icl_plugins.errors import ArtefactError, StaleStoreError, StoreError
from icl_plugins.proxy.store import GradientStore
from icl_plugins.proxy.store.disk import disk_errors
from icl_plugins.proxy.tuning_state import STATE_FILE

CURRICULUM_FILE = "curriculum.safetensors"
GRADIENTS_FOLDER = "gradients"

_FILE = "origin.json"


def make_folder(folder: Path) -> None:
    """Create the folder; raises StoreError where that cannot be."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def claim(folder: Path, made_from: Mapping[str, str], rows: Sequence[str]) -> Sequence[str]:
    """Return the fingerprints of the rows that the folder's curriculum is tuned on: these, if it is new.

    A folder in which no epoch was finished and no gradient stored counts as new: a run that diverged can be
    repeated there with other settings. Raises StaleStoreError naming what differs, StoreLockedError,
    StoreError, and ArtefactError for an origin that cannot be read.
    """
    with disk_errors(folder):
        begun = (folder / _FILE).exists()
        tuned = (folder / CURRICULUM_FILE).exists()
        epoch_finished = tuned or (folder / STATE_FILE).exists()
    if begun:
        stored, tuned_rows = _read(folder / _FILE)
        differing = _differing(stored, made_from, tuned_rows, rows, tuned)
        if not differing:
            return tuned_rows
        if epoch_finished or not GradientStore.remove_if_empty(folder / GRADIENTS_FOLDER):
            raise StaleStoreError(
                f"the store {str(folder)!r} was made from something else: {', '.join(differing)}",
                expected="the same settings, template and proxy, and a pool with all that it was tuned on",
                fix="choose another folder, or remove this one to start afresh",
            )
    try:
        atomic_write(folder / _FILE, canonical_json({"made_from": dict(made_from), "rows": list(rows)}))
    except ArtefactError as error:
        raise StoreError(error.got, expected=error.expected, fix=error.fix) from error
    return rows


def positions(tuned_rows: Sequence[str], rows: Sequence[str]) -> list[int]:
    """Return where each tuned row is in the pool; equal rows are taken in their order, as the store does."""
    places: dict[str, list[int]] = {}
    for at in reversed(range(len(rows))):
        places.setdefault(rows[at], []).append(at)
    return [places[row].pop() for row in tuned_rows]


def _read(path: Path) -> tuple[dict[str, str], list[str]]:
    try:
        origin = json.loads(path.read_text(encoding="utf-8"))
        return dict(origin["made_from"]), [str(row) for row in origin["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{str(path)!r} cannot be read: {error}",
            expected="what an earlier selection with this store wrote",
            fix="remove the folder to start afresh",
        ) from error


def _differing(
    stored: Mapping[str, str],
    made_from: Mapping[str, str],
    tuned_rows: Sequence[str],
    rows: Sequence[str],
    tuned: bool,
) -> list[str]:
    differing = [
        f"{name} (stored {str(stored.get(name))[:12]}, now {value[:12]})"
        for name, value in made_from.items()
        if stored.get(name) != value
    ]
    gone = (Counter(tuned_rows) - Counter(rows)).total()
    if gone:
        differing.append(f"examples ({gone} of the {len(tuned_rows)} it was tuned on are not in the pool)")
    elif list(rows) != list(tuned_rows) and not tuned:
        differing.append("examples (its tuning was interrupted, and can only go on with the same ones)")
    return differing
