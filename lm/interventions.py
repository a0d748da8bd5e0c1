"""Interventions: new tokens run over cached keys, some of which some tokens do not see in some
blocks, and states of one run put into another.

Only the tokens behind a cached past are run again. A hook on each block cuts keys out of the mask
that the model itself made, so that windows and soft-caps stay as they are. A run that differs from
an earlier one from some block on is resumed there: the blocks before are not run again.

Attention knock-out: Geva et al. 2023, arXiv 2304.14767.
Patching: Zhang and Nanda 2023, arXiv 2309.16042.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from lm.engine import Runtime, rows_within
from lm.forward import PROBE, Position, block_output, read_forward
from lm.prompts import Prefix, Range, Request

Piece = tuple[Tensor, Tensor]  # keys and values of some tokens at a block, each [1 or R, H, t, d]


@dataclass(frozen=True)
class Past:
    """Keys and values that rows of new tokens read, in pieces for each block."""

    blocks: tuple[tuple[Piece, ...], ...]
    length: int = 0  # tokens

    @classmethod
    def of(cls, blocks: Sequence[Piece]) -> "Past":
        """A past in one piece for each block."""
        return cls(tuple((piece,) for piece in blocks), blocks[0][0].shape[2])

    def first(self, length: int) -> "Past":
        """The first tokens of a past in one piece."""
        if not length:
            return Past(tuple(() for _ in self.blocks))
        cut = tuple(
            ((keys[:, :, :length], values[:, :, :length]),) for ((keys, values),) in self.blocks
        )
        return Past(cut, length)

    def without_last(self) -> "Past":
        """All tokens but the last."""
        cut = tuple(
            (*pieces, (keys[:, :, :-1], values[:, :, :-1]))
            for *pieces, (keys, values) in self.blocks
        )
        return Past(cut, self.length - 1)

    def each(self, change: Callable[[Tensor], Tensor]) -> "Past":
        """The same tokens with keys and values changed wherever rows differ [R, H, t, d]."""

        def changed(states: Tensor) -> Tensor:
            return change(states) if len(states) > 1 else states

        blocks = (tuple((changed(k), changed(v)) for k, v in pieces) for pieces in self.blocks)
        return Past(tuple(blocks), self.length)


def stacked(pasts: Sequence[Past]) -> Past:
    """Pasts of one row each, of equal length and alike in pieces, as the rows of one past."""
    blocks = []
    for of_block in zip(*(past.blocks for past in pasts)):
        pieces = []
        for alike in zip(*of_block):
            same = all(piece[0] is alike[0][0] for piece in alike)
            pieces.append(alike[0] if same else tuple(map(torch.cat, zip(*alike))))
        blocks.append(tuple(pieces))
    return Past(tuple(blocks), pasts[0].length)


@dataclass(frozen=True)
class Hidden:
    """Keys that are hidden from a row's new tokens, in some blocks."""

    keys: Range  # slots of the row
    blocks: Range  # half-open, from 0
    from_target: bool = True  # from the tokens before the answer position
    from_answer: bool = True  # from the answer position and what follows it


@dataclass(frozen=True)
class Patch:
    """States that take the place of what a block puts out at a row's last tokens."""

    block: int  # from 0
    states: Tensor  # [t', D]


@dataclass(frozen=True)
class Row:
    """What is done to one row of a run."""

    hidden: tuple[Hidden, ...] = ()
    patch: Patch | None = None


@dataclass(frozen=True)
class Resumed:
    """From where a run goes on: the blocks before `block` are not run again."""

    block: int
    states: Tensor  # what the last of them has put out [R, t, D]
    past: Past  # of the same rows, with their new tokens


@dataclass(frozen=True)
class Run:
    """What a forward over rows of new tokens has left."""

    rows: tuple[Row, ...]
    logprobs: list[Mapping[int, float]]  # of the wanted next tokens, at each position read
    past: Past  # with the new tokens
    states: tuple[Tensor, ...]  # what each block has put out [R, t, D]; () where not kept

    def row(self, number: int) -> Past:
        """The past of one row."""
        return self.past.each(lambda states: states[number : number + 1])


