"""One forward of a causal LM, read at some of its positions. No schedule here."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from core.errors import UserError
from lm.prompts import Prefix, Request
from lm.unembedding import Unembedding, in_half_precision

PROBE = (3, 5, 8, 13, 21, 34)  # token ids that every vocabulary has
TOP_TOKENS = 5  # likeliest next tokens that are kept


@dataclass(frozen=True)
class Reading:
    """What was read after a prefix."""

    logprobs: Mapping[int, float]  # next token -> log P
    top_tokens: tuple[int, ...] = ()  # of a prompt: the likeliest next tokens, best first
    states: Tensor | None = None  # outputs of all blocks [L, D], where wanted, in the model's dtype
    answer: Prefix | None = None  # the greedy continuation, where it was wanted
    # Keys and values of each block [1, H, t, d], where they were wanted and the engine has them
    kept: tuple[tuple[Tensor, Tensor], ...] | None = None


@dataclass(frozen=True)
class Position:
    """A position of a batch of token rows at which the model is read."""

    row: int
    column: int
    request: Request


def input_device(model: nn.Module) -> torch.device:
    """Where a model takes its token ids; the CPU where its embeddings are kept elsewhere."""
    device = model.get_input_embeddings().weight.device
    return torch.device("cpu") if device.type == "meta" else device


def block_output(output: Tensor | tuple) -> Tensor:
    """Hidden state [B, T, D] that a block returned; some families wrap it in a tuple."""
    return output if torch.is_tensor(output) else output[0]


def last_column(hidden: Tensor) -> Tensor:
    """Hidden states of the last token of each row, [B, T, D] -> [B, 1, D]."""
    return hidden[:, -1:]


@contextmanager
def captured(
    model: nn.Module,
    blocks: Iterable[nn.Module],
    positions: Sequence[Position],
) -> Iterator[list[Tensor]]:
    """Within it a forward gives logits at the positions only, [1, S, V], and each block appends its
    states there, [P, D], where P counts the positions whose states are wanted.
    """
    places = [position for position in positions if position.request.states]
    states: list[Tensor] = []

    def pick_rows(hidden: Tensor) -> Tensor:
        return hidden[[s.row for s in positions], [s.column for s in positions]][None]

    def keep_states(module: nn.Module, args: tuple, output: Tensor | tuple) -> None:
        hidden = block_output(output)
        states.append(hidden[[s.row for s in places], [s.column for s in places]])

    handles = [block.register_forward_hook(keep_states) for block in blocks if places]
    try:
        with picked_logits(model, pick_rows):
            yield states
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def picked_logits(
    model: nn.Module, pick: Callable[[Tensor], Tensor] = last_column
) -> Iterator[None]:
    """Within it a forward gives logits only of the rows [B', T', D] that `pick` takes of the hidden
    states [B, T, D] before the unembedding, so that the model's own soft-cap, scale and bias still
    apply, and no vocabulary-sized tensor exists for any other position.

    In half precision the unembedding is computed in float32: logits of half precision lie so far
    apart that the best two are often equal.
    """
    head = model.get_output_embeddings()
    in_float32 = in_half_precision(head)
    picked: list[Tensor] = []

    def before(module: nn.Module, args: tuple) -> tuple:
        rows = pick(args[0])
        if not in_float32:
            return (rows, *args[1:])
        picked.append(rows)
        return (rows[:1, :1], *args[1:])  # what the module itself makes of them is replaced

    def after(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        given = picked.pop().to(unembedding.device).float()
        return unembedding.logits(given).to(output.device)

    handles = [head.register_forward_pre_hook(before)]
    if in_float32:
        unembedding = Unembedding(head)
        handles.append(head.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def read_forward(
    model: nn.Module, blocks: Sequence[nn.Module], positions: Sequence[Position], **inputs: Any
) -> list[Reading]:
    """Run one forward and read it at the positions, in their order."""
    with torch.inference_mode(), captured(model, blocks, positions) as states:
        logits = model(**inputs).logits[0].float()  # [S, V]
        check_finite(logits, model)
        device = states[-1].device if states else None  # blocks may lie on several
        states_of_position = iter(
            torch.stack([state.to(device) for state in states], dim=1) if states else ()
        )
        top = logits.topk(min(TOP_TOKENS, logits.shape[-1])).indices.tolist()
        wanted = [sorted(position.request.next_tokens) for position in positions]
        logprobs = _gather(logits.log_softmax(-1), wanted)
    return [
        Reading(
            dict(zip(wanted[i], logprobs[i])),
            tuple(top[i]) if position.request.is_prompt else (),
            next(states_of_position, None) if position.request.states else None,
        )
        for i, position in enumerate(positions)
    ]


def check_finite(logits: Tensor, model: nn.Module) -> None:
    """UserError where logits overflowed, or are no numbers."""
    if not torch.isfinite(logits).all():
        dtype = str(model.dtype).removeprefix("torch.")
        raise UserError(f"the model gave non-finite logits in {dtype}. Try another --dtype.")


def _gather(logprobs: Tensor, wanted: Sequence[Sequence[int]]) -> list[list[float]]:
    """[S, V] and the tokens wanted of each row -> their values, in one transfer from the device."""
    width = max(map(len, wanted))
    rows = [[*tokens, *[0] * (width - len(tokens))] for tokens in wanted]
    index = torch.tensor(rows, dtype=torch.long, device=logprobs.device)
    return logprobs.gather(-1, index).tolist()
