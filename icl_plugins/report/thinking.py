"""The report of a state: how it was made, how many steps were chosen and why, and what they did to it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_plugins.prompt import ManyShotPrompt
from icl_plugins.provenance import origin_of
from icl_plugins.readers import FilePath
from icl_plugins.report.demonstrations import Shot, demonstrations_list
from icl_plugins.report.markup import element, joined
from icl_plugins.report.page import Report, Section, paragraph
from icl_plugins.report.plot import require_matplotlib
from icl_plugins.report.selection import made_table
from icl_plugins.report.thinking_plots import accuracy_plot, loss_plot, norms_plot, training_plot
from icl_plugins.thinking.saving import TENSORS, describe, prompt_of

_ARTEFACT = {
    "reference": (
        "Positions: the prompt was read again behind itself, the keys taken as they are (reference). "
        "Even in the first layer, which sees nothing but the tokens, keys then differ from the first reading "
        "by their positions alone (values too, where positions are added to the embeddings). That is an "
        "artefact of the positions: large norms near the input are not a finding."
    ),
    "overlap": (
        "Positions: the prompt was read again at its own positions (overlap). The first layer, which sees "
        "nothing but the tokens, is then the same at every reading: its norms are exactly 0, and all others "
        "come from what was read, not from positions."
    ),
    "relative": (
        "Positions: the prompt was read again behind itself, and the keys were moved back (relative). The "
        "first layer, which sees nothing but the tokens, is then the same at every reading: its norms are 0 "
        "but for rounding, and all others come from what was read, not from positions."
    ),
}
_FIGURE = (
    "What arXiv 2305.13016 shows in its figure 5: at each reading after the first, how far the new keys and "
    "values of each layer are from the kept ones, before these take their step. It tells how much is moved, "
    "not whether that helps."
)
_TRAINED = (
    "The loss before each step of training, on the demonstrations that are trained on, each behind the others"
    "{hidden}. That it falls does not tell that the state is better: held-out demonstrations do."
)
_CURVES = ("held_out", "norms", "losses")


def state_report(folder: FilePath) -> Report:
    """Report a saved state: held-out loss and accuracy against steps, norms by layer or the training loss.

    The model is not needed, and the tensors are not read. Raises ArtefactError for a folder that is no state
    or is damaged, OptionalDependencyError without matplotlib.
    """
    require_matplotlib()
    folder = Path(folder)
    body = describe(folder)
    prompt = prompt_of(folder, body)
    thinking = body["thinking"]
    config = {name: value for name, value in thinking.items() if name not in _CURVES}
    model = {name: value for name, value in body["model"].items() if name != "name"}
    fingerprints = {"state": body["fingerprint"], "prompt": prompt.fingerprint, **model}
    return Report(
        f"A state of {len(prompt.demonstrations):,} demonstrations, {_steps(thinking)}",
        _facts(body, (folder / TENSORS).stat().st_size),
        (
            _choosing(thinking),
            _movement(thinking) if thinking["method"] == "deep thinking" else _training(thinking),
            Section("demonstrations", "Demonstrations", (), demonstrations_list(_shots(prompt))),
            Section("made", "How it was made", (), made_table(config, fingerprints)),
        ),
    )


def _facts(body: Mapping[str, Any], size: int) -> dict[str, str]:
    thinking = body["thinking"]
    return {
        "Method": thinking["method"],
        "Steps": f"{thinking['steps']:,}: {thinking['reason']}",
        "Settings": thinking["recipe"],
        "Model": f"{body['model']['name']} in {body['dtype']}",
        "Layout": body["layout"],
        "Tokens": f"{len(body['ids']):,}",
        "Size": f"{size / 1e6:,.1f} MB",
    }


def _choosing(thinking: Mapping[str, Any]) -> Section:
    heading, curves, steps = "Held-out demonstrations", thinking["held_out"], thinking["steps"]
    if not curves:
        told = (
            f"None were held out, so there are no curves: the number of steps ({steps}) and the settings "
            f"were not chosen by a measurement ({thinking['reason']}). think --steps auto measures."
        )
        return Section("held-out", heading, (), paragraph(told))
    told = (
        "Each demonstration was scored behind a state of those in the other folds, so never behind itself, "
        "and no other data were seen. One step is plain in-context learning. Chosen: "
        f"{thinking['reason']}."
    )
    plots = [loss_plot(curves, thinking)]
    if curves[0]["accuracy"] is None:
        told += " Accuracy: none, since answers are texts of their own here, not classes that recur."
    else:
        plots.append(accuracy_plot(curves, thinking))
    return Section("held-out", heading, tuple(plots), paragraph(told))


def _movement(thinking: Mapping[str, Any]) -> Section:
    heading = "How far keys and values moved"
    if not thinking["norms"]:
        told = "The prompt was read once, which is plain in-context learning: nothing was moved."
        return Section("norms", heading, (), paragraph(told))
    plots = tuple(norms_plot(part, thinking["norms"]) for part in ("keys", "values"))
    told = joined(element("p", text) for text in (_FIGURE, _ARTEFACT[thinking["positions"]]))
    return Section("norms", heading, plots, told)


def _training(thinking: Mapping[str, Any]) -> Section:
    heading, losses = "How well it was trained", thinking["losses"]
    if not losses:
        told = "One step was taken, which is plain in-context learning: nothing was trained."
        return Section("training", heading, (), paragraph(told))
    hidden = "; with dropout, behind what was not hidden at that step" if thinking["dropout"] else ""
    return Section("training", heading, (training_plot(losses),), paragraph(_TRAINED.format(hidden=hidden)))


def _shots(prompt: ManyShotPrompt) -> list[Shot]:
    told = origin_of(prompt)
    return [
        Shot(question, answer, answer.strip(), row, score, None)
        for (question, answer), row, score in zip(prompt.demonstrations, told.rows, told.scores, strict=True)
    ]


def _steps(thinking: Mapping[str, Any]) -> str:
    steps = thinking["steps"]
    return "1 step" if steps == 1 else f"{steps:,} steps of {thinking['method']}"
