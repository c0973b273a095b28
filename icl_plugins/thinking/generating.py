"""Writing on behind a state with transformers' own generation: sampling, beams, batches of all lengths."""

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from icl_plugins.errors import ProxyError
from icl_plugins.proxy.batching import is_out_of_memory
from icl_plugins.proxy.forward import frozen
from icl_plugins.proxy.prefix_state import PrefixState, read
from icl_plugins.proxy.probe import FAILURES
from icl_plugins.proxy.shared_prefix import trial
from icl_plugins.thinking.options import OBJECTS, end_tokens, generation_config

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy

Way = Literal["shared", "views", "none"]

# Tokens that are written at a time: of queries and answers, and of the prefix where each row has its own.
_ROWS = {"cpu": 16384, "cuda": 131072}
# torch has one random state for the process.
_sampling = threading.Lock()


@dataclass(frozen=True)
class Generator:
    """Writes behind prefixes of one model, in the way that was shown to write what the whole text gives.

    way: "shared" keeps the prefix once for a batch; "views" expands it, and the model copies it.
    "none": neither gives what a plain forward gives, and `write` raises ProxyError. padded: whether queries
    of several lengths may stand in one batch. reason: why.
    """

    proxy: "Proxy"
    way: Way
    padded: bool
    reason: str

    def write(
        self,
        state: PrefixState,
        queries: Sequence[Sequence[int]],
        options: Mapping[str, Any],
        *,
        ended: Callable[[list[int]], bool] | None = None,
        seed: int = 0,
        streamer: Any = None,
    ) -> list[list[int]]:
        """Return the new tokens for each query, num_return_sequences lists one behind the other for each.

        ended(tokens so far): what ends an answer besides the end token. seed: of sampling; torch's random
        state stays as it is.
        """
        if self.way == "none":
            raise ProxyError(
                f"{type(self.proxy.model).__name__} cannot write behind a state: {self.reason}",
                expected="a model whose cache may be given to generate",
                fix="use score, or another model",
            )
        texts = int(options.get("num_return_sequences") or 1)
        width = max(int(options.get("num_beams") or 1), texts)
        written: list[list[int]] = [[] for _ in range(len(queries) * texts)]
        with _seeded(self.proxy, seed) if options.get("do_sample") else nullcontext():
            for rows in self._batches([len(query) for query in queries], state.slots, width, options):
                found = self._write([queries[row] for row in rows], state, options, ended, streamer)
                for at, row in enumerate(rows):
                    written[row * texts : (row + 1) * texts] = found[at * texts : (at + 1) * texts]
        return written

    def _batches(
        self, lengths: list[int], slots: int, width: int, options: Mapping[str, Any]
    ) -> Iterator[list[int]]:
        """Yield rows that are written together, equal lengths where they must be."""
        room = _ROWS.get(self.proxy.device.type, 32768) // width
        ahead = slots if self.way == "views" else 0
        batch: list[int] = []
        for row in sorted(range(len(lengths)), key=lengths.__getitem__):
            whole = ahead + lengths[row] + int(options.get("max_new_tokens", 0))
            other = batch and not self.padded and lengths[batch[0]] != lengths[row]
            if batch and (other or whole * (len(batch) + 1) > room):
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _write(
        self,
        queries: Sequence[Sequence[int]],
        state: PrefixState,
        options: Mapping[str, Any],
        ended: Callable[[list[int]], bool] | None,
        streamer: Any,
    ) -> list[list[int]]:
        try:
            output = _generate(self.proxy, self.way, state, queries, options, ended, streamer)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(queries) == 1 or streamer is not None:
                raise
            half = len(queries) // 2
            halves = (queries[:half], queries[half:])
            return [
                tokens for part in halves for tokens in self._write(part, state, options, ended, streamer)
            ]
        ends = frozenset(end_tokens(self.proxy, options))
        return [_until(row, ends, ended) for row in output[:, max(map(len, queries)) :].tolist()]


# What was tried of a model; the model itself is not kept alive.
_tried: "WeakKeyDictionary[Any, tuple[Way, bool, str]]" = WeakKeyDictionary()


def generator_of(proxy: "Proxy") -> Generator:
    """Return the generator of a proxy; what its model can do is tried once."""
    if proxy.model not in _tried:
        _tried[proxy.model] = _choose(proxy)
    return Generator(proxy, *_tried[proxy.model])


