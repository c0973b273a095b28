"""The proxy: the small local causal LM whose losses and gradients choose the demonstrations."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from icl_plugins.errors import DataError, ProxyError
from icl_plugins.proxy.batching import TokenBudget, run_batches
from icl_plugins.proxy.encoding import Encoded, TextEncoder
from icl_plugins.proxy.forward import answer_losses, collate, frozen, last_hidden_states, pad
from icl_plugins.proxy.lengths import OnTooLong, fit, max_length, too_long
from icl_plugins.proxy.loading import load_checkpoint
from icl_plugins.proxy.probe import probe

if TYPE_CHECKING:
    from icl_plugins.examples import Pool
    from icl_plugins.proxy.shared_prefix import SharedPrefix

__all__ = ["OnTooLong", "Proxy"]

# Tokens per batch and the fixed cost of a batch in tokens: docs/benchmarks-extraction.md.
_BUDGETS = {"cpu": (1024, 128), "cuda": (16384, 4096)}


class Proxy:
    """A causal LM with its tokenizer, as it came: weights are never trained, nothing of it is changed.

    name: as given. device, dtype: where and in what the model computes. reasons: why these and other choices
    were made. max_length: tokens of one example, prefix included. hidden_size: width of the input embeddings.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, reasons: dict[str, str] | None = None) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer
        self.encoder = TextEncoder(tokenizer)
        self.reasons = dict(reasons or {})
        self._check()
        weight = model.get_input_embeddings().weight
        self.device: torch.device = weight.device
        self.dtype: torch.dtype = weight.dtype
        self.hidden_size = int(weight.shape[1])
        self.max_length, self.reasons["max_length"] = max_length(model.config, tokenizer)
        self.budget = TokenBudget(*_BUDGETS.get(self.device.type, (4096, 1024)))
        abilities = probe(model, self.device)
        self.slice_head, self.tail = abilities.slice_head, abilities.tail
        self.reasons.update(abilities.reasons)

    @classmethod
    def load(
        cls,
        name_or_path: str | Path = "micro",
        device: str = "auto",
        dtype: str = "auto",
        revision: str | None = None,
    ) -> "Proxy":
        """Load the shipped proxy ("micro"), a folder, or a Hugging Face id; safetensors only, no remote code.

        Raises ProxyError naming what is wrong with the model, SettingError for a device or dtype that cannot
        be had.
        """
        loaded = load_checkpoint(name_or_path, device, dtype, revision)
        return cls(loaded.model, loaded.tokenizer, str(name_or_path), loaded.reasons)

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any, name: str = "custom") -> "Proxy":
        """Use a model and tokenizer that are already in memory."""
        return cls(model, tokenizer, name, {"device": "the model's own", "dtype": "the model's own"})

    @property
    def token_budget(self) -> int:
        """Tokens per batch, padding included; halves when memory runs out."""
        return self.budget.tokens

    @cached_property
    def fingerprint(self) -> dict[str, str]:
        """sha256 of the weights (names, dtypes, bytes, and the config) and of the tokenizer's definition."""
        return {"weights": _weights_hash(self.model), "tokenizer": self.encoder.fingerprint}

    @cached_property
    def shared_prefix(self) -> "SharedPrefix":
        """What reads a prefix once and continues it many times, in the way that was proven on this model."""
        from icl_plugins.proxy.shared_prefix import SharedPrefix

        return SharedPrefix(self)

    def encode(
        self, pool: "Pool", *, on_too_long: OnTooLong = "error", prefix_length: int = 0
    ) -> list[Encoded | None]:
        """Tokenize every demonstration of the pool; None stands for an example that was skipped.

        on_too_long: what happens to examples of more than max_length - prefix_length tokens: "error",
        "skip", or "truncate" (the question's first tokens go, the answer never). Raises TooLongError (indices
        and lengths; the first five), DataError for answers without a token.
        """
        examples = self.encoder.demonstrations(pool.questions, pool.answers)
        return fit(examples, self.max_length - prefix_length, self.encoder.leading, on_too_long)

    def answer_losses(
        self, pool: "Pool", prefix: Tensor | None = None, *, on_too_long: OnTooLong = "error"
    ) -> Tensor:
        """Return (N,) nats: -log p(answer | question), summed over the answer's tokens; float32 on the CPU.

        prefix: (k, h) embeddings put in front of everything. A skipped example has the loss NaN.
        """
        length = 0 if prefix is None else len(prefix)
        examples = self.encode(pool, on_too_long=on_too_long, prefix_length=length)
        rows = [row for row, example in enumerate(examples) if example is not None]
        kept = [example for example in examples if example is not None]
        bare = [row for row, example in zip(rows, kept, strict=True) if example.answer_start + length == 0]
        if bare:
            raise DataError(
                f"nothing stands in front of the answer in {len(bare)} examples (rows {bare[:5]})",
                expected="a question, or a tokenizer that puts a BOS token in front",
                fix="add a question text to the template",
            )
        losses = torch.full((len(examples),), torch.nan)
        lengths = [len(example.ids) + length for example in kept]

        def compute(batch: list[int]) -> Tensor:
            collated = collate([kept[index] for index in batch], self.device)
            copies = None if prefix is None else prefix.to(self.device).expand(len(batch), -1, -1)
            losses = answer_losses(self.model, collated, copies, slice_head=self.slice_head, tail=self.tail)
            return losses.float().cpu()

        with frozen(self.model), torch.no_grad():
            for batch, values in run_batches(lengths, self.budget, compute):
                losses[[rows[index] for index in batch]] = values
        return losses

    def embed(self, texts: Sequence[str], *, on_too_long: Literal["error", "truncate"] = "error") -> Tensor:
        """Return (N, h) float32 on the CPU: the mean of the last hidden states over all tokens but the BOS.

        Raises DataError for texts without a token, TooLongError unless ``on_too_long`` is "truncate" (the
        text's first tokens go).
        """
        lead, limit = self.encoder.leading, self.max_length
        tokens = [ids for ids, _ in self.encoder.tokenize(texts)]
        empty = [row for row, ids in enumerate(tokens) if len(ids) <= lead]
        if empty:
            raise DataError(
                f"{len(empty)} texts have no tokens (rows {empty[:5]})",
                expected="at least one token in every text",
                fix="remove the empty texts",
            )
        longer = {row: len(ids) for row, ids in enumerate(tokens) if len(ids) > limit}
        if longer and on_too_long != "truncate":
            raise too_long(longer, limit)
        for row, length in longer.items():
            tokens[row] = tokens[row][:lead] + tokens[row][lead + length - limit :]
        lengths = [len(ids) for ids in tokens]
        means = torch.empty(len(tokens), 0)

        def compute(batch: list[int]) -> Tensor:
            ids = pad([tokens[row] for row in batch], self.device)
            hidden = last_hidden_states(self.model, ids, slice_head=self.slice_head).float()
            return torch.stack([hidden[at, lead : lengths[row]].mean(0) for at, row in enumerate(batch)])

        with frozen(self.model), torch.no_grad():
            for batch, vectors in run_batches(lengths, self.budget, compute):
                if not means.shape[1]:
                    means = torch.empty(len(tokens), vectors.shape[1])
                means[batch] = vectors.cpu()
        return means

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return the number of tokens of each text, without those the tokenizer adds by itself (BOS)."""
        return self.encoder.count(texts)

    def _check(self) -> None:
        """Refuse, before anything is run, what could only fail later or be wrong in silence."""
        embeddings = getattr(self.model, "get_input_embeddings", lambda: None)()
        weight = getattr(embeddings, "weight", None)
        if weight is None or getattr(self.model, "get_output_embeddings", lambda: None)() is None:
            raise ProxyError(
                f"{type(self.model).__name__} has no input embeddings or no language-model head",
                expected="a causal language model",
                fix='load it with AutoModelForCausalLM, or use the shipped proxy "micro"',
            )
        devices = {str(one.device) for one in self.model.parameters()}
        if len(devices) > 1 or "meta" in devices or getattr(self.model, "is_quantized", False):
            raise ProxyError(
                f"the model's weights are quantised, offloaded or spread over {sorted(devices)}",
                expected="plain weights on one device",
                fix="load the model without device_map and quantization_config",
            )
        largest = self.encoder.largest_id
        if largest >= weight.shape[0]:
            raise ProxyError(
                f"the tokenizer has ids up to {largest}, the model only {weight.shape[0]} embeddings",
                expected="a tokenizer that belongs to the model",
                fix="load both from the same place",
            )


def _weights_hash(model: Any) -> str:
    volatile = ("_name_or_path", "transformers_version")
    config = {key: value for key, value in model.config.to_dict().items() if key not in volatile}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
