"""Attention of rows that share their past, over cached keys and values where they lie.

A row's past is a few spans of a table. Attention over each of them and over what the row has of
its own is put together by the log-sum-exp of each: no row has a copy of what it shares, and rows
with one past read it together (Hydragen: Juravsky et al., arXiv 2402.05099).

It stands in for the `sdpa` attention of transformers during one forward, and only where the mask
that the model has made is the plain causal one. Elsewhere, beyond a sliding window say, the layer
gathers its past and attends as it always does.
"""

import math
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
WINDOWS = ("sliding_window", "attention_chunk_size")  # in a config, of some of its layers or all
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


def longest_whole(model: nn.Module) -> float:
    """Tokens of the longest text that every layer sees whole. Beyond it layers gather their pasts,
    which for the many small forwards of answers costs more than copies.
    """
    config = model.config.get_text_config()
    return min(getattr(config, name, None) or math.inf for name in WINDOWS)


@dataclass(frozen=True)
class Stretch:
    """A stretch of a table that rows read together, some of them perhaps not to its end."""

    part: int  # which part of their attention it is, from 1
    rows: slice | Tensor
    start: int
    lengths: Tensor  # of what each row reads

    @cached_property
    def end(self) -> int:
        """The row of the table behind it."""
        return self.start + int(self.lengths.max())

    @cached_property
    def _beyond(self) -> Tensor | None:
        """What each row does not read of it [R, length]; None: nothing."""
        beyond = torch.arange(self.end - self.start) >= self.lengths[:, None]
        return beyond if beyond.any() else None

    def hidden(self, times: int, dtype: torch.dtype) -> Tensor | None:
        """Additive mask [1, 1, R * times, length] for so many queries of each row, or None."""
        if self._beyond is None:
            return None
        return _hiding(self._beyond.repeat_interleave(times, dim=0), dtype)[None, None]


@dataclass(frozen=True)
class Pasts:
    """What stands before the new tokens of each row: spans of a table, in the order of its text,
    and, where answers go on, what the row has of its own.
    """

    of_rows: Sequence[Spans]
    gaps: Sequence[int] | None = None  # of answers: empty slots before what each has of its own

    def of(self, rows: Sequence[int]) -> "Pasts":
        """Those of some rows."""
        gaps = self.gaps and [self.gaps[row] for row in rows]
        return Pasts([self.of_rows[row] for row in rows], gaps)

    @cached_property
    def stretches(self) -> list[Stretch]:
        """What is read together: a stretch from one place that is as long in all its rows.

        The one new token of an answer costs so little that fewer calls save more than is lost to a
        mask: there the longest in a stretch may be up to twice as long as the shortest.
        """
        found: dict[tuple[int, int, int], list[tuple[int, int]]] = {}
        for row, spans in enumerate(self.of_rows):
            for part, (start, end) in enumerate(spans, start=1):
                length = end - start
                alike = length if self.gaps is None else length.bit_length()
                found.setdefault((part, start, alike), []).append((row, length))
        return [
            Stretch(
                part, _index([row for row, _ in read]), start, torch.tensor([n for _, n in read])
            )
            for (part, start, _), read in found.items()
        ]


def _index(rows: Sequence[int]) -> slice | Tensor:
    return torch.tensor(rows) if len(rows) > 1 else slice(rows[0], rows[0] + 1)


