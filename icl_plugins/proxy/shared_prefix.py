"""Score and generate behind a prefix that runs through the model once, whatever stands behind it."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from icl_plugins.proxy.batching import TokenBudget, is_out_of_memory, run_batches
from icl_plugins.proxy.encoding import Encoded
from icl_plugins.proxy.prefix_paths import Ended, generate_one, generate_packed, score_rows, score_tree
from icl_plugins.proxy.prefix_state import PrefixState, read
from icl_plugins.proxy.probe import FAILURES

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

Way = Literal["shared", "tree", "rows", "whole"]

# Tokens per pack and the fixed cost of one in tokens. A larger pack is mostly what its tokens must not see.
_BUDGETS = {"cpu": (512, 32), "cuda": (4096, 512)}
# Rope types whose frequencies depend on the length of the whole text: keys of a prefix do not last.
_UNSTABLE = {"dynamic", "longrope"}


class SharedPrefix:
    """A proxy that reads a prefix once and continues it many times.

    way: "shared" packs all that stands behind the prefix into one row and attends to the two apart, so that
    nothing of the prefix is ever copied; "tree" copies it in front of the row; "rows" expands its keys and
    values for a batch; "whole" reads the prefix again each time. Taken is the first that gives what a plain
    forward of the whole text gives; reason says why. Trying costs a few forwards: `Proxy.shared_prefix` is
    one that is made once.
    """

    def __init__(self, proxy: "Proxy") -> None:
        self.proxy = proxy
        self.budget = TokenBudget(*_BUDGETS.get(proxy.device.type, (1024, 256)))
        self.way, self.reason = choose_way(proxy)

    @property
    def packs(self) -> bool:
        """Whether the model takes positions and a mask of its own."""
        return self.way in ("shared", "tree")

    def read(self, ids: Sequence[int], behind: PrefixState | None = None) -> PrefixState:
        """Return the state of the tokens, behind another state if one is given."""
        behind = behind or PrefixState()
        if self.way == "whole":
            return PrefixState((*behind.ids, *ids))
        return read(self.proxy, ids, behind)

    def score(
        self, state: PrefixState, queries: Sequence[Sequence[Encoded]]
    ) -> Iterator[tuple[list[int], list[np.ndarray]]]:
        """Yield (rows, scores) until all queries are done; scores of one: (choices,) float64, nats.

        A query is one token sequence for each of its choices, as it goes on behind the prefix, the choice
        being its answer: log p(answer | prefix, question), summed over the answer's tokens. A token stands
        behind the prefix in front of every answer. Raises ProxyError if one query does not fit into memory.
        """
        shared = self.way == "shared" and bool(state.layers)
        if self.packs:

            def pack(rows: list[int]) -> list[np.ndarray]:
                return score_tree(self.proxy, state, [queries[row] for row in rows], shared=shared)

            yield from run_batches([_size(query) for query in queries], self.budget, pack)
            return
        flat = [one for query in queries for one in query]
        # Of the prefix a batch holds only copied keys and values, far less than a token's activations.
        ahead = state.slots // 8 if state.layers else len(state.ids)

        def batch(rows: list[int]) -> np.ndarray:
            return score_rows(self.proxy, state, [flat[row] for row in rows])

        scores = np.empty(len(flat))
        for rows, values in run_batches([len(one.ids) + ahead for one in flat], self.proxy.budget, batch):
            scores[rows] = values
        ends = np.cumsum([len(query) for query in queries])
        yield list(range(len(queries))), np.split(scores, ends[:-1])

    def generate(
        self, state: PrefixState, queries: Sequence[Sequence[int]], *, max_tokens: int, ended: Ended
    ) -> Iterator[tuple[list[int], list[list[int]]]]:
        """Yield (rows, tokens) until all queries are done: the likeliest token at every step.

        A query is at least one token behind the prefix. One is finished after max_tokens, or as soon as
        ended(its tokens so far) is true; the last of them is then still among its tokens.
        """
        shared = self.way == "shared" and bool(state.layers)
        if self.packs:

            def pack(rows: list[int]) -> list[list[int]]:
                own = [queries[row] for row in rows]
                return generate_packed(
                    self.proxy, state, own, max_tokens=max_tokens, ended=ended, shared=shared
                )

            yield from run_batches([len(query) + max_tokens // 4 for query in queries], self.budget, pack)
            return
        for row, query in enumerate(queries):
            yield [row], [generate_one(self.proxy, state, query, max_tokens=max_tokens, ended=ended)]


def _size(query: Sequence[Encoded]) -> int:
    """Return about how many nodes the tree of a query has: its question once, then its choices."""
    return max(one.answer_start for one in query) + sum(len(one.ids) - one.answer_start for one in query)


def choose_way(proxy: "Proxy") -> tuple[Way, str]:
    """Return the first way that gives what a plain forward of the whole text gives, and why it is that."""
    steady = steady_length(proxy.model.config)
    if steady is not None and proxy.max_length > steady:
        return "whole", f"the model's rotary frequencies depend on the length of texts beyond {steady} tokens"
    prefix, queries = trial(proxy)
    flat = [one for query in queries for one in query]
    ways: dict[Way, Callable[[PrefixState], np.ndarray]] = {
        "shared": lambda state: np.concatenate(score_tree(proxy, state, queries, shared=True)),
        "tree": lambda state: np.concatenate(score_tree(proxy, state, queries)),
        "rows": lambda state: score_rows(proxy, state, flat),
    }
    expected, why = score_rows(proxy, PrefixState(prefix), flat), []
    # Kernels differ by a few roundings; at least float32's, in which many models compute their norms.
    precision = max(torch.finfo(kind).eps for kind in (proxy.dtype, torch.float32))
    for way, score in ways.items():
        try:
            wrong = float(np.abs(score(read(proxy, prefix, PrefixState())) - expected).max())
        except FAILURES as error:
            if is_out_of_memory(error):
                raise
            why.append(f"{way}: {type(error).__name__}: {error}"[:160])
            continue
        if wrong <= 4 * precision**0.5:
            return way, "; ".join([*why, f"{way}: the scores of a plain forward"])
        why.append(f"{way}: scores differ by {wrong:.2g} nats")
    return "whole", "; ".join(why)


def trial(proxy: "Proxy") -> tuple[tuple[int, ...], list[list[Encoded]]]:
    """Return a prefix that is longer than the window of sliding layers, and two short queries."""
    config = proxy.model.config.get_text_config()
    window = getattr(config, "sliding_window", None) or getattr(config, "window_size", None) or 8
    length = max(1, min(window + 8, proxy.max_length - 8))
    ids = [(7 * at + 3) % proxy.model.get_input_embeddings().weight.shape[0] for at in range(length + 12)]
    prefix, (a, b, c, d, e, *rest) = tuple(ids[:length]), ids[length:]
    return prefix, [[Encoded([a, b, c, d], 2, 4), Encoded([a, b, c, e], 2, 4)], [Encoded(rest, 4, 6)]]


def steady_length(config: Any) -> int | None:
    """Return up to how many tokens rotary frequencies are the same, None where they always are.

    Some models have parameters of their own for each kind of layer.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None) or {}
    kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    changing = [kind for kind in kinds if kind.get("rope_type") in _UNSTABLE]
    if not changing:
        return None
    default = getattr(text, "original_max_position_embeddings", None) or text.max_position_embeddings
    return min(int(kind.get("original_max_position_embeddings") or default) for kind in changing)
