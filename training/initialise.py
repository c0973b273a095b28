"""Begin near the circuit that reads a context: pool the words before, find the like, copy its answer.

From a plain random start the first thousands of steps go into finding this circuit. It can be written
down: layer 0 pools recent words, rare ones most, by position and rarity alone; layer 1 looks for answers
whose example pooled alike and passes them on. Noise is added on top, and training is free to leave it. An
application of mimetic initialisation (Trockman and Kolter 2023) to induction (Olsson et al. 2022).
"""

import torch
from network import Llama
from torch import Tensor

CONSTANT, RARE = (
    0.45,
    0.25,
)  # share of the embeddings that is the same for all tokens; that tells their rarity
# Heads of layer 0: the offset, rotary pairs from..to (slow ones look wide), sharpness, weight of rarity.
POOLING = ((3.5, 1, 6, 1.3, 0.1), (1.0, 0, 5, 1.6, 0.0), (5.5, 1, 4, 0.9, 0.3), (9.0, 2, 5, 0.9, 0.3))
GAIN, ALIKE, FLAG, COPY = 0.3, 2.2, 3.5, 0.9


def orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random matrix with orthonormal rows."""
    q, r = torch.linalg.qr(torch.randn(columns, columns, generator=generator))
    return (q * r.diagonal().sign())[:rows]


def embeddings(vectors: Tensor, frequency: Tensor, axes: Tensor, generator: torch.Generator) -> Tensor:
    """Rows of unit norm: word meaning, and an axis each for a constant and for rarity."""
    words = vectors - vectors.mean(0)
    top = torch.linalg.svd(words, full_matrices=False).Vh[:2]  # directions of frequency, not of meaning
    words = torch.nn.functional.normalize(words - words @ top.T @ top, dim=1)
    noise = torch.nn.functional.normalize(torch.randn(words.shape, generator=generator), dim=1)
    words = words + 0.6 * noise
    words = torch.nn.functional.normalize(words - words @ axes.T @ axes, dim=1)
    rarity = -(frequency + 1).log()
    rarity = ((rarity - rarity.mean()) / rarity.std()).clamp(-2.5, 1.5)
    rest = (1 - CONSTANT**2 - RARE**2) ** 0.5
    return rest * words + CONSTANT * axes[0] + RARE * rarity[:, None] * axes[1]


def initialise(model: Llama, vectors: Tensor, frequency: Tensor, end_of_cue: int, seed: int) -> None:
    """Write word vectors (V, h; unit rows) and the circuit into a freshly made model.

    frequency: (V,) counts of tokens. end_of_cue: the token that stands in front of most answers.
    """
    generator = torch.Generator().manual_seed(seed)
    h = vectors.shape[1]
    heads = model.layers[0].self_attn.heads
    dim, pairs = h // heads, h // heads // 2
    axes = orthogonal(2, h, generator)
    table = embeddings(vectors, frequency, axes, generator)
    meaning = orthogonal(h, h, generator)  # two halves of it are read by the two wide heads
    reads = [meaning[:dim], meaning[2 * dim : 3 * dim], meaning[:dim], meaning[dim : 2 * dim]]
    spaces = orthogonal(h, h, generator).split(dim)
    flag = torch.nn.functional.normalize(reads[1] @ table[end_of_cue], dim=0)
    copy = orthogonal(h, h, generator)
    slow = torch.cat((torch.arange(pairs // 2, pairs - 1), torch.arange(pairs // 2, pairs - 1) + pairs))
    still = pairs - 1  # the slowest pair: all but blind to position
    with torch.no_grad():
        model.embed_tokens.weight.copy_(table)
        for number, layer in enumerate(model.layers):
            a = layer.self_attn
            layer.mlp.down_proj.weight.mul_(0.2)
            for p in (a.q_proj, a.k_proj, a.v_proj, a.o_proj) if number < 2 else (a.o_proj,):
                p.weight.mul_(0.2)
            for head in range(heads if number < 2 else 0):
                rows = slice(head * dim, (head + 1) * dim)
                query, key = torch.zeros(dim, h), torch.zeros(dim, h)
                if number == 0:
                    offset, first, last, sharp, rare = POOLING[head]
                    angle = offset * model.freqs[first:last]
                    query[first:last] = sharp * axes[0]
                    key[first:last] = angle.cos()[:, None] * sharp * axes[0]
                    key[pairs + first : pairs + last] = angle.sin()[:, None] * sharp * axes[0]
                    query[still], key[still] = 2 * axes[0], rare * axes[1]
                    a.v_proj.weight[rows] += reads[head]
                    a.o_proj.weight[:, rows] += GAIN * spaces[head].T
                else:
                    both = orthogonal(len(slow), 2 * dim, generator) @ torch.cat(
                        (spaces[0], spaces[2 + head % 2])
                    )
                    query[slow] = key[slow] = ALIKE * both
                    query[still], key[still] = FLAG * axes[0], FLAG * flag @ spaces[1]
                    a.v_proj.weight[rows] += copy[rows]
                    a.o_proj.weight[:, rows] += COPY * copy[rows].T
                a.q_proj.weight[rows] += query
                a.k_proj.weight[rows] += key
