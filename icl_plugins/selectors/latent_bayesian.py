"""LatentBayesian: the examples after which the learned concept is most likely."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from icl_plugins.algorithms.checks import whole_number
from icl_plugins.algorithms.quotas import Quotas
from icl_plugins.errors import ProxyError
from icl_plugins.examples import Pool
from icl_plugins.progress import tell_progress
from icl_plugins.selection import Selection
from icl_plugins.selectors._common import Request, by_score
from icl_plugins.selectors._kept import kept
from icl_plugins.selectors._settings import (
    about,
    check_choice,
    check_models,
    check_real,
    check_seed,
    load_proxy,
)
from icl_plugins.selectors._tokens import PromptTokens

if TYPE_CHECKING:
    from torch import Tensor

    from icl_plugins.proxy.model import Proxy

_TUNING = ("prefix_length", "epochs", "batch_size", "learning_rate", "warmup", "seed", "on_too_long")


@dataclass(frozen=True)
class LatentBayesian:
    """Tune a prefix on the pool; rank examples by how likely it is that the prefix follows them.

    Wang et al. 2023 (arXiv 2301.11916) as in the released code of CLG (arXiv 2506.04579): the k prefix
    vectors become k further words of the vocabulary, and an example's loss is that of emitting them, in
    order, after its text. The released code looks up the loss at the wrong words (sequence length + j
    instead of vocabulary size + j); here it is right. Scores are minus that loss, in nats.
    The prefix is tuned as gradient matching does it: `prefix_length`, `epochs`, `batch_size`,
    `learning_rate`, `warmup`, `seed`. `on_too_long`: "error", "skip" or "truncate" examples that do not fit
    the proxy. `tokenizer` counts token budgets; None is the proxy's. Raises SettingError for bad settings.
    Where a pool grows (`keeping`), the prefix stays as it was tuned on the first of its examples.
    """

    proxy: "str | Proxy" = "micro"
    prefix_length: int = 4
    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup: float = 0.1
    seed: int = 0
    on_too_long: Literal["error", "skip", "truncate"] = "error"
    tokenizer: "str | PromptTokens | None" = None

    def __post_init__(self) -> None:
        """Check the settings."""
        check_models(self)
        for name in ("prefix_length", "epochs", "batch_size"):
            whole_number(name, getattr(self, name), 1)
        check_real("learning_rate", self.learning_rate, positive=True)
        check_real("warmup", self.warmup, at_most=1.0)
        check_seed(self.seed)
        check_choice("on_too_long", self.on_too_long, ("error", "skip", "truncate"))

    def select(
        self,
        pool: Pool,
        shots: int | None = None,
        *,
        max_tokens: int | None = None,
        quotas: Quotas = None,
        include: Iterable[int] = (),
        exclude: Iterable[int] = (),
    ) -> Selection:
        """Select demonstrations; raises BudgetError, SettingError, ProxyError or TooLongError."""
        tokenizer = self.tokenizer or self.proxy
        request = Request.check(pool, shots, max_tokens, quotas, include, exclude, tokenizer)
        proxy = load_proxy(self.proxy)
        encoded = proxy.encode(pool, on_too_long=self.on_too_long, prefix_length=self.prefix_length)
        usable = [row for row, example in enumerate(encoded) if example is not None]
        skipped = [row for row, example in enumerate(encoded) if example is None]
        request = request.without(skipped, "too long for the proxy")
        key = (*proxy.fingerprint.values(), *(getattr(self, name) for name in _TUNING))
        ((concept, tuned_on),) = kept(("concept", key), ["concept"], lambda _: [self._tune(proxy, pool)])
        sequences = [tuple(example.ids[: example.answer_stop]) for example in encoded if example is not None]
        losses = kept(("losses", key), sequences, lambda new: concept_losses(proxy, new, concept).tolist())
        scores = np.full(len(pool), np.nan)
        scores[usable] = -np.array(losses)
        indices = request.take(by_score(scores, usable))
        details = {**about(proxy), "concept_tuned_on": tuned_on}
        return request.selection(self, indices, scores[list(indices)], details=details)

    def _tune(self, proxy: "Proxy", pool: Pool) -> "tuple[Tensor, int]":
        """Return the prefix (k, h) and how many examples it was tuned on."""
        from icl_plugins.proxy.prefix import tune_prefix

        curriculum = tune_prefix(
            proxy,
            pool,
            length=self.prefix_length,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup=self.warmup,
            seed=self.seed,
            on_too_long=self.on_too_long,
            progress=tell_progress,
        )
        return curriculum.checkpoints[-1], len(pool)


def concept_losses(proxy: "Proxy", sequences: Sequence[Sequence[int]], concept: "Tensor") -> np.ndarray:
    """Return (N,) nats: -log p of the k vectors of `concept` (k, h) one after the other behind each sequence.

    Vector j is word V + j of a vocabulary of V words and k vectors; its logit is its inner product with
    what the LM head reads.
    """
    import torch

    from icl_plugins.proxy.batching import run_batches
    from icl_plugins.proxy.forward import frozen

    words = concept.to(proxy.device, proxy.dtype)
    losses = np.empty(len(sequences))
    lengths = [len(ids) + len(words) for ids in sequences]
    done = 0
    with frozen(proxy.model), torch.no_grad():
        for rows, values in run_batches(
            lengths, proxy.budget, lambda rows: _batch_losses(proxy, [sequences[row] for row in rows], words)
        ):
            losses[rows] = values.double().cpu().numpy()
            done += len(rows)
            tell_progress("losses of the concept", done, len(sequences))
    return losses


def _batch_losses(proxy: "Proxy", sequences: Sequence[Sequence[int]], words: "Tensor") -> "Tensor":
    import torch

    from icl_plugins.proxy.forward import pad

    size, k = len(sequences), len(words)
    ids = pad([[*ids, *[0] * k] for ids in sequences], proxy.device)
    lengths = torch.tensor([len(ids) for ids in sequences], device=proxy.device)
    rows = torch.arange(size, device=proxy.device)[:, None]
    slots = lengths[:, None] + torch.arange(k, device=proxy.device)
    embeddings = proxy.model.get_input_embeddings()(ids)
    embeddings[rows, slots] = words
    hidden, logits = _before(proxy, embeddings, rows, slots - 1)
    both = torch.cat([logits, hidden @ words.T], dim=1)
    both = both.to(torch.promote_types(both.dtype, torch.float32))
    targets = logits.shape[1] + torch.arange(k, device=proxy.device).repeat(size)
    return torch.nn.functional.cross_entropy(both, targets, reduction="none").view(size, k).sum(dim=1)


def _before(
    proxy: "Proxy", embeddings: "Tensor", rows: "Tensor", positions: "Tensor"
) -> "tuple[Tensor, Tensor]":
    """Return what the LM head reads (M, h) and its logits (M, V) at the positions (B, k), M = B k."""
    from icl_plugins.proxy.forward import head_input, run

    if proxy.slice_head:
        read: list[Tensor] = []

        def pick(states: "Tensor") -> "Tensor":
            read.append(states[rows, positions].flatten(0, 1))
            return read[0].unsqueeze(0)

        with head_input(proxy.model, pick):
            logits = run(proxy.model, embeddings)[0]
        hidden = read[0]
    else:
        output = proxy.model(
            inputs_embeds=embeddings, use_cache=False, return_dict=True, output_hidden_states=True
        )
        hidden, logits = (
            states[rows, positions].flatten(0, 1) for states in (output.hidden_states[-1], output.logits)
        )
    if hidden.shape[1] != embeddings.shape[2]:
        raise ProxyError(
            f"{proxy.name!r} has embeddings of width {embeddings.shape[2]} and a head of {hidden.shape[1]}",
            expected="a model whose embeddings and head have the same width",
            fix="choose another proxy, or another method",
        )
    return hidden, logits
