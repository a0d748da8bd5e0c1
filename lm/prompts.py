"""What a model is asked and what it says: encoded prompts, outcomes. No torch and no model.

A prefix is a tuple of token ids, and a Request what an engine reads after it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import NamedTuple

import numpy as np

from core.debug_log import Message, Row
from lm.prefix_tree import common_length

Prefix = tuple[int, ...]
Range = tuple[int, int]  # of tokens or blocks, half-open


@dataclass
class Request:
    """What to read after a prefix."""

    next_tokens: set[int] = field(default_factory=set)
    is_prompt: bool = False  # a prompt ends here: its top tokens are wanted
    answer: int = 0  # most tokens of its greedy continuation; 0: none is wanted
    states: bool = False  # what each block puts out here is wanted
    late: bool = False  # run behind all others, so that no digit of theirs depends on it
    keep: bool = False  # its keys and values are wanted, where the engine has them


class Longest(NamedTuple):
    """The longest that is read of a conversation, as it is known before it is run."""

    messages: Sequence[Message]
    labels: tuple[str, ...]  # what is read behind it
    others: tuple[str, ...]  # labels of another task, read beside those
    answer: int  # most tokens of its answer
    more: int = 0  # most tokens that are yet to come into it


@dataclass(frozen=True)
class Prompt:
    """An encoded conversation; for a label task also with each label behind it."""

    text: str
    ids: Prefix
    labels: tuple[tuple[str, Prefix], ...] = ()
    start: int = 0  # first position of `labels` that is scored, the same for all of them
    answer: int = 0  # most tokens of its greedy answer; 0 for a label task
    baseline: "Prompt | None" = None  # the same target without history; None: this is it
    escaped: int = 0  # special tokens in what was said, which are read as text
    # Not what the prompt is, but what is read of it: are its keys and values kept for what follows?
    keep: bool = field(default=False, compare=False)
    # and labels of other tasks, scored beside its own
    others: tuple[tuple[str, Prefix], ...] = field(default=(), compare=False)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that the model has to read."""
        behind = (len(ids) for _, ids in (*self.labels, *self.others))
        return max([len(self.ids) + self.answer, *behind])

    def relative(self, ids: Prefix) -> tuple[tuple[Prefix, int], tuple[Prefix, int]]:
        """What the score of another label is made of: log P of its tokens, less that of what the
        prompt has in their place up to `start`, each from the position where they part.
        """
        parts = min(self.start, common_length(self.ids, ids))
        return (ids, parts), (self.ids[: self.start], parts)

    def label_tokens(self, label: str) -> int:
        """Number of tokens that the score of a label sums over."""
        return len(dict(self.labels)[label]) - self.start

    @cached_property
    def fork(self) -> "Fork | None":
        """Where the labels part; None where no single token tells them all apart."""
        found = _fork([ids for _, ids in self.labels])
        return found if found and len(set(found.tokens)) == len(found.tokens) else None

    @cached_property
    def fork_of_all(self) -> "Fork | None":
        """Where its labels and those of other tasks part, first its own; None without others.

        Some may go on with one token.
        """
        return _fork([ids for _, ids in (*self.labels, *self.others)]) if self.others else None


@dataclass(frozen=True)
class Fork:
    """The position from which labels differ: what they share, and each one's next token.

    All labels have the same log P up to it, so that there their logits differ by their log-odds.
    """

    prefix: Prefix
    tokens: tuple[int, ...]


def _fork(sequences: Sequence[Prefix]) -> Fork | None:
    """Where sequences stop being the same; None for one alone, or where one of them ends there."""
    if len(sequences) < 2:
        return None
    shared = min(common_length(sequences[0], ids) for ids in sequences[1:])
    tokens = tuple(ids[shared : shared + 1] for ids in sequences)
    return None if () in tokens else Fork(sequences[0][:shared], sum(tokens, ()))


@dataclass(frozen=True)
class Layers:
    """What the blocks of a model hold at the end of a prompt: one number per block each, NaN where
    a hidden state is not finite.
    """

    cosines: tuple[float, ...]  # of the lens logits with the final ones
    drift: tuple[float, ...]  # cosine of the block's output with its output at the baseline's end
    label_logits: dict[str, tuple[float, ...]] | None  # of each label's token, at the fork
    agree: tuple[bool, ...] | None  # is the lens' likeliest token the model's? Where asked for
    # Log-odds (nats) of each label of another task against the likeliest of its own
    other_odds: dict[str, tuple[float, ...]] = field(default_factory=dict)
    cosines_centred: tuple[float, ...] = ()  # of the logits less their mean over the vocabulary


@dataclass(frozen=True)
class Outcome:
    """What the model made of a prompt."""

    top5: tuple[str, ...]  # likeliest next tokens
    layers: Layers | None  # where they are read
    label_logprobs: dict[str, float] | None  # label -> sum of log P over its tokens
    text: str | None  # greedy answer, where one was wanted
    reply: Prefix  # the tokens of that text; () where there is none
    # Of a server: labels that are not among the likeliest first tokens, and what log P they are
    # below
    label_bounds: dict[str, float] | None = None
    # log P of other tasks' labels, from the position of its own
    other_logprobs: dict[str, float] = field(default_factory=dict)


def requests_of(prompts: Sequence[Prompt]) -> dict[Prefix, Request]:
    """What to read for these prompts: each one's end, its baseline's end, and every position before
    a label token.
    """
    requests: dict[Prefix, Request] = {}
    for prompt in prompts:
        request = requests.setdefault(prompt.ids, Request())
        request.is_prompt = request.states = True
        request.answer = max(request.answer, prompt.answer)
        request.keep |= prompt.keep
        for prefix in (prompt.baseline and prompt.baseline.ids, prompt.fork and prompt.fork.prefix):
            if prefix:
                requests.setdefault(prefix, Request()).states = True
        for _, ids in prompt.labels:
            for k in range(prompt.start, len(ids)):
                requests.setdefault(ids[:k], Request()).next_tokens.add(ids[k])
    for prompt in prompts:
        for ids, start in chain.from_iterable(prompt.relative(other) for _, other in prompt.others):
            for k in range(start, len(ids)):
                requests.setdefault(ids[:k], Request(late=True)).next_tokens.add(ids[k])
        if prompt.fork_of_all:
            requests.setdefault(prompt.fork_of_all.prefix, Request(late=True)).states = True
    return requests


def other_odds(prompt: Prompt, logits: Sequence[Row]) -> dict[str, tuple[float, ...]]:
    """Log-odds (nats) at each block of every other task's label against the likeliest label of the
    prompt, from logits at `fork_of_all`; without those that go on as one of its own does.
    """
    count, tokens = len(prompt.labels), prompt.fork_of_all.tokens
    best = np.max(np.array(logits[:count], dtype=float), axis=0)
    return {
        label: tuple((np.array(row, dtype=float) - best).tolist())
        for (label, _), token, row in zip(prompt.others, tokens[count:], logits[count:])
        if token not in tokens[:count]
    }
