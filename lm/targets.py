"""A target's tokens behind cached keys, run again and again with something hidden or patched.

Each run ends in one number: the log-odds of the reference label against the best other one (nats),
or for a generated answer the reference's log P.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lm.engine import rows_within
from lm.forward import Position
from lm.interventions import Interventions, Past, Patch, Resumed, Row, Run, stacked
from lm.prompts import Prefix, Prompt, Request

NOTHING = Row()  # is done to a row


@dataclass(frozen=True)
class Asked:
    """A prompt up to its answer position, and the answers that are compared behind it."""

    ids: Prefix
    answers: tuple[tuple[str, Prefix], ...]  # of labels, or the one reference
    reference: str

    @classmethod
    def of(cls, prompt: Prompt, reference: str) -> "Asked":
        """A prompt with its labels."""
        ids = prompt.labels[0][1][: prompt.start]
        answers = tuple((label, whole[prompt.start :]) for label, whole in prompt.labels)
        return cls(ids, answers, reference)

    @classmethod
    def of_text(cls, ids: Prefix, start: int) -> "Asked":
        """A prompt with a text behind it, which begins at `start`."""
        return cls(ids[:start], (("reference", ids[start:]),), "reference")

    def number(self, logprobs: Mapping[str, float]) -> float:
        """Log-odds of the reference against the best other answer; its log P where it is alone."""
        others = [value for name, value in logprobs.items() if name != self.reference]
        return logprobs[self.reference] - max(others, default=0.0)


@dataclass(frozen=True, eq=False)
class Parent:
    """One row of a run that others resume."""

    states: tuple[Tensor, ...]  # what each block has put out at the target's tokens [t, D]
    past: Past  # with these tokens


@dataclass(frozen=True, eq=False)
class Job:
    """One row that is run for its number, from a block on where it resumes its parent."""

    name: str  # of the number, or of the list that it goes into
    row: Row = NOTHING
    parent: Parent | None = None
    block: int = 0


class Target:
    """The target's tokens of one prompt behind the keys and values of what stands before them."""

    def __init__(self, tool: Interventions, asked: Asked, past: Past, position: int | None = None):
        """`position` is where the target's first token stands, by default behind the past."""
        self.tool, self.asked, self.past = tool, asked, past
        self.position = past.length if position is None else position
        self.tokens = asked.ids[past.length :]
        # What a row counts for, in tokens: the keys of its past are there for a block at a time
        self.past_share = past.length // tool.depth

    def parents(self, rows: Sequence[Row]) -> tuple[list[Parent], list[float]]:
        """Rows run whole, as runs to resume, and the number of each."""

        def work(which: Sequence[int]) -> list[tuple[Parent, float]]:
            run = self._run(which, rows, None, 0, keep_states=True)
            numbers = self._numbers(run, self.position + len(self.tokens))
            states = zip(*run.states)  # by row
            return [
                (Parent(tuple(of_row), run.row(r)), number)
                for r, (of_row, number) in enumerate(zip(states, numbers))
            ]

        found = self._in_batches(len(rows), len(self.tokens), work)
        return [parent for parent, _ in found], [number for _, number in found]

    def numbers(
        self, rows: Sequence[Row], parents: Sequence[Parent] | None = None, block: int = 0
    ) -> list[float]:
        """The number under each row; from a block after the first each resumes its parent there."""
        return self._in_batches(
            len(rows),
            len(self.tokens),
            lambda which: self._numbers(
                self._run(which, rows, parents, block), self.position + len(self.tokens)
            ),
        )

    def done(self, jobs: Sequence[Job], known: Mapping[Row, float]) -> dict[str, list[float]]:
        """The numbers of jobs, by their names in their order; those of one block run together.

        `known` are the numbers of rows that were run whole: these are not run again.
        """
        numbers = {job: known.get(job.row, 0.0) for job in jobs}
        waiting = [job for job in jobs if job.block or job.row not in known]
        for block in dict.fromkeys(job.block for job in waiting):
            here = [job for job in waiting if job.block == block]
            found = self.numbers([job.row for job in here], [job.parent for job in here], block)
            numbers |= zip(here, found)
        named: dict[str, list[float]] = {}
        for job, number in numbers.items():
            named.setdefault(job.name, []).append(number)
        return named

    def last_numbers(self, rows: Sequence[Row], pasts: Sequence[Past]) -> list[float]:
        """The same from the answer position alone, behind a past of its own for each row."""
        position = self.position + len(self.tokens) - 1

        def work(which: Sequence[int]) -> list[float]:
            chosen = [rows[r] for r in which]
            tokens, past = [self.tokens[-1:]] * len(which), stacked([pasts[r] for r in which])
            reads = self._reads(len(which), 1)
            run = self.tool.run(tokens, past, chosen, reads, position=position)
            return self._numbers(run, position + 1)

        return self._in_batches(len(rows), 1, work)

    def patched_last(self, into: Parent, donor: Parent) -> list[float]:
        """The number with the donor's state at the answer position put in, after each block."""
        rows = [Row(patch=Patch(block, states[-1:])) for block, states in enumerate(donor.states)]
        return self.last_numbers(rows, [into.past.without_last()] * len(rows))

    def _in_batches(self, count: int, width: int, work: Callable[[Sequence[int]], list]) -> list:
        """What is made of rows of so many new tokens, some at a time."""
        plan = rows_within(lambda row: width + self.past_share)
        batches = self.tool.runtime.batches(range(count), plan, work)
        return [each for _, found in batches for each in found]

    def _run(
        self,
        which: Sequence[int],
        rows: Sequence[Row],
        parents: Sequence[Parent] | None,
        block: int,
        keep_states: bool = False,
    ) -> Run:
        resumed = None
        if block:
            chosen = [parents[r] for r in which]
            states = torch.stack([parent.states[block - 1] for parent in chosen])
            resumed = Resumed(block, states, stacked([parent.past for parent in chosen]))
        return self.tool.run(
            [self.tokens] * len(which),
            self.past,
            [rows[r] for r in which],
            self._reads(len(which), len(self.tokens)),
            position=self.position,
            answer=len(self.tokens) - 1,
            resumed=resumed,
            keep_states=keep_states,
        )

    def _reads(self, rows: int, width: int) -> list[Position]:
        first = {tokens[0] for _, tokens in self.asked.answers if tokens}
        return [Position(row, width - 1, Request(first or {0})) for row in range(rows)]

    def _numbers(self, run: Run, position: int) -> list[float]:
        """The number of each row of a run that ends at the answer position."""
        longer = [answer for answer in self.asked.answers if len(answer[1]) > 1]
        behind = self._behind(run, longer, position) if longer else {}
        found = []
        for row, logprobs in enumerate(run.logprobs):
            sums = {
                name: (logprobs[tokens[0]] if tokens else 0.0) + behind.get((row, name), 0.0)
                for name, tokens in self.asked.answers
            }
            found.append(self.asked.number(sums))
        return found

    def _behind(
        self, run: Run, answers: Sequence[tuple[str, Prefix]], position: int
    ) -> dict[tuple[int, str], float]:
        """log P of each answer's tokens after its first, under each row of a run."""
        width = max(len(tokens) for _, tokens in answers) - 1
        padded = [(*tokens[:-1], *[0] * (width + 1 - len(tokens))) for _, tokens in answers]
        count = len(answers)
        rows = [replace(row, patch=None) for row in run.rows for _ in answers]
        past = run.past.each(lambda states: states.repeat_interleave(count, dim=0))
        reads = [
            (row, name, column, token)
            for row in range(len(run.rows))
            for k, (name, tokens) in enumerate(answers)
            for column, token in enumerate(tokens[1:])
        ]
        places = {name: k for k, (name, _) in enumerate(answers)}
        positions = [
            Position(row * count + places[name], column, Request({token}))
            for row, name, column, token in reads
        ]
        tokens = padded * len(run.rows)
        got = self.tool.run(tokens, past, rows, positions, position=position).logprobs
        sums: dict[tuple[int, str], float] = {}
        for (row, name, _, token), logprobs in zip(reads, got):
            sums[row, name] = sums.get((row, name), 0.0) + logprobs[token]
        return sums
