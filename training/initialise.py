"""Begin near the circuit that reads a context: pool the recent words, find the like, copy its answer.

From a plain random start the first thousands of steps go into finding this circuit. It can be written
down: layer 0 pools recent tokens by position alone, layer 1 looks for positions that pooled alike and
passes their token on. Noise is added on top, and training is free to leave it. An application of
mimetic initialisation (Trockman and Kolter 2023) to induction (Olsson et al. 2022).
"""

import torch
from torch import Tensor

from network import Llama

CONSTANT = 0.45  # share of every embedding that is the same, so that heads can look by position alone
POOLING = ((1.0, 0, 5, 1.6), (2.0, 0, 5, 1.6), (4.0, 2, 6, 1.2), (8.0, 3, 7, 1.2))  # offset, pairs from..to, sharpness


def orthogonal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random matrix with orthonormal rows."""
    q, r = torch.linalg.qr(torch.randn(max(rows, columns), max(rows, columns), generator=generator))
    return (q * r.diagonal().sign())[:rows, :columns]


def initialise(model: Llama, vectors: Tensor, seed: int) -> None:
    """Write the circuit and the word vectors (V, h; unit rows) into a freshly made model."""
    generator = torch.Generator().manual_seed(seed)
    h = vectors.shape[1]
    heads = model.layers[0].self_attn.heads
    dim = h // heads
    pairs = dim // 2
    constant = orthogonal(1, h, generator)[0]
    words = vectors - vectors.mean(0)
    top = torch.linalg.svd(words, full_matrices=False).Vh[:2]  # directions of frequency, not of meaning
    words = torch.nn.functional.normalize(words - words @ top.T @ top, dim=1)
    noise = torch.nn.functional.normalize(torch.randn(words.shape, generator=generator), dim=1)
    words = torch.nn.functional.normalize(words + 0.7 * noise, dim=1)
    read, spaces = orthogonal(dim, h, generator), orthogonal(3 * dim, h, generator).split(dim)
    before, after, around = spaces  # what stood one token back, two tokens back, in the window
    copy = orthogonal(h, h, generator)
    with torch.no_grad():
        model.embed_tokens.weight.copy_((1 - CONSTANT**2) ** 0.5 * words + CONSTANT * constant)
        for number, layer in enumerate(model.layers):
            a = layer.self_attn
            a.o_proj.weight.mul_(0.3)
            layer.mlp.down_proj.weight.mul_(0.3)
            if number > 1:
                continue
            for p in (a.q_proj, a.k_proj, a.v_proj, a.o_proj):
                p.weight.mul_(0.3)
            for head in range(heads):
                rows = slice(head * dim, (head + 1) * dim)
                if number == 0:
                    offset, first, last, sharp = POOLING[head % len(POOLING)]
                    query, key = torch.zeros(dim), torch.zeros(dim)
                    angle = offset * model.freqs[first:last]
                    query[first:last] = sharp
                    key[first:last], key[pairs + first : pairs + last] = angle.cos() * sharp, angle.sin() * sharp
                    a.q_proj.weight[rows] += query[:, None] * constant
                    a.k_proj.weight[rows] += key[:, None] * constant
                    a.v_proj.weight[rows] += read
                    a.o_proj.weight[:, rows] += 0.25 * spaces[min(head, 2)].T
                else:
                    slow = torch.arange(pairs // 2, pairs)
                    alike = torch.zeros(dim, dim)
                    alike[torch.cat((slow, slow + pairs))] = orthogonal(pairs, dim, generator)
                    a.q_proj.weight[rows] += 1.7 * alike @ (before + 0.5 * around)
                    a.k_proj.weight[rows] += 1.7 * alike @ (after + 0.5 * around)
                    a.v_proj.weight[rows] += copy[rows]
                    a.o_proj.weight[:, rows] += 0.25 * copy[rows].T
