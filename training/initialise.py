"""Begin near the circuit that reads a context: pool the words before, find the like, copy its answer.

From a plain random start the first thousands of steps go into finding this circuit. It can be written
down: layer 0 pools recent words, rare ones most; layers 1 and 2 look for answers whose example pooled alike
and pass them on. Noise is added on top, and training is free to leave it. An application of mimetic
initialisation (Trockman and Kolter 2023) to induction (Olsson et al. 2022).
"""

from dataclasses import dataclass

import torch
from network import Llama
from torch import Tensor
from torch.nn.functional import normalize

CONSTANT, RARE = 0.45, 0.25  # length of the axes that are the same for all tokens; that tell their rarity
NOISE = 0.3  # of the word vectors, so that words without one differ
OTHERS, MLP = 0.2, 0.02  # what is left of the random weights beside the circuit
BEFORE, POOLED, ALIKE, CUE, COPY = 0.12, 0.4, 2.0, 2.0, 0.9  # gains
# Pooling heads of layer 0: the offset of the window's middle; the first rotary pair, which sets its width
# (a faster one looks closer); how sharply it ends, in nats a pair.
WINDOWS = ((20.0, 2, 4.0), (8.0, 1, 3.0), (5.0, 1, 4.0))
FIRST_SLOW = 6  # rotary pairs from here on turn too slowly to notice where in the context a token stands


@dataclass(frozen=True)
class Rotary:
    """A head's rotary pairs: ``freqs`` (pairs,); writes (head_dim, h) weights that turn with position."""

    freqs: Tensor
    width: int

    def window(self, axis: Tensor, offset: float, first: int, sharp: float) -> tuple[Tensor, Tensor]:
        """Query and key weights that attend to the tokens around ``offset`` before.

        Sum over the pairs of sharp * cos(freq * (distance - offset)): the fast pairs make the peak, the slow
        ones keep it from coming back.
        """
        pairs = len(self.freqs)
        query, key = torch.zeros(2 * pairs, self.width), torch.zeros(2 * pairs, self.width)
        gain = (sharp * (2 * pairs) ** 0.5 / self.width) ** 0.5 / CONSTANT
        for i in range(first, pairs - 1):
            angle = offset * self.freqs[i]
            query[i], key[i] = gain * axis, gain * angle.cos() * axis
            key[pairs + i] = gain * angle.sin() * axis
        return query, key


def orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random matrix with orthonormal rows."""
    q, r = torch.linalg.qr(torch.randn(columns, columns, generator=generator))
    return (q * r.diagonal().sign())[:rows]


def without(x: Tensor, axes: Tensor) -> Tensor:
    """Rows of x less their part along orthonormal axes."""
    return x - x @ axes.T @ axes


def embeddings(
    vectors: Tensor, weight: Tensor, share: Tensor, axes: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows of unit norm (meaning, a constant, rarity), and the meaning alone.

    weight: (V,) how much a token counts when words are pooled. share: (V,) of all tokens. Meaning is
    centred as it is pooled, or all pooled vectors would look alike.
    """
    words = vectors - vectors.mean(0)
    words = normalize(without(words, torch.linalg.svd(words, full_matrices=False).Vh[:2]), dim=1)  # frequency
    words = words + NOISE * normalize(torch.randn(words.shape, generator=generator), dim=1)
    mass = (share * weight)[:, None]
    words = normalize(without(words - (words * mass).sum(0) / mass.sum(), axes), dim=1)
    rarity = weight.log()
    rarity = ((rarity - rarity.mean()) / rarity.std()).clamp(-3.0, 3.0)
    rest = (1 - CONSTANT**2 - (RARE * rarity) ** 2).clamp_min(0.01).sqrt()[:, None]
    return rest * words + CONSTANT * axes[0] + RARE * rarity[:, None] * axes[1], words