def _generate(
    proxy: "Proxy",
    way: Way,
    state: PrefixState,
    queries: Sequence[Sequence[int]],
    options: Mapping[str, Any],
    ended: Callable[[list[int]], bool] | None = None,
    streamer: Any = None,
) -> Any:
    """Return what transformers' generate does; queries are padded on the left."""
    longest = max(map(len, queries))
    padding = [longest - len(query) for query in queries]
    ids = torch.tensor([[0] * pad + list(query) for pad, query in zip(padding, queries, strict=True)])
    mask = torch.ones(len(queries), state.slots + longest, dtype=torch.long)
    for row, pad in enumerate(padding):
        mask[row, state.slots : state.slots + pad] = 0
    given = {name: value for name, value in options.items() if name not in OBJECTS}
    ends = end_tokens(proxy, options)
    ended_by = {"eos_token_id": ends or None, "pad_token_id": ends[0] if ends else 0}
    settings = generation_config({"do_sample": False, **given, **ended_by})
    objects = {name: options[name] for name in OBJECTS if name in options}
    if ended is not None:
        objects["stopping_criteria"] = [*objects.get("stopping_criteria", ()), _Ended(longest, ended)]
    copies = max(settings.num_beams or 1, settings.num_return_sequences or 1) * len(queries)
    model = proxy.model
    with frozen(model), torch.no_grad(), _bare(model), _cache(model, way, state, copies) as cache:
        return model.generate(
            ids.to(proxy.device),
            attention_mask=mask.to(proxy.device),
            past_key_values=cache,
            generation_config=settings,
            streamer=streamer,
            **objects,
        )


@contextmanager
def _cache(model: Any, way: Way, state: PrefixState, size: int) -> Iterator[Any]:
    if way == "views":
        yield state.cache(size)
        return
    from icl_plugins.proxy.shared_cache import sharing, suffix_cache

    with sharing(model, state):
        yield suffix_cache(state)


@contextmanager
def _bare(model: Any) -> Iterator[None]:
    """Leave out what the model's folder says of generation: its caches, penalties and lengths."""
    own = model.generation_config
    try:
        model.generation_config = generation_config({})
        yield
    finally:
        model.generation_config = own


class _Ended:
    """Tells transformers which rows a stop text has ended."""

    def __init__(self, start: int, ended: Callable[[list[int]], bool]) -> None:
        self._start, self._ended = start, ended

    def __call__(self, ids: Tensor, scores: Any, **others: Any) -> Tensor:
        """Return (B,) bool."""
        done = [self._ended(row[self._start :]) for row in ids.tolist()]
        return torch.tensor(done, device=ids.device)


def _until(tokens: list[int], ends: frozenset[int], ended: Callable[[list[int]], bool] | None) -> list[int]:
    """Return the tokens up to the first that ends them, with it; what follows is padding."""
    stop = next((at for at, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    tokens = tokens[: stop + 1]
    if ended is not None and ended(tokens):
        stop = bisect_left(range(1, len(tokens)), True, key=lambda size: ended(tokens[:size]))
        tokens = tokens[: stop + 1]
    return tokens


@contextmanager
def _seeded(proxy: "Proxy", seed: int) -> Iterator[None]:
    devices = [proxy.device] if proxy.device.type == "cuda" else []
    with _sampling, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _choose(proxy: "Proxy") -> tuple[Way, bool, str]:
    """Return the first way that gives a plain forward's logits, whether rows may be padded, and why."""
    prefix, queries = trial(proxy)
    texts = [query[0].ids for query in queries]
    state = read(proxy, prefix, PrefixState())
    with frozen(proxy.model), torch.no_grad():
        whole = [torch.tensor([[*prefix, *text]], device=proxy.device) for text in texts]
        expected = torch.cat([proxy.model(input_ids=ids, use_cache=False).logits[:, -1] for ids in whole])
    scale = max(1.0, float(expected.float().std()))  # half precision rounds large logits more
    options = {"max_new_tokens": 1, "output_logits": True, "return_dict_in_generate": True}
    tolerance = 4 * max(torch.finfo(kind).eps for kind in (proxy.dtype, torch.float32)) ** 0.5
    why = []
    ways: tuple[Way, ...] = ("shared", "views")
    for way in ways:
        for padded, batches in ((True, [texts]), (False, [[text] for text in texts])):
            try:
                found = [_generate(proxy, way, state, batch, options).logits[0] for batch in batches]
            except FAILURES as error:
                if is_out_of_memory(error):
                    raise
                why.append(f"{way}: {type(error).__name__}: {error}"[:160])
                break
            wrong = float((torch.cat(found) - expected).abs().max()) / scale
            if wrong <= tolerance:
                rows = "" if padded else ", queries of one length at a time"
                return way, padded, "; ".join([*why, f"{way}: the logits of a plain forward{rows}"])
            why.append(f"{way}{', padded' * padded}: logits differ by {wrong:.2g}")
    return "none", False, "; ".join(why)