class _PieceLayer(DynamicLayer):
    """A cache layer over shared pieces, which are brought together only while they are read."""

    def __init__(self, pieces: Sequence[Piece]):
        super().__init__()
        self.pieces = tuple(pieces)
        self.length = sum(keys.shape[2] for keys, _ in pieces)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append new states [R, H, t, d] -> all of them, [R, H, length, d]."""
        self.pieces = (*self.pieces, (key_states, value_states))
        self.length += key_states.shape[2]
        rows = len(key_states)
        return tuple(
            torch.cat([states.expand(rows, -1, -1, -1) for states in each], dim=2)
            for each in zip(*self.pieces)
        )

    def get_seq_length(self) -> int:
        """Tokens that are there."""
        return self.length


def cache_over(past: Past) -> DynamicCache:
    """A cache that begins with a past and leaves its tensors alone."""
    cache = DynamicCache()  # made without the config, so that no layer drops keys
    cache.layers = [_PieceLayer(pieces) for pieces in past.blocks]
    return cache


class Interventions:
    """Runs tokens over cached keys of one model, with keys hidden and states put in."""

    def __init__(self, runtime: Runtime, blocks: Sequence[nn.Module]):
        self.runtime = runtime
        self.blocks = list(blocks)
        self.signatures = [list(inspect.signature(b.forward).parameters) for b in self.blocks]
        self.takes_positions = "position_ids" in inspect.signature(runtime.model.forward).parameters
        self.wrapped = 0  # length of the tuple that a block puts out; 0: a tensor
        self._see_outputs()

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    def _see_outputs(self) -> None:
        def see(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
            self.wrapped = 0 if torch.is_tensor(output) else len(output)

        handle = self.blocks[0].register_forward_hook(see)
        try:
            with torch.inference_mode():
                self.runtime.model(self.runtime.tensor([PROBE]), use_cache=False)
        finally:
            handle.remove()

    def past_of(self, ids: Prefix) -> Past:
        """Keys and values of tokens from the first one on."""
        none = Past(tuple(() for _ in self.blocks))
        if not ids:
            return none

        def work(prefixes: Sequence[Prefix]) -> list[Past]:
            return [self.run(prefixes, none, [Row()]).past]

        [(_, [past])] = self.runtime.batches([ids], rows_within(len), work)
        return past

    def run(
        self,
        tokens: Sequence[Prefix],
        past: Past,
        rows: Sequence[Row],
        reads: Sequence[Position] | None = None,
        *,
        position: int | None = None,
        answer: int = 0,
        resumed: Resumed | None = None,
        keep_states: bool = False,
    ) -> Run:
        """One forward over rows of new tokens [R][t] behind a past.

        The first new token stands at `position` (by default where the past ends), the first column
        of an answer position is `answer`. Read are `reads`, by default nothing.
        """
        model, width = self.runtime.model, len(tokens[0])
        cache = cache_over(past)
        inputs = {"input_ids": self.runtime.tensor(tokens), "past_key_values": cache}
        if self.takes_positions:
            first = past.length if position is None else position
            inputs["position_ids"] = self.runtime.tensor([range(first, first + width)] * len(rows))
        self.runtime.tokens += len(rows) * width
        states: list[Tensor] = []
        nothing = [Position(0, width - 1, Request({0}))]
        with ExitStack() as stack:
            stack.enter_context(self._hiding(rows, answer, width, past.length))
            stack.enter_context(self._patching(rows))
            if keep_states:
                stack.enter_context(self._keeping(states))
            if resumed:
                stack.enter_context(self._resuming(resumed))
            got = read_forward(model, (), reads or nothing, use_cache=True, **inputs)
        start = resumed.block if resumed else 0
        blocks = [layer.pieces for layer in cache.layers]
        blocks[:start] = resumed.past.blocks[:start] if resumed else ()
        return Run(
            tuple(rows), [reading.logprobs for reading in got],
            Past(tuple(blocks), past.length + width), tuple(states),
        )  # fmt: skip

    # -- what is changed during a forward, and put back behind it

    @contextmanager
    def _hooks(self, handles: list[Any]) -> Iterator[None]:
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hiding(self, rows: Sequence[Row], answer: int, width: int, past: int) -> Any:
        handles = []
        for number, block in enumerate(self.blocks):
            mask = hidden_mask(rows, number, answer, width, past)  # [R, t, K]
            if mask is not None:
                hook = self._hide(number, mask)
                handles.append(block.register_forward_pre_hook(hook, with_kwargs=True))
        return self._hooks(handles)

    def _hide(self, number: int, hidden: Tensor) -> Callable:
        place = self.signatures[number].index("attention_mask")

        def before(block: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            device = (args[0] if args else kwargs["hidden_states"]).device
            if place < len(args):
                mask = cut_mask(args[place], hidden.to(device))
                return (*args[:place], mask, *args[place + 1 :]), kwargs
            mask = cut_mask(kwargs.get("attention_mask"), hidden.to(device))
            return args, kwargs | {"attention_mask": mask}

        return before

    def _patching(self, rows: Sequence[Row]) -> Any:
        handles = []
        for number, block in enumerate(self.blocks):
            patches = [
                (r, row.patch.states)
                for r, row in enumerate(rows)
                if row.patch and row.patch.block == number
            ]
            if patches:
                handles.append(block.register_forward_hook(_putting_in(patches)))
        return self._hooks(handles)

    def _keeping(self, states: list[Tensor]) -> Any:
        def keep(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
            states.append(block_output(output).clone())

        return self._hooks([block.register_forward_hook(keep) for block in self.blocks])

    @contextmanager
    def _resuming(self, resumed: Resumed) -> Iterator[None]:
        """Within it the blocks before the one that is resumed at put out what they had put out."""
        given = resumed.states
        output = (given, *[None] * (self.wrapped - 1)) if self.wrapped else given
        skipped = self.blocks[: resumed.block]
        own = [vars(block).get("forward") for block in skipped]  # accelerate puts one there
        try:
            for block in skipped:
                block.forward = lambda *args, **kwargs: output
            yield
        finally:
            for block, forward in zip(skipped, own):
                del block.forward
                if forward is not None:
                    block.forward = forward


def hidden_mask(
    rows: Sequence[Row], block: int, answer: int, width: int, past: int
) -> Tensor | None:
    """True where a row's new token does not see a key in this block [R, t, K]; None for nowhere."""
    mask = None
    for number, row in enumerate(rows):
        for hidden in row.hidden:
            if hidden.blocks[0] <= block < hidden.blocks[1]:
                if mask is None:
                    mask = torch.zeros(len(rows), width, past + width, dtype=torch.bool)
                keys = slice(*hidden.keys)
                if hidden.from_target:
                    mask[number, :answer, keys] = True
                if hidden.from_answer:
                    mask[number, answer:, keys] = True
    return mask


def cut_mask(own: Tensor | None, hidden: Tensor) -> Tensor:
    """The model's own mask without the keys that are hidden [R, t, K], in the form that it has.

    Masks are added (0 or the lowest number), or are true where a key is seen, or (MPT) where it is
    not: a token always sees itself. Without a mask every key before a token is seen.
    """
    hidden = hidden[:, None]  # [R, 1, t, K]
    if own is None:
        width, keys = hidden.shape[-2:]
        own = torch.ones(width, keys, dtype=torch.bool, device=hidden.device).tril(keys - width)
    if own.is_floating_point():
        return own.masked_fill(hidden, torch.finfo(own.dtype).min)
    seen = own[..., -1, -1].all()
    return own & ~hidden if seen else own | hidden


def _putting_in(patches: Sequence[tuple[int, Tensor]]) -> Callable:
    def after(module: nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple:
        states = block_output(output).clone()
        for row, given in patches:
            states[row, -len(given) :] = given.to(states)
        return states if torch.is_tensor(output) else (states, *output[1:])

    return after
