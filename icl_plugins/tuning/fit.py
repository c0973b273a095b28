"""A run: from tasks and settings to a tuned model, going on where an earlier call stopped."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_plugins.artefacts import canonical_json, fingerprint
from icl_plugins.errors import ArtefactError, TuningError
from icl_plugins.proxy.batching import is_out_of_memory
from icl_plugins.proxy.store.locking import WriterLock
from icl_plugins.tuning.checking import check_context, check_run, overlaps, unused
from icl_plugins.tuning.checkpoints import Checkpoint, load_good, load_last
from icl_plugins.tuning.drawing import Drawer
from icl_plugins.tuning.fitting import count_tokens, fitting
from icl_plugins.tuning.names import vocabulary_words
from icl_plugins.tuning.tasks import Task
from icl_plugins.tuning.tuned import ADAPTER, MODEL
from icl_plugins.tuning.weights import Learner, device_of, kept_randomness, learner, restore

if TYPE_CHECKING:
    from icl_plugins.tuning.many_icl import ManyICL
    from icl_plugins.tuning.tuned import Tuned

_LOCK = "tuning.lock"


def fit(
    settings: "ManyICL", tasks: Sequence[Task], out: Path, text: Sequence[str], validation: Sequence[Task]
) -> "Tuned":
    """Do what ManyICL.fit says; all that can be refused is refused before the first step."""
    check_run(settings, tasks, out, text, validation)
    from accelerate import PartialState

    from icl_plugins.tuning.run import Diverged, Run

    state = PartialState(cpu=device_of(settings).type == "cpu")
    with kept_randomness(settings.seed):
        model = learner(settings)
        check_context(settings, model.proxy.max_length)
        drawers, notes = _drawers(settings, tasks, text, model)
        made_from = _made_from(settings, tasks, text, validation, model, state.num_processes)
        notes += unused(tasks, drawers, text) + overlaps(tasks, validation)
        with state.main_process_first():
            _make(out)
        lock = WriterLock(out / _LOCK) if state.is_main_process else None
        try:
            start = load_last(out, made_from)
            run = Run(settings, model, drawers, validation, out, made_from, start, notes)
            restore(model, start)
            try:
                run.train()
            except Diverged as diverged:
                raise _ended(diverged, run, load_good(out, made_from, settings.stages)) from diverged
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise TuningError(
                    f"out of memory: {str(error).splitlines()[0]}",
                    expected="a batch that fits",
                    fix="lower rows and raise accumulation, lower context, or set gradient_checkpointing",
                ) from error
            tuned = run.tuned()
            _save(tuned, out)
            return tuned
        finally:
            if lock:
                lock.release()


def _drawers(
    settings: "ManyICL", tasks: Sequence[Task], text: Sequence[str], model: Learner
) -> tuple[list[Drawer], list[str]]:
    """Return what draws the rows of each stage, and notes of what was left out or switched off."""
    encoder = model.proxy.encoder
    counts = {task.name: count_tokens(task, encoder) for task in tasks}
    packs, why = model.packs if any(stage.pack for stage in settings.stages) else (True, "")
    notes = [] if packs else [f"rows hold one sequence each: {why}"]
    drawers = []
    for at, stage in enumerate(settings.stages):
        room = stage.context - encoder.leading
        chosen = [task for task, share in zip(tasks, stage.odds(tasks), strict=True) if share]
        parts = [fitting(task, counts[task.name], room, settings.on_too_long) for task in chosen]
        left = {task.name: skipped for task, _, skipped in parts if skipped}
        if left:
            rows = ", ".join(f"{name} {count}" for name, count in left.items())
            notes.append(f"stage {at}: examples of more than {room:,} tokens left out: {rows}")
        words = vocabulary_words(model.proxy.tokenizer) if stage.other_names else ()
        kept = [task for task, _, _ in parts]
        drawers.append(
            Drawer(
                replace(stage, pack=stage.pack and packs),
                kept,
                text,
                words,
                encoder,
                [tokens for _, tokens, _ in parts],
            )
        )
    return drawers, notes


def _made_from(
    settings: "ManyICL",
    tasks: Sequence[Task],
    text: Sequence[str],
    validation: Sequence[Task],
    model: Learner,
    devices: int,
) -> dict[str, str]:
    """Return what a checkpoint must have been made from to go on with it, as fingerprints."""
    free = ("model", "checkpoint_every", "evaluate_every")
    values = {name: value for name, value in settings.as_json().items() if name not in free}
    return {
        "settings": fingerprint(canonical_json(values)),
        "tasks": fingerprint(*(task.fingerprint for task in tasks)),
        "text": fingerprint(*text),
        "validation": fingerprint(*(task.fingerprint for task in validation)),
        "number of devices": str(devices),
        **model.fingerprint,
    }


def _ended(diverged: Exception, run: Any, last: Checkpoint | None) -> TuningError:
    """Save the model of the last checkpoint, and return the error that tells of it."""
    kept = "there is no checkpoint yet"
    if last is not None:
        restore(run.model, last)
        run.forget(last)
        _save(run.tuned(), run.out)
        kept = f"the model of step {last.step} is in {str(run.out / MODEL)!r}"
    return TuningError(
        f"training diverged: {diverged}; {kept}",
        expected="a loss that falls",
        fix="lower learning_rate, raise warmup, or lower clip, and train into another folder",
    )


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtefactError(
            f"cannot make the folder {str(out)!r}: {error.strerror}",
            expected="a folder that is there, or can be made",
            fix="choose another path",
        ) from error


def _save(tuned: "Tuned", out: Path) -> None:
    """Save the model and its adapter; of several processes the first one does."""
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return
    if tuned.record["settings"]["lora_rank"]:
        tuned.save(out / ADAPTER, adapter=True)  # first: merging needs more memory
    tuned.save(out / MODEL)
