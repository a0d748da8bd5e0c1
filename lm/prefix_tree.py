"""A prefix tree of token sequences and the order to run it in. A pure data structure, no model.

Every distinct (prefix, token) is one node. The tree is cut into paths, longest first: the longest
sequence is the trunk, what hangs off it are branches, what hangs off those is the next generation.
A path needs only its ancestors, so that all paths of one generation can run together.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Tokens = tuple[int, ...]

# A token's attention to one key, as a share of the rest of its forward: about what a small model
# has on a CPU. It only weighs padding against the number of forwards; no result depends on it.
KEY_COST = 1 / 1200
# Where pasts are shared, a row has a mask for each slot of its past but no keys: so many slots
# take the memory of one token
MASKED = 8


@dataclass(frozen=True)
class Path:
    """A run of nodes, first to last, that hangs off node `parent` (-1: off the root)."""

    tokens: Tokens
    parent: int
    first: int  # its nodes are first, first + 1, ...
    depth: int  # number of ancestors: the position of its first token
    generation: int


class PrefixTree:
    """Paths that hold every given sequence, each shared prefix once."""

    def __init__(self, sequences: Iterable[Tokens], late: Iterable[Tokens] = ()):
        """Paths of the `late` sequences come in generations behind all others, and leave those as
        they would be without them.
        """
        self.paths: list[Path] = []
        self.size = 0  # number of nodes
        self._branches: dict[tuple[int, int], Path] = {}  # (parent node, first token) -> path
        self._firsts: list[int] = []
        for group in (sequences, late):
            earliest = max((path.generation + 1 for path in self.paths), default=0)
            for sequence in sorted(set(group), key=len, reverse=True):
                self._insert(sequence, earliest)

    def _insert(self, sequence: Tokens, generation: int) -> None:
        node, depth = -1, 0
        while depth < len(sequence):
            path = self._branches.get((node, sequence[depth]))
            if path is None:
                path = Path(sequence[depth:], node, self.size, depth, generation)
                self._branches[node, sequence[depth]] = path
                self.paths.append(path)
                self._firsts.append(path.first)
                self.size += len(path.tokens)
                return
            shared = common_length(path.tokens, sequence[depth:])
            node, depth = path.first + shared - 1, depth + shared
            generation = max(generation, path.generation + 1)

    def node_of(self, sequence: Tokens) -> int:
        """Node of a sequence's last token; KeyError where the tree does not hold it."""
        node, depth = -1, 0
        while depth < len(sequence):
            path = self._branches[node, sequence[depth]]
            shared = common_length(path.tokens, sequence[depth:])
            node, depth = path.first + shared - 1, depth + shared
        return node

    def path_of(self, node: int) -> Path:
        """The path that a node lies on."""
        return self.paths[bisect_right(self._firsts, node) - 1]

    def pieces(self, node: int) -> list[range]:
        """Nodes from the root's child down to `node` itself, a piece of each path on the way; []
        for the root, -1.
        """
        found = []
        while node >= 0:
            path = self.path_of(node)
            found.append(range(path.first, node + 1))
            node = path.parent
        return found[::-1]

    def lineage(self, node: int) -> list[int]:
        """The same nodes one by one."""
        return [each for piece in self.pieces(node) for each in piece]

    def in_order(self) -> list[Path]:
        """All paths, parents first, and paths of a generation that are alike in length together."""
        return sorted(self.paths, key=lambda p: (p.generation, -len(p.tokens), -p.depth))


def run_together(
    waiting: Sequence[Path],
    token_budget: int,
    forward_cost: float,
    *,
    level: bool = False,
    shared: bool = False,
) -> tuple[int, int]:
    """How many of the first paths are run in one forward, and their size in tokens, with padding.

    Paths of a generation share a forward while that saves time by the estimate of `_cost`, and
    while its size stays within the budget; a single path may exceed it. Where they must be `level`,
    they all begin at one depth. Where pasts are `shared`, a row has no copy of its own.
    """
    count = 1
    while count < len(waiting):
        batch, path = waiting[:count], waiting[count]
        if path.generation > batch[0].generation or (level and path.depth != batch[0].depth):
            break
        if _size(waiting[: count + 1], shared) > token_budget:
            break
        apart = _cost(batch, forward_cost, shared) + _cost([path], forward_cost, shared)
        if _cost(waiting[: count + 1], forward_cost, shared) > apart:
            break
        count += 1
    return count, _size(waiting[:count], shared)


def _size(batch: Sequence[Path], shared: bool) -> int:
    """Tokens of a forward, with padding and cached tokens."""
    past, new = _padding(batch)
    return len(batch) * (new + (past // MASKED if shared else past))


def _cost(batch: Sequence[Path], forward_cost: float, shared: bool) -> float:
    """Estimated time of a forward, in tokens: its own, then every token with the keys it reads."""
    past, new = _padding(batch)
    read = sum(path.depth for path in batch) if shared else len(batch) * past
    return forward_cost + len(batch) * new + KEY_COST * new * (read + len(batch) * new)


def _padding(batch: Sequence[Path]) -> tuple[int, int]:
    """Length of the past and of the new tokens that every row of a batch is padded to."""
    return max(path.depth for path in batch), max(len(path.tokens) for path in batch)


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    short = min(len(first), len(second))
    if first[:short] == second[:short]:
        return short
    return next(k for k in range(short) if first[k] != second[k])


def padded(rows: Sequence[Sequence[int]], left: bool = False) -> tuple[list, list]:
    """Rows of equal length, filled up with 0, and the mask that hides the filling."""
    width = max(map(len, rows))
    full, mask = [], []
    for row in rows:
        gap, ones = [0] * (width - len(row)), [1] * len(row)
        full.append([*gap, *row] if left else [*row, *gap])
        mask.append([*gap, *ones] if left else [*ones, *gap])
    return full, mask
