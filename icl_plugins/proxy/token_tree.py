"""Many token sequences as one tree, in which what several begin with stands once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from icl_plugins.proxy.encoding import Encoded


@dataclass(frozen=True)
class TokenTree:
    """Nodes in an order in which parents come first.

    tokens, parents, depths: (N,) each; the parent of a node that begins a sequence is -1, its depth 0.
    """

    tokens: list[int]
    parents: list[int]
    depths: list[int]

    def ancestors(self) -> np.ndarray:
        """Return (N, N) bool: what each node may see, itself and all on the way to it."""
        sees = np.eye(len(self.tokens), dtype=bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        return sees


@dataclass(frozen=True)
class Targets:
    """The answer tokens of S sequences: M entries, each a node, the token behind it, and whose answer it is.

    nodes: the distinct nodes behind which an answer token stands. at: (M,) indices into nodes.
    tokens, sequences: (M,).
    """

    nodes: list[int]
    at: list[int]
    tokens: list[int]
    sequences: list[int]


def grow(sequences: Sequence[Sequence[int]]) -> tuple[TokenTree, list[list[int]]]:
    """Return the tree of the sequences, and the nodes of each sequence in order."""
    tree, found = TokenTree([], [], []), dict[tuple[int, int], int]()
    paths = []
    for sequence in sequences:
        node, path = -1, []
        for depth, token in enumerate(sequence):
            child = found.setdefault((node, token), len(tree.tokens))
            if child == len(tree.tokens):
                tree.tokens.append(token)
                tree.parents.append(node)
                tree.depths.append(depth)
            node = child
            path.append(node)
        paths.append(path)
    return tree, paths


def answer_tree(sequences: Sequence[Encoded]) -> tuple[TokenTree, Targets]:
    """Return the tree of all tokens that something is predicted from, and what is to be predicted.

    The last token of a sequence is predicted only, so it is no node.
    """
    tree, paths = grow([one.ids[: one.answer_stop - 1] for one in sequences])
    index: dict[int, int] = {}
    targets = Targets([], [], [], [])
    for row, (one, path) in enumerate(zip(sequences, paths, strict=True)):
        for position in range(one.answer_start, one.answer_stop):
            node = path[position - 1]
            targets.at.append(index.setdefault(node, len(index)))
            targets.tokens.append(one.ids[position])
            targets.sequences.append(row)
    targets.nodes.extend(index)
    return tree, targets
