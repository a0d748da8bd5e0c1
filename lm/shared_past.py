"""Attention of rows that share their past, over cached keys and values where they lie.

A row's past is a few spans of a table. Attention over each of them and over the row's own new
tokens is put together by the log-sum-exp of each: no row has a copy of its past, no key is read
that a mask then hides, and rows with one past read it together (Hydragen: Juravsky et al., arXiv
2402.05099).

It stands in for the `sdpa` attention of transformers during one forward, and only where the mask
that the model has made is the plain causal one. Elsewhere, beyond a sliding window say, the layer
gathers its past and attends as it always does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

KERNEL = "sdpa"  # the attention of transformers that is stood in for
KERNEL_OF_TORCH = "_scaled_dot_product_flash_attention_for_cpu"  # gives the log-sum-exp too
OTHER_WAYS = ("position_bias", "cache", "softcap")  # arguments that make it another attention

Spans = tuple[tuple[int, int], ...]  # first row of a table, and the one behind the last


class NotShared(RuntimeError):
    """A model's attention did not come by here, so that it has not seen the past."""


def can_share(model: nn.Module) -> bool:
    """May rows of this model share their past? That it reads rightly so is for a probe to show.

    Not on an accelerator, where many small calls cost more than a mask.
    """
    return (
        getattr(model, "_supports_attention_backend", False)
        and getattr(model.config.get_text_config(), "_attn_implementation", None) == KERNEL
        and hasattr(torch.ops.aten, KERNEL_OF_TORCH)
        and all(parameter.device.type == "cpu" for parameter in model.parameters())
    )


@dataclass(frozen=True)
class Pasts:
    """What stands before the new tokens of each row: spans of a table, in the order of its text."""

    of_rows: Sequence[Spans]

    @cached_property
    def depths(self) -> list[int]:
        """Number of tokens in each row's past."""
        return [sum(end - start for start, end in spans) for spans in self.of_rows]

    @cached_property
    def alike(self) -> list[tuple[Spans, slice | Tensor]]:
        """Each past, and the rows that have it."""
        found: dict[Spans, list[int]] = {}
        for row, spans in enumerate(self.of_rows):
            found.setdefault(spans, []).append(row)
        return [
            (spans, torch.tensor(rows) if len(rows) > 1 else slice(rows[0], rows[0] + 1))
            for spans, rows in found.items()
        ]


class SharedLayer(DynamicLayer):
    """A cache layer that holds new keys and values only, behind a past that stays in a table."""

    def __init__(self, tables: tuple[Tensor, Tensor], pasts: Pasts):
        """`tables` of keys and values, each [size, K, d]."""
        super().__init__()
        self.tables, self.pasts, self.past_length = tables, pasts, max(pasts.depths)
        self.dtype, self.device, self.is_initialized = tables[0].dtype, tables[0].device, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Keep new states [R, K, q, d], and return these alone."""
        self.keys, self.values = key_states, value_states
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Slots before the new tokens, padding on the left included."""
        return self.past_length

    def gathered(self) -> list[Tensor]:
        """All keys, and all values, [R, K, P + q, d], as a cache without sharing holds them."""
        new = (self.keys, self.values)
        return [torch.cat([self._past(t), states], dim=2) for t, states in zip(self.tables, new)]

    def _past(self, table: Tensor) -> Tensor:
        """The past of all rows [R, K, P, d], with zeros on the left."""
        rows = table.new_zeros(len(self.pasts.of_rows), self.past_length, *table.shape[1:])
        for row, spans, depth in zip(rows, self.pasts.of_rows, self.pasts.depths):
            if spans:
                row[-depth:] = torch.cat([table[start:end] for start, end in spans])
        return rows.transpose(1, 2)


@contextmanager
def shared_attention(cache: DynamicCache, mask: Tensor) -> Iterator[None]:
    """Within it `sdpa` attends over a cache of shared layers; `mask` [R, P + q] tells their slots
    from padding. NotShared where a layer attended otherwise.
    """
    own, plain = ALL_ATTENTION_FUNCTIONS[KERNEL], PlainMask(mask, cache.get_seq_length())
    waiting = set(range(len(cache.layers)))

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, made: Tensor, **kwargs: Any
    ) -> tuple[Tensor, None]:
        layer = cache.layers[module.layer_idx]
        if layer.keys is not key or layer.values is not value:
            raise NotShared
        waiting.discard(module.layer_idx)
        other = any(kwargs.get(name) is not None for name in OTHER_WAYS)
        # The kernel takes the numbers of a token to lie side by side, and does not look
        apart = any(states.stride(-1) != 1 for states in (query, key, value))
        if other or apart or key.shape[-1] != value.shape[-1] or not plain.is_equal(made):
            return own(module, query, *layer.gathered(), made, **kwargs)
        return attention(query, layer, kwargs.get("scaling")).transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS[KERNEL] = attend
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS[KERNEL] = own
    if waiting:
        raise NotShared


class PlainMask:
    """The mask by which each new token sees all real slots up to its own."""

    def __init__(self, mask: Tensor, past_length: int):
        """`mask` [R, P + q]: which slots are real."""
        slots = torch.arange(mask.shape[1])
        sees = slots <= slots[past_length:, None]
        self.expected = mask[:, None, None].bool() & sees  # [R, 1, q, P + q]
        self.known: list[tuple[Tensor, bool]] = []

    def is_equal(self, made: Tensor | None) -> bool:
        """Is it the mask that a model has made? Layers mostly pass one and the same on."""
        for other, equal in self.known:
            if other is made:
                return equal
        equal = made is not None and made.dtype == torch.bool and torch.equal(made, self.expected)
        self.known.append((made, equal))
        return equal


def attention(query: Tensor, layer: SharedLayer, scale: float | None) -> Tensor:
    """Queries [R, H, q, d] over the pasts of their rows and, causally, over the new tokens."""
    kernel = getattr(torch.ops.aten, KERNEL_OF_TORCH)
    # All queries that meet one head of keys are one row of a product: [R, K, H / K * q, d]
    queries = query.reshape(len(query), layer.keys.shape[1], -1, query.shape[-1])
    parts = 1 + max(map(len, layer.pasts.of_rows))
    own, weight = kernel(query, layer.keys, layer.values, 0.0, True, scale=scale)
    states = own.new_zeros(parts, *queries.shape)
    weights = weight.new_full(states.shape[:-1], -torch.inf)
    states[0], weights[0] = own.reshape(queries.shape), weight.reshape(queries.shape[:-1])
    for spans, rows in layer.pasts.alike:
        together = queries[rows].transpose(0, 1).flatten(1, 2)[None]  # [1, K, rows * ..., d]
        for part, (start, end) in enumerate(spans, start=1):
            past = (table[start:end].transpose(0, 1)[None] for table in layer.tables)
            found = kernel(together, *past, 0.0, False, scale=scale)
            for kept, new in zip((states, weights), found):
                kept[part, rows] = new[0].unflatten(1, (-1, queries.shape[2])).transpose(0, 1)
    whole = (states * weights.softmax(dim=0)[..., None]).sum(dim=0)
    return whole.to(query.dtype).reshape(query.shape)
