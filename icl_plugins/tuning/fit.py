"""A run: from tasks and settings to a tuned model, going on where an earlier call stopped."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icl_plugins.artefacts import canonical_json, fingerprint
from icl_plugins.errors import ArtefactError, OptionalDependencyError, SettingError, TuningError
from icl_plugins.proxy.store.locking import WriterLock
from icl_plugins.tuning.answered import check_size
from icl_plugins.tuning.checkpoints import Checkpoint, load_good, load_last
from icl_plugins.tuning.drawing import Drawer
from icl_plugins.tuning.fitting import count_tokens, fitting
from icl_plugins.tuning.names import vocabulary_words
from icl_plugins.tuning.tasks import Task, check_tasks
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
    _check(settings, tasks, text, validation)
    from accelerate import PartialState

    from icl_plugins.tuning.run import Diverged, Run

    state = PartialState(cpu=device_of(settings).type == "cpu")
    with kept_randomness(settings.seed):
        model = learner(settings)
        drawers, notes = _drawers(settings, tasks, text, model)
        made_from = _made_from(settings, tasks, text, model, state.num_processes)
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
                raise _ended(diverged, run, load_good(out, made_from)) from diverged
            tuned = run.tuned()
            _save(tuned, out)
            return tuned
        finally:
            if lock:
                lock.release()


def _check(
    settings: "ManyICL", tasks: Sequence[Task], text: Sequence[str], validation: Sequence[Task]
) -> None:
    check_tasks(tasks)
    if isinstance(text, str):
        raise SettingError("text: one string", expected="a list of documents", fix="put it in a list")
    if validation:
        check_tasks(validation)
    for task in validation:
        check_size(task)
    known = {name for task in tasks for name in (task.name, task.kind) if name}
    for at, stage in enumerate(settings.stages):
        unknown = sorted(set(stage.tasks or ()) - known)
        if unknown:
            raise SettingError(
                f"stages[{at}]: no task or kind {unknown[0]!r}",
                expected=f"some of {', '.join(sorted(known)):.200}",
                fix="correct the names, or leave tasks out for all",
            )
    try:
        import accelerate  # noqa: F401
        import peft  # noqa: F401
    except ImportError as error:
        raise OptionalDependencyError(
            f"no module {error.name!r}",
            expected="the packages that tuning needs",
            fix="pip install 'icl-plugins[tuning]'",
        ) from error


def _drawers(
    settings: "ManyICL", tasks: Sequence[Task], text: Sequence[str], model: Learner
) -> tuple[list[Drawer], list[str]]:
    """Return what draws the rows of each stage, and notes of what was left out or switched off."""
    from dataclasses import replace

    encoder = model.proxy.encoder
    counts = {task.name: count_tokens(task, encoder) for task in tasks}
    packs, why = model.packs if any(stage.pack for stage in settings.stages) else (True, "")
    notes = [] if packs else [f"rows hold one sequence each: {why}"]
    drawers = []
    for at, stage in enumerate(settings.stages):
        room = stage.context - encoder.leading
        if stage.context > model.proxy.max_length:
            raise SettingError(
                f"stages[{at}]: context={stage.context:,}",
                expected=f"at most {model.proxy.max_length:,}, the model's",
                fix="lower context, or extend the model's context in its config first",
            )
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
    settings: "ManyICL", tasks: Sequence[Task], text: Sequence[str], model: Learner, devices: int
) -> dict[str, str]:
    """Return what a checkpoint must have been made from to go on with it, as fingerprints."""
    free = ("model", "checkpoint_every", "evaluate_every")
    values = {
        field.name: getattr(settings, field.name) for field in fields(settings) if field.name not in free
    }
    values["stages"] = [asdict(stage) for stage in settings.stages]
    values["weighting"] = asdict(settings.weighting)
    return {
        "settings": fingerprint(canonical_json(values)),
        "tasks": fingerprint(*(task.fingerprint for task in tasks)),
        "text": fingerprint(*text),
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
    tuned.save(out / MODEL)
    if tuned.record["settings"]["lora_rank"]:
        tuned.save(out / ADAPTER, adapter=True)


def describe(settings: "ManyICL") -> Mapping[str, Any]:
    """Return the settings in JSON's types; a loaded model by its name."""
    named = settings.model if isinstance(settings.model, str) else settings.model.name
    values: dict[str, Any] = {field.name: getattr(settings, field.name) for field in fields(settings)}
    values.update(
        model=named,
        stages=[asdict(stage) for stage in settings.stages],
        weighting=asdict(settings.weighting),
    )
    return values
