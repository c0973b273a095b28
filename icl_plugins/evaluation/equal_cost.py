"""Equal cost: how many random sets can be tried for the price of gradient matching.

The price is the usual count of floating-point operations: a token costs 2 P + 4 l h c forward, P being the
weights apart from embeddings, l the layers, h their width and c the tokens in front of it. A gradient with
respect to a prefix costs as much again, since no weight needs one. Unlike seconds, this is the same number on
every machine; the seconds that both took are in the results.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from icl_plugins.selectors.gradient_matching import GradientMatching

if TYPE_CHECKING:
    from icl_plugins.proxy.model import Proxy


@dataclass(frozen=True)
class Price:
    """What a token costs a model: by itself, and for each token in front of it."""

    token: float
    attention: float

    @classmethod
    def of(cls, proxy: "Proxy") -> "Price":
        """Return the price of a proxy's tokens."""
        model, config = proxy.model, proxy.model.config.get_text_config()
        ends = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
        outer = sum(weight.numel() for weight in {id(weight): weight for weight in ends}.values())
        weights = sum(weight.numel() for weight in model.parameters()) - outer
        return cls(2.0 * weights, 4.0 * config.num_hidden_layers * config.hidden_size)

    def forward(self, tokens: float, before: float = 0.0) -> float:
        """Return the price of so many tokens in a row, with so many others in front of them."""
        return tokens * (self.token + self.attention * (before + tokens / 2))


def matching_price(price: Price, lengths: Sequence[int], matching: GradientMatching) -> float:
    """Return the price of prefix tuning and gradients; lengths (N,): tokens of each example of the pool."""
    passes = 2 * matching.epochs + 1 if matching.mode == "exact" else matching.epochs
    return 2 * passes * sum(price.forward(length + matching.prefix_length) for length in lengths)


def set_price(price: Price, lengths: Sequence[int], shots: int, held_out: int) -> float:
    """Return the price of one set of `shots` examples of mean length, tried on `held_out` others."""
    mean = sum(lengths) / len(lengths)
    tried = min(held_out, len(lengths) - shots)
    return price.forward(shots * mean) + tried * price.forward(mean, shots * mean)
