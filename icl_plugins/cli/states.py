"""States in folders: what they tell of themselves, and whether one may be written there."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icl_plugins.cli.inputs import check_writable_folder


def check_state_folder(option: str, out: Path) -> None:
    """Raise ArtefactError unless a state can be written to a folder without loss of anything but a state."""
    from icl_plugins.thinking.saving import check_folder

    check_folder(out, f"{option} ")
    check_writable_folder(option, out)


def state_content(folder: Path) -> dict[str, Any]:
    """Return how a saved state was made and what it holds, its tensors unread; raises ArtefactError."""
    from icl_plugins.thinking.saving import TENSORS, describe, prompt_of

    body = describe(folder)
    thinking = body["thinking"]
    return {
        "model": body["model"]["name"],
        "dtype": body["dtype"],
        "layout": body["layout"],
        "shots": len(prompt_of(folder, body).demonstrations),
        "tokens": len(body["ids"]),
        "bytes": (folder / TENSORS).stat().st_size,
        "loss": _losses(thinking),
        "thinking": thinking,
        "fingerprint": body["fingerprint"],
    }


def state_lines(content: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """Return the content of a state as names and values."""
    thinking, loss = content["thinking"], content["loss"]
    steps = thinking["steps"]
    made = "1 step, which is plain in-context learning"
    if steps > 1:
        made = f"{steps} steps of {thinking['method']}: {thinking['recipe']}"
    held_out = ""
    if loss is not None:
        held_out = (
            f"{loss['one_step']:.3f} nats at 1 step, {loss['chosen']:.3f} at the chosen"
            f" ({loss['demonstrations']} demonstrations)"
        )
    return (
        ("chosen", made),
        ("why", thinking["reason"]),
        ("positions", thinking["reasons"].get("positions", "") if steps > 1 else ""),
        ("held-out loss", held_out),
        ("holds", f"{content['tokens']:,} tokens of {content['shots']:,} demonstrations"),
        ("size", f"{content['bytes'] / 1e6:,.1f} MB"),
        ("model", f"{content['model']} in {content['dtype']}, layout {content['layout']}"),
    )


def _losses(thinking: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the held-out losses of the recipe that was chosen, None where nothing was held out."""
    for one in thinking["held_out"]:
        if one["recipe"] == thinking["recipe"]:
            return {
                "one_step": one["loss"][0],
                "chosen": one["loss"][thinking["steps"] - 1],
                "demonstrations": one["demonstrations"],
            }
    return None
