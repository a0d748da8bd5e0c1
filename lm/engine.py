"""Engines: how token sequences are run through a causal LM and read. No text and no task here.

A prefix is a tuple of token ids. What is wanted of it is the log-probability of some next tokens
and, where a prompt ends there, the likeliest next tokens, what its blocks hold and maybe the greedy
continuation. An engine takes {prefix: Request} and returns {prefix: Reading}.

PlainEngine, here, runs every prefix whole. TreeEngine, in tree_engine.py, shares what they share.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, StoppingCriteria

from core.errors import OutOfMemory
from lm.forward import (
    Position,
    Reading,
    check_finite,
    input_device,
    picked_logits,
    read_forward,
)
from lm.memory import tried
from lm.prefix_tree import padded
from lm.prompts import Prefix, Request
from lm.regimes import Regimes, regimes_of
from lm.shared_past import can_share

Advance = Callable[[int], object]  # is told how many prompts were read since it was told last
# Items that wait and a budget in tokens -> how many of the first run together, and their tokens
# with padding; one item may exceed the budget
Plan = Callable[[Sequence[Any], int], tuple[int, int]]
# How answers are written: prompts together, one by one, or without a cache, each token anew
ANSWERING = ("batched", "alone", "reread")


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
    shares: bool | None = None  # do rows of a forward share their past? None: where they can
    regimes: Regimes = field(init=False)

    def __post_init__(self) -> None:
        if self.shares is None:
            self.shares = can_share(self.model)
        self.regimes = regimes_of(self.model.config.get_text_config())

    def tensor(self, rows: Sequence) -> Tensor:
        """Token ids, positions or masks on the device that takes the model's input."""
        return torch.tensor(rows, device=input_device(self.model))

    def batches(
        self, items: Sequence[Any], plan: Plan, work: Callable[[Sequence[Any]], list]
    ) -> Iterator[tuple[Sequence[Any], list]]:
        """Run all items in their order, some at a time -> those that were run, and the results.

        Where memory runs out, what waits is planned again, with half the tokens of the batch that
        failed. OutOfMemory where a single item does not fit; that the batches before it failed then
        says nothing of their size, and the budget is what it was.
        """
        waiting, budget = list(items), self.token_budget
        while waiting:
            count, tokens = plan(waiting, self.token_budget)
            try:
                results = tried(work, waiting[:count])
            except OutOfMemory:
                self.token_budget = budget
                raise
            if results is not None:
                yield waiting[:count], results
                del waiting[:count]
                continue
            self.token_budget = max(1, tokens // 2)
            print(
                f"out of memory: {self.token_budget} tokens per forward from now on",
                file=sys.stderr,
            )

    def forget_lengths(self) -> None:
        """Have dynamic rotary embeddings start anew: they keep the longest text they have read."""
        if self.regimes.growing:
            with torch.inference_mode():
                self.model(self.tensor([[0]]), use_cache=False)


def rows_within(width: Callable[[Any], int], alone: bool = False) -> Plan:
    """As many rows as the budget allows, each as wide as the first; `alone`, one at a time."""

    def plan(waiting: Sequence[Any], budget: int) -> tuple[int, int]:
        rows = 1 if alone else min(len(waiting), max(1, budget // width(waiting[0])))
        return rows, rows * width(waiting[0])

    return plan


class Engine(ABC):
    """Reads prefixes; what are read alike by their length are read together."""

    name: str

    def __init__(self, runtime: Runtime, answering: str = ANSWERING[0]):
        self.runtime = runtime
        self.answering = answering

    def read(
        self, requests: Mapping[Prefix, Request], advance: Advance = lambda done: None
    ) -> dict[Prefix, Reading]:
        """Read every prefix at its last token, as the model reads it by itself."""
        regimes = self.runtime.regimes
        growing = {
            prefix: request.answer
            for prefix, request in requests.items()
            if request.answer
            and (self.answering == "reread" or regimes.changes(len(prefix), request.answer))
        }
        asked = {p: replace(r, answer=0) if p in growing else r for p, r in requests.items()}
        readings: dict[Prefix, Reading] = {}
        for group in regimes.groups(asked):
            self.runtime.forget_lengths()
            readings |= self.read_group(group, advance)
        for prefix, answer in self._answers_by_rereading(growing, readings).items():
            readings[prefix] = replace(readings[prefix], answer=answer)
        return readings

    @abstractmethod
    def read_group(
        self, requests: Mapping[Prefix, Request], advance: Advance
    ) -> dict[Prefix, Reading]:
        """Read prefixes that may share a forward."""

    def _answers_by_rereading(
        self, limits: Mapping[Prefix, int], readings: Mapping[Prefix, Reading]
    ) -> dict[Prefix, Prefix]:
        """Greedy answers to prefixes that are read otherwise as they grow: for each token anew."""
        decoding = self.runtime.decoding
        answers = {prefix: list(readings[prefix].top_tokens[:1]) for prefix in limits}
        while growing := [p for p in limits if not decoding.ended(answers[p], limits[p])]:
            texts = {prefix: (*prefix, *answers[prefix]) for prefix in growing}
            read = self.read({text: Request(is_prompt=True) for text in texts.values()})
            for prefix, text in texts.items():
                answers[prefix].append(read[text].top_tokens[0])
        return {prefix: decoding.cut(answer) for prefix, answer in answers.items()}


class PlainEngine(Engine):
    """The reference: every prefix is run whole, by itself, from its first token."""

    name = "plain"

    def read_group(
        self, requests: Mapping[Prefix, Request], advance: Advance
    ) -> dict[Prefix, Reading]:
        """Prefixes in right-padded batches, then answers in left-padded ones."""
        runtime, readings = self.runtime, {}

        def read_batch(prefixes: Sequence[Prefix]) -> list[Reading]:
            ids, mask = padded(prefixes)
            positions = [Position(row, len(p) - 1, requests[p]) for row, p in enumerate(prefixes)]
            inputs = {"input_ids": runtime.tensor(ids)}
            if len(set(map(len, prefixes))) > 1:
                inputs["attention_mask"] = runtime.tensor(mask)
            runtime.tokens += sum(map(len, prefixes))
            return read_forward(runtime.model, runtime.blocks, positions, use_cache=False, **inputs)

        longest_first = sorted(requests, key=len, reverse=True)  # short memory shows at once
        for late in (False, True):
            items = [prefix for prefix in longest_first if requests[prefix].late == late]
            for prefixes, read in runtime.batches(items, rows_within(len), read_batch):
                readings |= zip(prefixes, read)
                advance(sum(requests[prefix].is_prompt for prefix in prefixes))
        asked = [(p, requests[p].answer) for p in longest_first if requests[p].answer]
        alone = self.answering == "alone" or runtime.regimes.alone
        plan = rows_within(lambda each: len(each[0]) + each[1], alone)
        for batch, answers in runtime.batches(asked, plan, self._generate):
            for (prefix, _), answer in zip(batch, answers):
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
                logits_processor=[partial(_finite, self.runtime.model)],
            )
        answers = rows[:, len(ids[0]) :].tolist()
        self.runtime.tokens += sum(map(len, prefixes)) + sum(map(len, answers))
        return [decoding.cut(row[:most]) for row, most in zip(answers, limits)]


def _finite(model: nn.Module, ids: Tensor, logits: Tensor) -> Tensor:
    """Logits of one token of each answer, as they are."""
    check_finite(logits, model)
    return logits


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
