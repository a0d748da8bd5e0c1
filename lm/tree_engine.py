"""The engine that runs every distinct (prefix, token) of all prompts once.

Prefixes become paths of a prefix tree, and a path continues from the cached keys and values of its
ancestors. These are laid out as in any left-padded batch: the past of each row ends where its new
tokens begin, so that distances between slots are distances in the text. The model then builds its
own masks, causal, sliding or ALiBi, from the two-dimensional one that says which slots are real.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import DynamicCache

from lm.engine import Advance, Engine, Runtime, rows_within
from lm.forward import Position, Reading, check_finite, picked_logits, read_forward
from lm.key_values import KeyValueStore
from lm.prefix_tree import Path, PrefixTree, padded, run_together
from lm.prompts import Prefix, Request
from lm.shared_past import NotShared, longest_whole, shared_attention


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
        store = KeyValueStore(tree, answered, [tree.node_of(prefix) for prefix in kept])
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

        runtime, level = self.runtime, self._is_level(requests)

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
        for prefix, text in self._answers(tree, store, requests, readings).items():
            readings[prefix] = replace(readings[prefix], answer=text)
        return readings

    def _is_level(self, requests: Mapping[Prefix, Request]) -> bool:
        """Must all rows of a forward begin in one slot?"""
        longest = max(map(len, requests), default=0)
        return self.runtime.regimes.fixed_slots(2 * longest)

    def _answers(
        self,
        tree: PrefixTree,
        store: KeyValueStore,
        requests: Mapping[Prefix, Request],
        readings: Mapping[Prefix, Reading],
    ) -> dict[Prefix, Prefix]:
        """Greedy answers, many together. Where copies of their pasts do not fit one batch, they
        share what several of them read; a single batch is faster with copies.
        """
        runtime, level = self.runtime, self._is_level(requests)
        limits = {prefix: each.answer for prefix, each in requests.items() if each.answer}
        nodes = {prefix: tree.node_of(prefix) for prefix in limits}
        longest = max((len(prefix) + most for prefix, most in limits.items()), default=0)
        crowded = len(limits) * longest > runtime.token_budget
        sharing = runtime.shares and crowded and longest <= longest_whole(runtime.model)
        cache_of = store.shared_by_answers if sharing else store.copied

        def width(prefix: Prefix) -> int:
            held = store.own_length(nodes[prefix]) if sharing else len(prefix)
            return held + limits[prefix]

        def answer(prefixes: Sequence[Prefix]) -> list[Prefix]:
            begun = [list(readings[prefix].top_tokens[:1]) for prefix in prefixes]
            most = [limits[prefix] for prefix in prefixes]
            cache = cache_of([nodes[prefix] for prefix in prefixes], room=max(most))
            return self._decode(cache, prefixes, begun, most)

        widest_first = sorted(limits, key=width, reverse=True)
        batches = runtime.batches(widest_first, rows_within(width, level), answer)
        return {
            prefix: text for prefixes, texts in batches for prefix, text in zip(prefixes, texts)
        }

    def _forward(
        self,
        tree: PrefixTree,
        store: KeyValueStore,
        paths: Sequence[Path],
        positions: list[Position],
    ) -> list[Reading]:
        """One forward over paths whose ancestors were run before."""
        ids, mask = padded([path.tokens for path in paths])
        depths = [path.depth for path in paths]
        whole = [[*([0] * (max(depths) - d)), *([1] * d), *now] for d, now in zip(depths, mask)]
        spans = [range(path.depth, path.depth + len(path.tokens)) for path in paths]
        inputs = self._inputs(ids, torch.tensor(whole), spans)
        runtime = self.runtime
        sharing = runtime.shares and max(depths) > 0
        cache_of = store.shared if sharing else store.copied
        cache = cache_of([path.parent for path in paths], room=len(ids[0]))
        inputs |= {"past_key_values": cache, "use_cache": True}
        try:
            with shared_attention(cache, torch.tensor(whole)):
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
        mask = torch.tensor(padded(prefixes, left=True)[1])
        rows, step = list(range(len(prefixes))), 0  # of the batch: which prefix each continues
        while alive := [
            i for i, row in enumerate(rows) if not decoding.ended(answers[row], limits[row])
        ]:
            if 2 * len(alive) <= len(rows):
                cache.batch_select_indices(self.runtime.tensor(alive))
                rows, mask = [rows[i] for i in alive], mask[alive]
                alive = list(range(len(rows)))
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            depths = [len(prefixes[row]) + min(step, limits[row] - 1) for row in rows]
            spans = [range(depth, depth + 1) for depth in depths]
            inputs = self._inputs([answers[row][-1:] for row in rows], mask, spans)
            self.runtime.tokens += len(alive)
            sharing = shared_attention(cache, mask)
            with torch.inference_mode(), picked_logits(self.runtime.model), sharing:
                logits = self.runtime.model(past_key_values=cache, use_cache=True, **inputs).logits
            check_finite(logits[alive], self.runtime.model)
            found = logits[:, -1].argmax(-1).tolist()
            for i in alive:
                answers[rows[i]].append(found[i])
            step += 1
        return [decoding.cut(answer) for answer in answers]

    def _inputs(self, ids: list, mask: Tensor, spans: Sequence[range]) -> dict[str, Tensor]:
        """Arguments of a forward over rows of new tokens at these positions; `mask` [R, P + q]
        tells slots from padding.

        Padding behind them stands at the last one: rotary embeddings may depend on the longest.
        """
        inputs = {"input_ids": self.runtime.tensor(ids)}
        if not mask.all():
            inputs["attention_mask"] = mask.to(inputs["input_ids"].device)
        if self.takes_positions:
            width = len(ids[0])
            rows = [[*span, *[span[-1]] * (width - len(span))] for span in spans]
            inputs["position_ids"] = self.runtime.tensor(rows)
        return inputs
