"""Many token sequences as one tree, in which what several begin with stands once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
    paths: list[list[int]] = []
    for row, sequence in enumerate(sequences):
        # Neighbours are mostly choices of one question, whose path is not walked again.
        known = common_length(sequence, sequences[row - 1]) if row else 0
        path = paths[-1][:known] if row else []
        for depth, token in enumerate(sequence[known:], known):
            parent = path[-1] if path else -1
            node = found.setdefault((parent, token), len(tree.tokens))
            if node == len(tree.tokens):
                tree.tokens.append(token)
                tree.parents.append(parent)
                tree.depths.append(depth)
            path.append(node)
        paths.append(path)
    return tree, paths


def common_length(one: Any, other: Any) -> int:
    """Return how many items two texts, lists or tuples begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


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


def put_behind(tokens: Sequence[int], example: Encoded) -> Encoded:
    """Return the example with tokens in front of it."""
    shift = len(tokens)
    return Encoded([*tokens, *example.ids], example.answer_start + shift, example.answer_stop + shift)