def _hiding(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores, so that these slots are not seen."""
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)


class RoomyLayer(DynamicLayer):
    """A cache layer that starts from rows of a table and grows in place instead of being copied."""

    def __init__(self, tables: tuple[Tensor, Tensor], rows: Tensor, room: int):
        """`tables` of keys and values, each [size, K, d]; `rows` [R, P] of them; room for more."""
        super().__init__()
        self.length = rows.shape[1]
        self._keys, self._values = (_with_room(table, rows, room) for table in tables)
        self.dtype, self.device, self.is_initialized = tables[0].dtype, tables[0].device, True
        self._show()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append new states [R, K, q, d] and return all of them, [R, K, length, d]."""
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
    """Table rows [N, K, d] of nodes [R, P] -> [R, K, P + room, d], the room still to be filled."""
    count, length = rows.shape
    states = table.new_empty(count, table.shape[1], length + room, table.shape[2])
    states[:, :, :length] = table[rows].transpose(1, 2)
    return states


class SharedLayer(RoomyLayer):
    """A cache layer that holds what its rows have of their own, behind pasts left in a table."""

    def __init__(self, tables: tuple[Tensor, Tensor], pasts: Pasts, own: Tensor, room: int):
        """`own` [R, P'] are the rows of the tables that a row has a copy of."""
        super().__init__(tables, own, room)
        self.tables, self.pasts = tables, pasts
        gaps = pasts.gaps or [0] * len(pasts.of_rows)
        depths = (sum(end - start for start, end in spans) for spans in pasts.of_rows)
        longest = max(depth + self.length - gap for depth, gap in zip(depths, gaps))
        self.not_held = longest - self.length  # slots of a row that this layer does not hold

    def get_seq_length(self) -> int:
        """Slots before the next tokens, padding on the left included."""
        return self.not_held + self.length

    def batch_select_indices(self, indices: Tensor) -> None:
        """Go on with these rows alone."""
        super().batch_select_indices(indices)
        self.pasts = self.pasts.of(indices.tolist())

    def hidden(self, dtype: torch.dtype) -> Tensor | None:
        """Additive mask [R, 1, 1, P'] over what the rows of answers have of their own; None: they
        have new tokens only, which are seen causally.
        """
        if self.pasts.gaps is None:
            return None
        gaps = torch.tensor(self.pasts.gaps)
        return _hiding(torch.arange(self.length) < gaps[:, None], dtype)[:, None, None]

    def gathered(self) -> list[Tensor]:
        """All keys, and all values, [R, K, P + q, d], as a cache without sharing holds them."""
        return [self._whole(*each) for each in zip(self.tables, (self.keys, self.values))]

    def _whole(self, table: Tensor, own: Tensor) -> Tensor:
        """What all rows read [R, K, P + q, d], with zeros on the left."""
        whole = table.new_zeros(len(own), self.get_seq_length(), *table.shape[1:])
        for row, spans in enumerate(self.pasts.of_rows):
            gap = self.pasts.gaps[row] if self.pasts.gaps else 0
            held = own[row, :, gap:].transpose(0, 1)
            text = torch.cat([*(table[start:end] for start, end in spans), held])
            whole[row, -len(text) :] = text
        return whole.transpose(1, 2)


@contextmanager
def shared_attention(cache: DynamicCache, mask: Tensor) -> Iterator[None]:
    """Within it `sdpa` attends over a cache of shared layers; `mask` [R, P + q] tells their slots
    from padding. NotShared where a layer attended otherwise. Nothing changes for another cache.
    """
    if not any(isinstance(layer, SharedLayer) for layer in cache.layers):
        yield
        return
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
        apart = query.stride(-1) != 1
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
        if made is None:  # all is seen, where a row has one new token
            equal = bool(self.expected.all())
        else:
            equal = made.dtype == torch.bool and torch.equal(made, self.expected)
        self.known.append((made, equal))
        return equal


def attention(query: Tensor, layer: SharedLayer, scale: float | None) -> Tensor:
    """Queries [R, H, q, d] over the pasts of their rows and what these have of their own."""
    kernel = getattr(torch.ops.aten, KERNEL_OF_TORCH)
    # All queries that meet one head of keys are one row of a product: [R, K, H / K * q, d]
    queries = query.reshape(len(query), layer.keys.shape[1], -1, query.shape[-1])
    times = queries.shape[2]
    hidden = layer.hidden(query.dtype)
    asked = query if hidden is None else queries
    own, weight = kernel(
        asked, layer.keys, layer.values, 0.0, hidden is None, attn_mask=hidden, scale=scale
    )
    parts = 1 + max(map(len, layer.pasts.of_rows))
    states = own.new_zeros(parts, *queries.shape)
    weights = weight.new_full(states.shape[:-1], -torch.inf)
    states[0], weights[0] = own.reshape(queries.shape), weight.reshape(queries.shape[:-1])
    for each in layer.pasts.stretches:
        together = queries[each.rows].transpose(0, 1).flatten(1, 2)[None]  # [1, K, rows * ..., d]
        past = (t[each.start : each.end].transpose(0, 1)[None] for t in layer.tables)
        mask = each.hidden(times, query.dtype)
        found = kernel(together, *past, 0.0, False, attn_mask=mask, scale=scale)
        for kept, new in zip((states, weights), found):
            kept[each.part, each.rows] = new[0].unflatten(1, (-1, times)).transpose(0, 1)
    whole = (states * weights.softmax(dim=0)[..., None]).sum(dim=0)
    return whole.to(query.dtype).reshape(query.shape)
