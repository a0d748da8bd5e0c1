"""What a model is asked and what it says: encoded prompts, and their outcomes. No model in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from engine import Prefix, Want
from prefix_tree import common_length


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

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence that the model has to read."""
        return max([len(self.ids) + self.answer, *(len(ids) for _, ids in self.labels)])

    def label_tokens(self, label: str) -> int:
        """Number of tokens that the score of a label sums over."""
        return len(dict(self.labels)[label]) - self.start

    @cached_property
    def fork(self) -> "Fork | None":
        """Where the labels part; None where no single token tells them all apart."""
        sequences = [ids for _, ids in self.labels]
        if len(sequences) < 2:
            return None
        shared = min(common_length(sequences[0], ids) for ids in sequences[1:])
        tokens = tuple(ids[shared : shared + 1] for ids in sequences)
        if () in tokens or len(set(tokens)) < len(tokens):
            return None
        return Fork(sequences[0][:shared], tuple(token for (token,) in tokens))


@dataclass(frozen=True)
class Fork:
    """The position from which labels differ: what they share, and each one's next token.

    All labels have the same log P up to it, so that there their logits differ by their log-odds.
    """

    prefix: Prefix
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Layers:
    """What the blocks of a model hold at the end of a prompt: one number per block each, NaN where
    a hidden state is not finite.
    """

    cosines: tuple[float, ...]  # of the lens logits with the final ones
    drift: tuple[float, ...]  # cosine of the block's output with its output at the baseline's end
    label_logits: dict[str, tuple[float, ...]] | None  # of each label's token, at the fork
    agree: tuple[bool, ...] | None  # is the lens' likeliest token the model's? Where asked for


@dataclass(frozen=True)
class Outcome:
    """What the model made of a prompt."""

    top5: tuple[str, ...]  # likeliest next tokens
    layers: Layers | None  # where they are read
    label_logprobs: dict[str, float] | None  # label -> sum of log P over its tokens
    text: str | None  # greedy answer, where one was wanted
    reply: Prefix  # the tokens of that text; () where there is none


def wants_of(prompts: Sequence[Prompt]) -> dict[Prefix, Want]:
    """What to read for these prompts: each one's end, its baseline's end, and every position before
    a label token.
    """
    wants: dict[Prefix, Want] = {}
    for prompt in prompts:
        want = wants.setdefault(prompt.ids, Want())
        want.is_prompt = want.states = True
        want.answer = max(want.answer, prompt.answer)
        for prefix in (prompt.baseline and prompt.baseline.ids, prompt.fork and prompt.fork.prefix):
            if prefix:
                wants.setdefault(prefix, Want()).states = True
        for _, ids in prompt.labels:
            for k in range(prompt.start, len(ids)):
                wants.setdefault(ids[:k], Want()).next_tokens.add(ids[k])
    return wants
