"""Engines: how token sequences are run through a causal LM and read. No text and no task here.

A prefix is a tuple of token ids. What is wanted of it is the log-probability of some next tokens
and, where a prompt ends there, the likeliest next tokens, what its blocks hold and maybe the greedy
continuation. An engine takes {prefix: Request} and returns {prefix: Reading}.

PlainEngine, here, runs every prefix whole. TreeEngine, in tree_engine.py, shares what they share.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, StoppingCriteria

from core.errors import OutOfMemory, UserError
from lm.lens import block_output
from lm.prompts import Prefix, Request
from lm.unembedding import Unembedding, in_half_precision

Advance = Callable[[int], object]  # is told how many prompts were read since it was told last

# In errors that are no torch.OutOfMemoryError: of the CPU, of CUDA and MPS, and of cuBLAS
MEMORY_WORDS = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
PROBE = (3, 5, 8, 13, 21, 34)  # token ids that every vocabulary has
TOP_TOKENS = 5  # likeliest next tokens that are kept


@dataclass(frozen=True)
class Reading:
    """What was read after a prefix."""

    logprobs: Mapping[int, float]  # next token -> log P
    top_tokens: tuple[int, ...] = ()  # of a prompt: the likeliest next tokens, best first
    states: Tensor | None = None  # outputs of all blocks [L, D], where wanted, in the model's dtype
    answer: Prefix | None = None  # the greedy continuation, where it was wanted


@dataclass(frozen=True)
class Position:
    """A position of a batch of token rows at which the model is read."""

    row: int
    column: int
    request: Request


@dataclass(frozen=True)
class Decoding:
    """When a greedy answer ends, apart from its most tokens, which each prompt has for itself."""

    eos_ids: tuple[int, ...]
    stop_text: str | None
    decode: Callable[[Sequence[int]], str]

    def describe(self) -> dict[str, Any]:
        """The settings, for a result file."""
        return {
            "decoding": "greedy",
            "eos_token_ids": list(self.eos_ids),
            "stop_text": self.stop_text,
        }

    def ended(self, tokens: Sequence[int], most: int) -> bool:
        """Is an answer of these tokens complete, if it may have `most`?"""
        if len(tokens) >= most or tokens[-1] in self.eos_ids:
            return True
        return self.stop_text is not None and self.stop_text in self.decode(tokens)

    def cut(self, tokens: Sequence[int]) -> Prefix:
        """The answer's tokens: what comes before the first EOS."""
        ends = (i for i, token in enumerate(tokens) if token in self.eos_ids)
        return tuple(tokens[: next(ends, len(tokens))])


@dataclass
class Runtime:
    """A loaded model and what running it needs."""

    model: nn.Module
    blocks: Sequence[nn.Module]  # whose outputs are read; none: no layers
    decoding: Decoding
    token_budget: int  # of one forward, with padding and cached tokens; one longer row still runs
    forward_cost: float  # time of a forward apart from its tokens, in tokens
    tokens: int = 0  # that were run until now, padding not counted

    def tensor(self, rows: Sequence) -> Tensor:
        """Token ids, positions or masks on the device that takes the model's input."""
        return torch.tensor(rows, device=input_device(self.model))

    def chunks(self, prefixes: Iterable[Prefix]) -> Iterator[list[Prefix]]:
        """Prefixes in batches within the budget, longest first: short memory shows at once."""
        waiting = sorted(prefixes, key=len, reverse=True)
        while waiting:
            rows = max(1, self.token_budget // len(waiting[0]))
            yield waiting[:rows]
            waiting = waiting[rows:]


def input_device(model: nn.Module) -> torch.device:
    """Where a model takes its token ids; the CPU where its embeddings are kept elsewhere."""
    device = model.get_input_embeddings().weight.device
    return torch.device("cpu") if device.type == "meta" else device


def is_out_of_memory(error: RuntimeError) -> bool:
    """Is this what torch or a device's library raises where memory runs out?"""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in MEMORY_WORDS
    )


def release_memory() -> None:
    """Give memory that is no longer used back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def run_halving(
    runtime: Runtime, items: Sequence[Any], work: Callable[[Sequence[Any]], list]
) -> list:
    """`work` on all items together; where memory runs out, on halves of them, and says so.

    The token budget of later forwards is halved too. OutOfMemory where a single item does not fit.
    """
    try:
        return work(items)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if len(items) == 1:
            raise OutOfMemory("out of memory on a single prompt") from error
    runtime.token_budget = max(1, runtime.token_budget // 2)
    print(f"out of memory: {runtime.token_budget} tokens a forward from now on", file=sys.stderr)
    release_memory()
    middle = len(items) // 2
    first, second = items[:middle], items[middle:]
    return run_halving(runtime, first, work) + run_halving(runtime, second, work)


def last_column(hidden: Tensor) -> Tensor:
    """Hidden states of the last token of each row, [B, T, D] -> [B, 1, D]."""
    return hidden[:, -1:]


@contextmanager
def captured(
    model: nn.Module,
    blocks: Iterable[nn.Module],
    positions: Sequence[Position],
    own_dtype: bool = False,
) -> Iterator[list[Tensor]]:
    """Within it a forward gives logits at the positions only, [1, S, V], and each block appends its
    states there, [P, D], where P counts the positions whose states are wanted.

    The unembedding is that of `read_logits`, or as the model has it where `own_dtype`.
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
        with picked_logits(model, pick_rows, own_dtype):
            yield states
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def picked_logits(
    model: nn.Module, pick: Callable[[Tensor], Tensor] = last_column, own_dtype: bool = False
) -> Iterator[None]:
    """Within it a forward gives logits only of the rows [B', T', D] that `pick` takes of the hidden
    states [B, T, D] before the unembedding, so that the model's own soft-cap, scale and bias still
    apply, and no vocabulary-sized tensor exists for any other position.

    In half precision the unembedding is computed in float32, unless `own_dtype`: logits of half
    precision lie so far apart that the best two are often equal.
    """
    head = model.get_output_embeddings()
    in_float32 = in_half_precision(head) and not own_dtype
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


