"""Keys and values of a prefix tree's nodes, and the caches in which later rows go on from them."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from lm.prefix_tree import Path, PrefixTree, padded
from lm.prompts import Prefix
from lm.shared_past import Pasts, RoomyLayer, SharedLayer, Spans


class KeyValueStore:
    """Keys and values of the nodes that later rows continue from, one row of a table per node."""

    def __init__(self, tree: PrefixTree, answered: Sequence[int], kept: Sequence[int] = ()):
        """`answered` are the nodes that will be continued by answers, `kept` those whose text is
        wanted.
        """
        self.tree = tree
        self.stored = {path.first: 0 for path in tree.paths}  # tokens of each path that are stored
        for node in [*(path.parent for path in tree.paths if path.parent >= 0), *answered, *kept]:
            first = tree.path_of(node).first
            self.stored[first] = max(self.stored[first], node - first + 1)
        self.rows = torch.zeros(tree.size, dtype=torch.long)  # node -> row of the tables
        self.size = 0
        for first, count in self.stored.items():
            self.rows[first : first + count] = torch.arange(self.size, self.size + count)
            self.size += count
        self.tables: list[tuple[Tensor, Tensor]] = []  # per layer: keys, values, each [size, H, d]
        read = Counter(piece.start for node in answered for piece in tree.pieces(node))
        self.common = {first for first, answers in read.items() if answers > 1}  # to answers

    def keep(self, cache: DynamicCache, paths: Sequence[Path], before: int) -> None:
        """Store what a forward over these paths has put into its cache behind so many slots."""
        positions = [(r, c) for r, path in enumerate(paths) for c in range(self.stored[path.first])]
        if not positions:
            return
        row, column = torch.tensor(positions).T
        target = self.rows[torch.tensor([paths[r].first + c for r, c in positions])]
        if not self.tables:
            self.tables = [
                (_table(layer.keys, self.size), _table(layer.values, self.size))
                for layer in cache.layers
            ]
        for layer, tables in zip(cache.layers, self.tables):
            for states, table in zip((layer.keys, layer.values), tables):  # states [R, H, P+Q, d]
                table[target] = states.transpose(1, 2)[row, before + column]

    def copied(self, nodes: Sequence[int], room: int) -> DynamicCache:
        """A cache whose rows hold a text each, up to a node (-1: nothing), padded on the left, with
        room for more tokens.
        """
        cache = DynamicCache()  # made without the config, so that no layer drops keys
        past, _ = padded([self.tree.lineage(node) for node in nodes], left=True)
        if past[0]:
            rows = self.rows[torch.tensor(past)]
            cache.layers = [RoomyLayer(tables, rows, room) for tables in self.tables]
        return cache

    def of_prefixes(self, prefixes: Sequence[Prefix]) -> list[tuple[tuple[Tensor, Tensor], ...]]:
        """Keys and values of each text, at each block [1, H, t, d]."""
        caches = [self.copied([self.tree.node_of(prefix)], room=0) for prefix in prefixes]
        return [tuple((layer.keys, layer.values) for layer in cache.layers) for cache in caches]

    def shared(self, nodes: Sequence[int], room: int) -> DynamicCache:
        """A cache whose rows leave their texts where they are, with room for new tokens."""
        pasts = Pasts([self._spans(self.tree.pieces(node)) for node in nodes])
        return self._sharing(pasts, torch.zeros(len(nodes), 0, dtype=torch.long), room)

    def shared_by_answers(self, nodes: Sequence[int], room: int) -> DynamicCache:
        """A cache whose rows leave where it is what several answers read, and have a copy of the
        rest, padded on the left, with room for more tokens.
        """
        own, mask = padded([self._own(node) for node in nodes], left=True)
        common = [
            self._spans([piece for piece in self.tree.pieces(node) if piece.start in self.common])
            for node in nodes
        ]
        pasts = Pasts(common, gaps=[row.count(0) for row in mask])
        return self._sharing(pasts, self.rows[torch.tensor(own, dtype=torch.long)], room)

    def own_length(self, node: int) -> int:
        """Tokens of its text that no other answer reads."""
        return len(self._own(node))

    def _own(self, node: int) -> list[int]:
        pieces = self.tree.pieces(node)
        return [each for piece in pieces if piece.start not in self.common for each in piece]

    def _sharing(self, pasts: Pasts, own: Tensor, room: int) -> DynamicCache:
        cache = DynamicCache()
        cache.layers = [SharedLayer(tables, pasts, own, room) for tables in self.tables]
        return cache

    def _spans(self, pieces: Sequence[range]) -> Spans:
        starts = (self.rows[piece.start].item() for piece in pieces)
        return tuple((start, start + len(piece)) for start, piece in zip(starts, pieces))


def _table(states: Tensor, size: int) -> Tensor:
    """Zeros, since a masked slot still takes part in a product: it must not hold a NaN."""
    return states.new_zeros(size, states.shape[1], states.shape[3])
