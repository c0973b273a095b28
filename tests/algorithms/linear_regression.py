"""In-context linear regression: pools, a transformer in closed form, and ways to fill its slots.

A layer of linear attention is a step of gradient descent on the demonstrations' least squares (von Oswald et
al. 2022); here later slots weigh more, so that order matters. A slot is in one of two forms:

products: the d + 1 tokens of z z^T, z = (x, y). Attention sums them: one layer's prediction is linear in the
slots, more layers' a polynomial of that one sum.
pairs: the one token z. The same function, quadratic in every slot.
"""

import numpy as np
import torch
from scipy.spatial.distance import cdist

from icl_plugins.algorithms.slots import SlotTable, slot_table

WIDTH, CANDIDATES, SLOTS = 4, 60, 12
WEIGHTS = 0.8 ** torch.arange(SLOTS, dtype=torch.float64).flip(0)
WEIGHTS /= WEIGHTS.sum()


def predict(slots, x, layers=10, step=0.3):
    """The answers (..., q) to x (q, d) behind slots (..., k, T, d + 1) of either form."""
    products = slots.mT * slots if slots.shape[-2] == 1 else slots
    moments = (WEIGHTS[:, None, None] * products).sum(-3)
    squares, target = moments[..., :WIDTH, :WIDTH], moments[..., :WIDTH, WIDTH:]
    found = torch.zeros_like(target)
    for _ in range(layers):
        found = found - step * (squares @ found - target)
    return (x @ found)[..., 0]


def loss(slots, queries):
    return (predict(slots, queries[:, :WIDTH]) - queries[:, WIDTH]).square().mean(-1)


def tabulate(outcome, anchor, embeddings):
    leaf = anchor.clone().requires_grad_()
    value = outcome(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    tokens = embeddings.flatten(0, 1).numpy()
    ids = np.arange(len(tokens)).reshape(embeddings.shape[:2])
    return slot_table(gradient.numpy(), ids, tokens, anchor.numpy(), value.item())


class Task:
    """A regression, a pool of which some labels are of another, 20 queries to select by, 200 to test by."""

    def __init__(self, seed, form, noise, wrong):
        self.generator = np.random.default_rng(seed)
        right, other = self.generator.normal(size=(2, WIDTH))
        x = self.generator.normal(size=(CANDIDATES + 220, WIDTH))
        y = np.where(np.arange(len(x)) < wrong, x @ other, x @ right)
        z = torch.from_numpy(np.column_stack([x, y + noise * self.generator.normal(size=len(x))]))
        self.pool, self.queries, self.test = z.split([CANDIDATES, 20, 200])
        tokens = self.pool[:, None]
        self.embeddings = tokens.mT * tokens if form == "products" else tokens
        self.mean = self.embeddings.mean(0).expand(SLOTS, -1, -1)
        self.subsets = np.array([self.generator.permutation(CANDIDATES)[:SLOTS] for _ in range(200)])

    def loss(self, slots):
        return loss(slots, self.queries)

    def table(self, anchor):
        return tabulate(self.loss, anchor, self.embeddings)

    def forward(self, score):
        """Fill the heaviest slot first with the candidate of least score; the mean stands in empty ones."""
        chosen, anchor = [], self.mean.clone()
        for slot in reversed(range(SLOTS)):
            scores = np.array(score(anchor, slot))
            scores[chosen] = np.inf
            chosen.append(int(scores.argmin()))
            anchor[slot] = self.embeddings[chosen[-1]]
        return anchor

    def estimates(self, anchor, slot):
        return self.table(anchor).table[slot]

    def inference(self, anchor, slot):
        prompts = anchor.repeat(CANDIDATES, 1, 1, 1)
        prompts[:, slot] = self.embeddings
        return self.loss(prompts).numpy()

    def reanchored(self, rounds=24):
        """The best assignment, then ever again the best near the last that real inference found better."""
        anchor, reach = self.embeddings[self.table(self.mean).best()[0]], 1.0
        held = self.loss(anchor)
        for _ in range(rounds - 1):
            table = self.table(anchor)
            away = cdist(anchor.flatten(1), self.embeddings.flatten(1), "sqeuclidean")
            near = SlotTable(table.table + table.table.std() / away.mean() / reach * away, 0.0)
            proposal = self.embeddings[near.best()[0]]
            value = self.loss(proposal)
            if value < held:
                anchor, held, reach = proposal, value, 1.5 * reach
            else:
                reach *= 0.7
        return anchor