def read_forward(runtime: Runtime, positions: Sequence[Position], **inputs: Any) -> list[Reading]:
    """Run one forward and read it at the positions, in their order."""
    with torch.inference_mode(), captured(runtime.model, runtime.blocks, positions) as states:
        logits = runtime.model(**inputs).logits[0].float()  # [S, V]
        if not torch.isfinite(logits).all():
            dtype = str(runtime.model.dtype).removeprefix("torch.")
            raise UserError(f"the model gave non-finite logits in {dtype}. Try another --dtype.")
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


def _gather(logprobs: Tensor, wanted: Sequence[Sequence[int]]) -> list[list[float]]:
    """[S, V] and the tokens wanted of each row -> their values, in one transfer from the device."""
    width = max(map(len, wanted))
    rows = [[*tokens, *[0] * (width - len(tokens))] for tokens in wanted]
    index = torch.tensor(rows, dtype=torch.long, device=logprobs.device)
    return logprobs.gather(-1, index).tolist()


def padded(rows: Sequence[Sequence[int]], left: bool = False) -> tuple[list, list]:
    """Rows of equal length, filled up with 0, and the mask that hides the filling."""
    width = max(map(len, rows))
    full, mask = [], []
    for row in rows:
        gap, ones = [0] * (width - len(row)), [1] * len(row)
        full.append([*gap, *row] if left else [*row, *gap])
        mask.append([*gap, *ones] if left else [*ones, *gap])
    return full, mask


class PlainEngine:
    """The reference: every prefix is run whole, by itself, from its first token."""

    name = "plain"

    def __init__(self, runtime: Runtime):
        self.runtime = runtime

    def read(
        self, requests: Mapping[Prefix, Request], advance: Advance = lambda done: None
    ) -> dict[Prefix, Reading]:
        """Read every prefix at its last token."""
        readings = {}

        def read_batch(prefixes: Sequence[Prefix]) -> list[Reading]:
            ids, mask = padded(prefixes)
            positions = [Position(row, len(p) - 1, requests[p]) for row, p in enumerate(prefixes)]
            inputs = {"input_ids": self.runtime.tensor(ids)}
            if len(set(map(len, prefixes))) > 1:
                inputs["attention_mask"] = self.runtime.tensor(mask)
            self.runtime.tokens += sum(map(len, prefixes))
            return read_forward(self.runtime, positions, use_cache=False, **inputs)

        for prefixes in self.runtime.chunks(requests):
            readings |= zip(prefixes, run_halving(self.runtime, prefixes, read_batch))
            advance(sum(requests[prefix].is_prompt for prefix in prefixes))
        for prefixes in self.runtime.chunks(p for p, request in requests.items() if request.answer):
            asked = [(prefix, requests[prefix].answer) for prefix in prefixes]
            answers = run_halving(self.runtime, asked, self._generate)
            for prefix, answer in zip(prefixes, answers):
                readings[prefix] = replace(readings[prefix], answer=answer)
        return readings

    def _generate(self, asked: Sequence[tuple[Prefix, int]]) -> list[Prefix]:
        """Answers to prefixes, each of which may have so many tokens."""
        decoding = self.runtime.decoding
        prefixes, limits = zip(*asked)
        ids, mask = padded(prefixes, left=True)
        settings = GenerationConfig(
            max_new_tokens=max(limits),
            do_sample=False,
            eos_token_id=list(decoding.eos_ids) or None,
            pad_token_id=decoding.eos_ids[0] if decoding.eos_ids else 0,
        )
        with torch.inference_mode(), picked_logits(self.runtime.model):
            rows = self.runtime.model.generate(
                self.runtime.tensor(ids),
                attention_mask=self.runtime.tensor(mask),
                generation_config=settings,
                stopping_criteria=[_Ended(decoding, len(ids[0]), max(limits))],
            )
        answers = rows[:, len(ids[0]) :].tolist()
        self.runtime.tokens += sum(map(len, prefixes)) + sum(map(len, answers))
        return [decoding.cut(row[:most]) for row, most in zip(answers, limits)]


class _Ended(StoppingCriteria):
    """Tells `generate` which rows are complete."""

    def __init__(self, decoding: Decoding, prompt_length: int, most: int):
        self.decoding = decoding
        self.prompt_length = prompt_length
        self.most = most

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        rows = input_ids[:, self.prompt_length :].tolist()
        ended = [self.decoding.ended(row, self.most) for row in rows]
        return torch.tensor(ended, device=input_ids.device)