def initialise(model: Llama, vectors: Tensor, frequency: Tensor, end_of_cue: int, seed: int) -> None:
    """Write word vectors (V, h; unit rows) and the circuit into a freshly made model.

    frequency: (V,) counts of tokens. end_of_cue: the token that stands in front of most answers.
    """
    generator = torch.Generator().manual_seed(seed)
    h, heads = vectors.shape[1], model.layers[0].self_attn.heads
    dim = h // heads
    axes = orthogonal(2, h, generator)
    share = frequency / frequency.sum()
    weight = 1e-3 / (1e-3 + share)  # SIF (Arora et al. 2017)
    table, words = embeddings(vectors, weight, share, axes, generator)
    with torch.no_grad():
        model.embed_tokens.weight.copy_(table)
        for layer in model.layers:
            a = layer.self_attn
            layer.mlp.down_proj.weight.mul_(MLP)
            for p in (a.q_proj, a.k_proj, a.v_proj, a.o_proj):
                p.weight.mul_(OTHERS)
        spaces = orthogonal(h, h, generator).split(dim)  # where each head of layer 0 writes
        rotary = Rotary(model.freqs, h)
        cue = normalize(without(table[end_of_cue][None], axes), dim=1)
        others = torch.cat((cue, orthogonal(dim - 1, h, generator)))
        before = torch.linalg.qr(others.T).Q.T  # reads the cue in its first row
        query, key = rotary.window(axes[0], 1.0, 0, 10.0)
        add(model, 0, 0, query, key, before, BEFORE * spaces[0].T)
        cov = (words * (share * weight**2)[:, None]).T @ words
        main = torch.linalg.eigh(cov).eigenvectors.flip(1)[:, : h - dim].T  # what pooled words differ in
        main = torch.linalg.qr(without(main, axes).T).Q.T
        slices = main[torch.randperm(h - dim, generator=generator)].split(dim)
        still = dim // 2 - 1  # the slowest pair: blind to position
        for head, ((offset, first, sharp), read) in enumerate(zip(WINDOWS, slices, strict=True), start=1):
            query, key = rotary.window(axes[0], offset, first, sharp)
            query[still] = axes[0] * dim**0.5 / (CONSTANT * h**0.5)
            key[still] = (
                axes[1] * weight.log().std() / (RARE * h**0.5)
            )  # so that a token counts by its weight
            add(model, 0, head, query, key, read, POOLED * spaces[head].T)
        found = spaces[0].T @ (before @ cue[0])  # what is written after the end of a cue
        for layer in (1, 2):
            compare(model, layer, torch.cat(spaces[1:]), found, axes, generator)


def compare(
    model: Llama, layer: int, pooled: Tensor, found: Tensor, axes: Tensor, generator: torch.Generator
) -> None:
    """Heads that attend to answers (``found`` tells them) whose pooled words are alike, and copy them."""
    h, heads = axes.shape[1], model.layers[0].self_attn.heads
    dim, pairs = h // heads, h // heads // 2
    slow = torch.tensor([*range(FIRST_SLOW, pairs - 1), *range(pairs + FIRST_SLOW, 2 * pairs - 1)])
    mixed = orthogonal(len(pooled), len(pooled), generator) @ pooled
    copies = orthogonal(h, h, generator).split(dim)
    for head in range(heads):
        query, key = torch.zeros(dim, h), torch.zeros(dim, h)
        query[slow] = key[slow] = ALIKE * mixed[head * len(slow) : (head + 1) * len(slow)]
        query[pairs - 1], key[pairs - 1] = CUE * axes[0], CUE * found
        add(model, layer, head, query, key, copies[head], COPY * copies[head].T)


def add(
    model: Llama, layer: int, head: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor
) -> None:
    """Add a head's weights, (head_dim, h) each and the output's (h, head_dim), to what is there."""
    a = model.layers[layer].self_attn
    rows = slice(head * len(query), (head + 1) * len(query))
    for projection, weights in ((a.q_proj, query), (a.k_proj, key), (a.v_proj, value)):
        projection.weight[rows] += weights
    a.o_proj.weight[:, rows] += output
