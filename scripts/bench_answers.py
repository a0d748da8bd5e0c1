"""Greedy answers of the tree, `generate` of transformers, vLLM and llama.cpp on the same token ids.

    python scripts/bench.py --answers                             # to posts, after each of --grid
    python scripts/bench.py --answers --vllm PYTHON FOLDER --llama PYTHON GGUF

In every round each program writes all answers, and then the first token of each alone, which is its
reading. What the first takes beyond the second is its decoding: taken off all alike, reading is no
part of it, though each reads in its own way. The whole stands beside it, since it is what a run
waits for. Every program ends an answer at the same tokens and the same length.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from transformers import GenerationConfig

import data
from core.errors import UserError
from data import Pair, plan_cases
from lm.engine import rows_within
from lm.prefix_tree import padded
from lm.prompts import Prefix, Prompt, requests_of
from lm.tree_engine import TreeEngine
from model import LanguageModel
from scripts.bench_others import Other
from scripts.bench_rows import CLOCKS, Clock, Row, measure, ratio
from scripts.bench_work import clock_of, encode_cases, start_others, variant
from tasks import spec

Write = Callable[
    [Sequence[Prompt]], list[Prefix]
]  # answers, each of at most `prompt.answer` tokens


@dataclass
class Writer:
    """A program that answers prompts, what it wrote, and the time that this took."""

    name: str
    write: Write
    clock: Clock | None = None  # None: the one that all have
    answers: list[Prefix] = field(default_factory=list)
    decoded: int = 0  # tokens behind the first of each answer, with that which ends it

    def __post_init__(self) -> None:
        self.whole = Row(self.name, self._keep, len, self.clock)
        self.first = Row(self.name, self._read, len, self.clock)

    def _keep(self, prompts: Sequence[Prompt]) -> None:
        self.answers = self.write(prompts)
        self.decoded = sum(min(len(a), p.answer - 1) for a, p in zip(self.answers, prompts))

    def _read(self, prompts: Sequence[Prompt]) -> None:
        self.write([replace(prompt, answer=1) for prompt in prompts])

    @property
    def decoding(self) -> list[float]:
        """Seconds for each decoded token, round by round; NaN where every answer is one token."""
        rounds = zip(self.whole.seconds, self.first.seconds)
        return [(whole - first) / (self.decoded or math.nan) for whole, first in rounds]


def tree_writer(lm: LanguageModel) -> Writer:
    """The tree, without layers."""
    tree = variant(lm, TreeEngine, lens=False)

    def write(prompts: Sequence[Prompt]) -> list[Prefix]:
        readings = tree.engine.read(requests_of(prompts))
        return [readings[prompt.ids].answer for prompt in prompts]

    return Writer("tree", write)


def generate_writer(lm: LanguageModel) -> Writer:
    """`generate` of transformers: left-padded batches of the tree's size, longest prompts first."""

    def write(prompts: Sequence[Prompt]) -> list[Prefix]:
        plan = rows_within(lambda prompt: prompt.longest)
        longest_first = sorted(prompts, key=lambda prompt: prompt.longest, reverse=True)
        batches = lm.runtime.batches(longest_first, plan, lambda batch: generated(lm, batch))
        answers = {p.ids: a for batch, found in batches for p, a in zip(batch, found)}
        return [answers[prompt.ids] for prompt in prompts]

    return Writer("generate of transformers", write)


def generated(lm: LanguageModel, prompts: Sequence[Prompt]) -> list[Prefix]:
    """Answers to one left-padded batch of prompts that may have as many tokens."""
    ids, mask = padded([prompt.ids for prompt in prompts], left=True)
    ends = list(lm.decoding.eos_ids)
    settings = GenerationConfig(
        max_new_tokens=prompts[0].answer, do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
    )
    rows = lm.model.generate(
        lm.runtime.tensor(ids), attention_mask=lm.runtime.tensor(mask), generation_config=settings
    )
    return [lm.decoding.cut(row[len(ids[0]) :]) for row in rows.tolist()]


def own_writers(lm: LanguageModel, names: Sequence[str]) -> list[Writer]:
    """The tree, with which all are compared, and what else is named; no names: all."""
    tree, generate = tree_writer(lm), generate_writer(lm)
    return [tree, generate] if not names or generate.name in names else [tree]


def other_writer(lm: LanguageModel, other: Other, clock: str) -> Writer:
    """vLLM or llama.cpp."""

    def write(prompts: Sequence[Prompt]) -> list[Prefix]:
        ids = [prompt.ids for prompt in prompts]
        answers = other.answer(ids, prompts[0].answer, lm.decoding.eos_ids)
        return [lm.decoding.cut(answer) for answer in answers]

    return Writer(other.name, write, clock_of(other, clock))


def compare_answers(lm: LanguageModel, args: argparse.Namespace) -> None:
    """A table for each max_len: all answers of all targets in one call."""
    if lm.decoding.stop_text is not None:
        raise UserError("--answers compares models whose answers end at a token: chat models.")
    tasks = [spec.parse_spec(text) for text in (args.answers, *args.grid)]
    target, *distractors = (data.load_rows(task, args.data_root) for task in tasks)
    pairs = [Pair(target, distractor) for distractor in distractors]
    others = start_others(lm, args)
    for max_len in args.max_len:
        plan = plan_cases(pairs, max_len, [args.seed], args.n)
        prompts = encode_cases(lm, list(chain.from_iterable(plan)), max_len)
        writers = own_writers(lm, args.rows)
        writers += [other_writer(lm, other, args.clock) for other in others]
        rows = chain.from_iterable((writer.whole, writer.first) for writer in writers)
        measure(list(rows), [prompts], args.repeats, CLOCKS[args.clock])
        sizes = sorted(len(prompt.ids) for prompt in prompts)
        print(f"\n{args.answers} after {' '.join(args.grid)}, max_len {max_len}, {args.n} targets")
        print(f"{len(sizes)} prompts of {sizes[0]} to {sizes[-1]} tokens, {lm.facts()['dtype']}")
        print_answers(writers)
    for other in others:
        other.close()


def print_answers(writers: Sequence[Writer]) -> None:
    """The table: medians over rounds, ratios to the first round by round, answers equal to its."""
    tree = writers[0]
    print(
        f"{'':28}{'s, whole':>9}{'reading':>9}{'decoded':>9}{'tokens/s':>9}"
        f"{'decoding, x tree':>20}{'whole, x tree':>20}{'equal':>11}"
    )
    for writer in writers:
        whole, first = writer.whole.seconds, writer.first.seconds
        equal = sum(a == b for a, b in zip(writer.answers, tree.answers))
        print(
            f"{writer.name:28}{statistics.median(whole):9.2f}{statistics.median(first):9.2f}"
            f"{writer.decoded:9}{1 / statistics.median(writer.decoding):9.0f}"
            f"{ratio(writer.decoding, tree.decoding):>20}{ratio(whole, tree.whole.seconds):>20}"
            f"{f'{equal} of {len(tree.answers)}':>11}"
        )
