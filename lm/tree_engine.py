"""The engine that runs every distinct (prefix, token) of all prompts once.

Prefixes become paths of a prefix tree, and a path continues from the cached keys and values of its
ancestors. These are laid out as in any left-padded batch: the past of each row ends where its new
tokens begin, so that distances between slots are distances in the text. The model then builds its
own masks, causal, sliding or ALiBi, from the two-dimensional one that says which slots are real.
"""

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lm.engine import Advance, Engine, Runtime, padded, rows_within
from lm.forward import Position, Reading, picked_logits, read_forward
from lm.prefix_tree import Path, PrefixTree, run_together
from lm.prompts import Prefix, Request
from lm.shared_past import NotShared, Pasts, SharedLayer, Spans, shared_attention


class NoCache(Exception):
    """A model took a cache and left no keys and values in it."""


class TreeEngine(Engine):
    """Every distinct (prefix, token) is run once; later paths continue from its keys and values."""

    name = "tree"

    def __init__(self, runtime: Runtime):
        super().__init__(runtime)
        self.takes_positions = "position_ids" in inspect.signature(runtime.model.forward).parameters

    def read_group(
        self, requests: Mapping[Prefix, Request], advance: Advance
    ) -> dict[Prefix, Reading]:
        """Paths of their prefix tree, ancestors first, then answers continued from their nodes."""
        tree = PrefixTree(*([p for p in requests if requests[p].late == late] for late in (0, 1)))
        at = {tree.node_of(prefix): prefix for prefix in requests}
        answered = [node for node, prefix in at.items() if requests[prefix].answer]
        kept = [prefix for prefix in requests if requests[prefix].keep]
        store = KeyValueStore(tree, [*answered, *map(tree.node_of, kept)])
        readings: dict[Prefix, Reading] = {}

        def run_paths(paths: Sequence[Path]) -> list[tuple[Prefix, Reading]]:
            found = [
                (row, column, at[path.first + column])
                for row, path in enumerate(paths)
                for column in range(len(path.tokens))
                if path.first + column in at
            ]
            positions = [Position(row, column, requests[prefix]) for row, column, prefix in found]
            got = self._forward(tree, store, paths, positions)
            return list(zip((prefix for _, _, prefix in found), got))

        def answer(prefixes: Sequence[Prefix]) -> list[Prefix]:
            begun = [list(readings[prefix].top_tokens[:1]) for prefix in prefixes]
            nodes = [tree.node_of(prefix) for prefix in prefixes]
            cache = store.copied(nodes, room=max(requests[p].answer for p in prefixes))
            return self._decode(cache, prefixes, begun, [requests[p].answer for p in prefixes])

        runtime = self.runtime
        longest_first = sorted((at[node] for node in answered), key=len, reverse=True)
        level = runtime.regimes.fixed_slots(2 * max(map(len, requests), default=0))

        def plan(waiting: Sequence[Path], budget: int) -> tuple[int, int]:
            return run_together(
                waiting, budget, runtime.forward_cost, level=level, shared=runtime.shares
            )

        for _, got in runtime.batches(tree.in_order(), plan, run_paths):
            readings |= got
            advance(sum(requests[prefix].is_prompt for prefix, _ in got))
        for prefixes, found in runtime.batches(kept, rows_within(len), store.of_prefixes):
            for prefix, keys_and_values in zip(prefixes, found):
                readings[prefix] = replace(readings[prefix], kept=keys_and_values)
        widths = rows_within(lambda p: len(p) + requests[p].answer, alone=level)
        for prefixes, answers in runtime.batches(longest_first, widths, answer):
            for prefix, text in zip(prefixes, answers):
                readings[prefix] = replace(readings[prefix], answer=text)
        return readings

    def _forward(
        self,
        tree: PrefixTree,
        store: "KeyValueStore",
        paths: Sequence[Path],
        positions: list[Position],
    ) -> list[Reading]:
        """One forward over paths whose ancestors were run before."""
        ids, mask = padded([path.tokens for path in paths])
        depths = [path.depth for path in paths]
        whole = [[*([0] * (max(depths) - d)), *([1] * d), *now] for d, now in zip(depths, mask)]
        spans = [range(path.depth, path.depth + len(path.tokens)) for path in paths]
        inputs = self._inputs(ids, whole, spans)
        runtime = self.runtime
        sharing = runtime.shares and max(depths) > 0
        parents = [path.parent for path in paths]
        cache = store.shared(parents) if sharing else store.copied(parents, room=len(ids[0]))
        inputs |= {"past_key_values": cache, "use_cache": True}
        try:
            with shared_attention(cache, runtime.tensor(whole)) if sharing else nullcontext():
                got = read_forward(runtime.model, runtime.blocks, positions, **inputs)
        except NotShared:
            runtime.shares = False
            return self._forward(tree, store, paths, positions)
        runtime.tokens += sum(len(path.tokens) for path in paths)
        if not all(getattr(layer, "keys", None) is not None for layer in cache.layers or [None]):
            raise NoCache
        store.keep(cache, paths, before=0 if sharing else max(depths))
        return got

    def _decode(
        self,
        cache: DynamicCache,
        prefixes: Sequence[Prefix],
        answers: list[list[int]],
        limits: Sequence[int],
    ) -> list[Prefix]:
        """Continue the answers, each begun with one token, greedily in one batch until all end.

        Those that have ended leave it once they are half of its rows; until then they stand still.
        """
        decoding = self.runtime.decoding
        _, mask = padded(prefixes, left=True)
        rows, step = list(range(len(prefixes))), 0  # of the batch: which prefix each continues
        while alive := [
            i for i, row in enumerate(rows) if not decoding.ended(answers[row], limits[row])
        ]:
            if 2 * len(alive) <= len(rows):
                cache.batch_select_indices(self.runtime.tensor(alive))
                rows, mask = [rows[i] for i in alive], [mask[i] for i in alive]
                alive = list(range(len(rows)))
            mask = [[*row, 1] for row in mask]
            depths = [len(prefixes[row]) + min(step, limits[row] - 1) for row in rows]
            spans = [range(depth, depth + 1) for depth in depths]
            inputs = self._inputs([answers[row][-1:] for row in rows], mask, spans)
            self.runtime.tokens += len(alive)
            with torch.inference_mode(), picked_logits(self.runtime.model):
                logits = self.runtime.model(past_key_values=cache, use_cache=True, **inputs).logits
            found = logits[:, -1].argmax(-1).tolist()
            for i in alive:
                answers[rows[i]].append(found[i])
            step += 1
        return [decoding.cut(answer) for answer in answers]

    def _inputs(self, ids: list, mask: list, spans: Sequence[range]) -> dict[str, Tensor]:
        """Arguments of a forward over rows of new tokens at these positions.

        Padding behind them stands at the last one: rotary embeddings may depend on the longest.
        """
        inputs = {"input_ids": self.runtime.tensor(ids)}
        if not all(map(all, mask)):
            inputs["attention_mask"] = self.runtime.tensor(mask)
        if self.takes_positions:
            width = len(ids[0])
            rows = [[*span, *[span[-1]] * (width - len(span))] for span in spans]
            inputs["position_ids"] = self.runtime.tensor(rows)
        return inputs


