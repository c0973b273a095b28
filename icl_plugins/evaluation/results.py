"""What was measured: one prompt on one data set, and all runs of a comparison."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Self

from icl_plugins.artefacts import atomic_write, canonical_json, fingerprint
from icl_plugins.errors import ArtefactError
from icl_plugins.readers import FilePath

_KIND = "icl_plugins.Comparison"
_SCHEMA = 1


@dataclass(frozen=True)
class Evaluation:
    """One prompt on one target over N items, in the order of the items.

    metric: its name. golds (N,), predictions (N,): as parsed, None where nothing could be read or the request
    failed. values (N,): of the metric, higher is better; an item without prediction counts as 0, never
    as left out. errors: item -> what went wrong with its request. unparsable: answers that came and could not
    be read. prompt_tokens, cached_tokens, completion_tokens: sums, None where the target does not count.
    cost: USD, None where no prices are known. seconds: of the target. Tokens, cost and seconds are those of
    the first time, reused answers included. reused: items that came from the store. dropped_rows: of the
    given items, left out because they are demonstrations. unreachable: items whose gold is no choice.
    """

    target: str
    prompt: str
    metric: str
    golds: tuple[str, ...]
    predictions: tuple[str | None, ...]
    values: tuple[float, ...]
    errors: Mapping[int, str] = field(default_factory=dict)
    unparsable: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None
    seconds: float = 0.0
    reused: int = 0
    dropped_rows: tuple[int, ...] = ()
    unreachable: int = 0

    @property
    def dropped(self) -> int:
        """The number of given items left out because they are demonstrations."""
        return len(self.dropped_rows)

    @property
    def value(self) -> float:
        """The metric of all items together; the mean of the values for a metric that has no name here."""
        from icl_plugins.evaluation.metrics import METRICS

        if self.metric in METRICS:
            return METRICS[self.metric].value(self.predictions, self.golds)
        return sum(self.values) / len(self.values)


@dataclass(frozen=True)
class Run:
    """One cell of a comparison: what a method chose with a seed, and what it was worth.

    shots: as chosen, which the target's context may have made fewer than asked. tokens: of the rendered
    prompt with the longest query behind it. label_kl: KL(selection || pool), nats. objective: of the
    selection, None where it has none. select_seconds: of choosing, all of the proxy's work included, also
    where several runs share it. asked: the shots asked for, None for as many as fit the context.
    """

    data: str
    method: str
    shots: int
    seed: int
    evaluation: Evaluation
    tokens: int
    label_kl: float
    select_seconds: float
    objective: float | None = None
    asked: int | None = None


@dataclass(frozen=True)
class Comparison:
    """All runs of a comparison.

    config: the file it was made from, as read. notes: what a reader has to know: rows that were left out,
    runs that could not be made.
    """

    runs: tuple[Run, ...]
    config: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def save(self, path: FilePath) -> None:
        """Write the comparison as JSON, all or nothing; equal comparisons give equal bytes.

        Raises ArtefactError where it cannot be written, DataError for what JSON cannot hold.
        """
        body = {
            "kind": _KIND,
            "schema": _SCHEMA,
            "config": self.config,
            "notes": self.notes,
            "runs": [_run_body(run) for run in self.runs],
        }
        atomic_write(path, canonical_json({**body, "checksum": _checksum(body)}) + "\n")

    @classmethod
    def load(cls, path: FilePath) -> Self:
        """Read a saved comparison; raises ArtefactError for a damaged, newer or other file."""
        content = _read(path)
        kind, schema = content.get("kind"), content.get("schema")
        if kind != _KIND or schema != _SCHEMA:
            newer = kind == _KIND and type(schema) is int and schema > _SCHEMA
            fix = "upgrade icl-plugins to read it" if newer else "check the path"
            _refuse(path, f"holds {kind!r:.80} of schema version {schema!r:.80}", fix)
        try:
            intact = content.pop("checksum") == _checksum(content)
            runs = tuple(map(_run, content["runs"])) if intact else ()
            comparison = cls(runs, content["config"], tuple(content["notes"]))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            _refuse(path, f"is damaged: {type(error).__name__}: {error}")
        if not intact:
            _refuse(path, "is damaged or was edited: its checksum does not match its content")
        return comparison


def _run_body(run: Run) -> dict[str, object]:
    evaluation = dict(vars(run.evaluation))
    evaluation["errors"] = {str(item): text for item, text in run.evaluation.errors.items()}
    return {**vars(run), "evaluation": evaluation}


def _run(body: dict[str, Any]) -> Run:
    evaluation: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in body["evaluation"].items()
    }
    evaluation["errors"] = {int(item): text for item, text in evaluation["errors"].items()}
    return Run(**{**body, "evaluation": Evaluation(**evaluation)})


def _checksum(body: Mapping[str, object]) -> str:
    return fingerprint(canonical_json(body))


def _read(path: FilePath) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_bytes().decode("utf-8"))
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror or error}", "check the path")
    except (ValueError, RecursionError) as error:
        _refuse(path, f"is no JSON: {error}")
    return content if isinstance(content, dict) else {}


def _refuse(
    path: FilePath, what: str, fix: str = "restore the file, or run the comparison again"
) -> NoReturn:
    raise ArtefactError(
        f"{str(path)!r} {what}", expected=f"a file as Comparison.save wrote it, version {_SCHEMA}", fix=fix
    )
