"""What was measured: one prompt on one data set, and all runs of a comparison."""

from collections.abc import Mapping
from dataclasses import dataclass, field


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

    shots: as chosen, which a token budget or the pool may have made fewer than asked. tokens: of the rendered
    prompt. label_kl: KL(selection || pool), nats. objective: of the selection, None where it has none.
    select_seconds: of choosing, the proxy's work included.
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


@dataclass(frozen=True)
class Comparison:
    """All runs of a comparison; config: the file it was made from, as read."""

    runs: tuple[Run, ...]
    config: Mapping[str, object] = field(default_factory=dict)