class KeyValueStore:
    """Keys and values of the nodes that later rows continue from, one row of a table per node."""

    def __init__(self, tree: PrefixTree, answered: Sequence[int]):
        """`answered` are the nodes that will be continued further, or whose text is kept."""
        self.tree = tree
        self.kept = {path.first: 0 for path in tree.paths}  # tokens of each path that are kept
        for node in [*(path.parent for path in tree.paths if path.parent >= 0), *answered]:
            first = tree.path_of(node).first
            self.kept[first] = max(self.kept[first], node - first + 1)
        self.rows = torch.zeros(tree.size, dtype=torch.long)  # node -> row of the tables
        self.size = 0
        for first, count in self.kept.items():
            self.rows[first : first + count] = torch.arange(self.size, self.size + count)
            self.size += count
        self.tables: list[tuple[Tensor, Tensor]] = []  # per layer: keys, values, each [size, H, d]

    def keep(self, cache: DynamicCache, paths: Sequence[Path], before: int) -> None:
        """Store what a forward over these paths has put into its cache behind so many slots."""
        positions = [(r, c) for r, path in enumerate(paths) for c in range(self.kept[path.first])]
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
            cache.layers = [_RoomyLayer(keys, values, rows, room) for keys, values in self.tables]
        return cache

    def of_prefixes(self, prefixes: Sequence[Prefix]) -> list[tuple[tuple[Tensor, Tensor], ...]]:
        """Keys and values of each text, at each block [1, H, t, d]."""
        caches = [self.copied([self.tree.node_of(prefix)], room=0) for prefix in prefixes]
        return [tuple((layer.keys, layer.values) for layer in cache.layers) for cache in caches]

    def shared(self, nodes: Sequence[int]) -> DynamicCache:
        """The same without room, whose rows leave their texts where they are."""
        pasts = Pasts([self._spans(node) for node in nodes])
        cache = DynamicCache()
        cache.layers = [SharedLayer(tables, pasts) for tables in self.tables]
        return cache

    def _spans(self, node: int) -> Spans:
        pieces = self.tree.pieces(node)
        starts = (self.rows[piece.start].item() for piece in pieces)
        return tuple((start, start + len(piece)) for start, piece in zip(starts, pieces))


def _table(states: Tensor, size: int) -> Tensor:
    """Zeros, since a masked slot still takes part in a product: it must not hold a NaN."""
    return states.new_zeros(size, states.shape[1], states.shape[3])


class _RoomyLayer(DynamicLayer):
    """A cache layer that starts from rows of a table and grows in place instead of being copied."""

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor, room: int):
        super().__init__()
        self.length = rows.shape[1]
        self._keys, self._values = (_with_room(table, rows, room) for table in (keys, values))
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self._show()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append new states [R, H, q, d] and return all of them, [R, H, length, d]."""
        end = self.length + key_states.shape[2]
        self._keys[:, :, self.length : end] = key_states
        self._values[:, :, self.length : end] = value_states
        self.length = end
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with these rows alone."""
        self._keys, self._values = self._keys[indices], self._values[indices]
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (t[:, :, : self.length] for t in (self._keys, self._values))


def _with_room(table: Tensor, rows: Tensor, room: int) -> Tensor:
    """Table rows [N, H, d] of nodes [R, P] -> [R, H, P + room, d], the room still to be filled."""
    count, length = rows.shape
    states = table.new_empty(count, table.shape[1], length + room, table.shape[2])
    states[:, :, :length] = table[rows].transpose(1, 2)
    return states
