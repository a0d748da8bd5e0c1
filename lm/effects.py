"""What a history does to one target: the numbers that `--effects` stores for an example.

A number is the log-odds of the reference label against the best other one (nats), for a generated
answer the reference's log P. Every prompt has the past that the target's tokens read, and the
target's own tokens, which are run again with the history hidden, or with states put in.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.records import cleaned
from lm.attention import by_part, in_three, look, uniform
from lm.engine import rows_within
from lm.forward import Position
from lm.interventions import Hidden, Interventions, Past, Patch, Resumed, Row, Run, stacked
from lm.prefix_tree import common_length
from lm.prompts import Prefix, Prompt, Request
from lm.spans import Range, Spans

PARTS = ("position", "block", "turn", "route", "patch", "attention")
WINDOWS = 6  # windows of blocks where no width is given: each a sixth of the depth


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

    def number(self, logprobs: Mapping[str, float]) -> float:
        """Log-odds of the reference against the best other answer; its log P where it is alone."""
        others = [value for name, value in logprobs.items() if name != self.reference]
        return logprobs[self.reference] - max(others, default=0.0)


@dataclass(frozen=True)
class Parent:
    """One row of a run that others resume."""

    states: tuple[Tensor, ...]  # what each block has put out at the target's tokens [t, D]
    past: Past  # with these tokens


class Target:
    """The target's tokens of one prompt behind the keys and values of what stands before them."""

    def __init__(self, tool: Interventions, asked: Asked, past: Past, position: int | None = None):
        """`position` is where the target's first token stands, by default behind the past."""
        self.tool, self.asked, self.past = tool, asked, past
        self.position = past.length if position is None else position
        self.tokens = asked.ids[past.length :]

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

        found = self._in_batches(len(rows), len(self.tokens) + self.past.length, work)
        return [parent for parent, _ in found], [number for _, number in found]

    def numbers(
        self, rows: Sequence[Row], parents: Sequence[Parent] | None = None, block: int = 0
    ) -> list[float]:
        """The number under each row; with parents the rows are resumed there at a block."""
        return self._in_batches(
            len(rows),
            len(self.tokens) + self.past.length,
            lambda which: self._numbers(
                self._run(which, rows, parents, block), self.position + len(self.tokens)
            ),
        )

    def last_numbers(self, rows: Sequence[Row], pasts: Sequence[Past]) -> list[float]:
        """The same from the answer position alone, behind a past of its own for each row."""
        position = self.position + len(self.tokens) - 1

        def work(which: Sequence[int]) -> list[float]:
            chosen = [rows[r] for r in which]
            tokens, past = [self.tokens[-1:]] * len(which), stacked([pasts[r] for r in which])
            reads = self._reads(len(which), 1)
            run = self.tool.run(tokens, past, chosen, reads, position=position)
            return self._numbers(run, position + 1)

        return self._in_batches(len(rows), pasts[0].length + 1, work)

    def patched_last(self, into: Parent, donor: Parent) -> list[float]:
        """The number with the donor's state at the answer position put in, after each block."""
        rows = [Row(patch=Patch(block, states[-1:])) for block, states in enumerate(donor.states)]
        return self.last_numbers(rows, [into.past.without_last()] * len(rows))

    def patched_target(self, into: Parent, donor: Parent, windows: Sequence[Range]) -> list[float]:
        """The number with the donor's states at all aligned tokens put in, after each window."""
        states = tuple(aligned(*of_block) for of_block in zip(into.states, donor.states))
        parent = Parent(states, into.past)
        return [self.numbers([Row()], [parent], end)[0] for _, end in windows]

    def _in_batches(self, count: int, length: int, work: Callable[[Sequence[int]], list]) -> list:
        """What is made of rows of this length, some at a time."""
        plan = rows_within(lambda row: length)
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
        if parents and block:
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


def windows_of(depth: int, width: int | None = None) -> list[Range]:
    """Windows of `width` blocks that cover a model, half-open, from 0; the last may be shorter."""
    width = width or max(1, round(depth / WINDOWS))
    return [(first, min(first + width, depth)) for first in range(0, depth, width)]


def filled(ids: Prefix, spans: Spans, filler: Prefix) -> Prefix:
    """A prompt whose history's texts are tokens of a filler, as many; the marks stay.

    The filler goes on from text to text and begins again at its end, so that a shorter history's is
    the beginning of a longer one's.
    """
    found, used = list(ids), 0
    texts = sorted((*spans.users, *spans.answers))
    for first, end in texts:
        for k in range(first, end):
            found[k] = filler[used % len(filler)]
            used += 1
    return tuple(found)


class Conversation:
    """One target after histories of growing length; at h = 0 there are no spans."""

    def __init__(
        self, tool: Interventions, asked: Sequence[Asked], spans: Sequence[Spans], width: int | None
    ):
        """`asked` at h = 0, 1, ..., H; `spans` at h = 1, ..., H."""
        self.tool, self.asked, self.spans = tool, asked, spans
        longest = max(len(each.ids) + len(tail) for each in asked for _, tail in each.answers)
        regimes = tool.runtime.regimes
        if regimes.of(1) != regimes.of(longest):
            raise UserError(
                f"--effects: this model reads a text of {longest} tokens differently from a short "
                "one,\nso that cached keys are not those of the whole. Use a smaller --max_len."
            )
        self.windows = windows_of(tool.depth, width)
        longest = asked[-1].ids[: spans[-1].target[0]]
        self.trunk = longest, tool.past_of(longest)

    def past_before(self, ids: Prefix, trunk: tuple[Prefix, Past]) -> Past:
        """The past of tokens, taken from the trunk's where that begins with them."""
        if common_length(ids, trunk[0]) == len(ids):
            return trunk[1].first(len(ids))
        return self.tool.past_of(ids)

    @cached_property
    def none(self) -> Target:
        """The target without history."""
        ids = self.asked[0].ids
        begin = min(self.spans[0].system[1], common_length(ids, self.asked[1].ids), len(ids) - 1)
        return Target(self.tool, self.asked[0], self.past_before(ids[:begin], self.trunk))

    @cached_property
    def none_run(self) -> tuple[Parent, float]:
        """The run without history, and its number."""
        [parent], [number] = self.none.parents([Row()])
        return parent, number

    def measure(self, parts: Iterable[str], filler: Prefix) -> list[dict[str, Any]]:
        """The effects at h = 1, ..., H."""
        parts = set(parts)
        fillers = self._fillers(filler) if "position" in parts else {}
        return [
            Effects(self, h).measure(parts) | ({"filler": fillers[h]} if fillers else {})
            for h in range(1, len(self.asked))
        ]

    def _fillers(self, filler: Prefix) -> dict[int, float]:
        asked = {
            h: replace(self.asked[h], ids=filled(self.asked[h].ids, spans, filler))
            for h, spans in enumerate(self.spans, 1)
        }
        longest = max(asked)
        whole = asked[longest].ids[: self.spans[-1].target[0]]
        trunk = whole, self.tool.past_of(whole)
        found = {}
        for h, each in asked.items():
            past = self.past_before(each.ids[: self.spans[h - 1].target[0]], trunk)
            [found[h]] = Target(self.tool, each, past).numbers([Row()])
        return found


class Effects:
    """The effects of one history on one target."""

    def __init__(self, conversation: Conversation, h: int):
        self.conversation, self.tool = conversation, conversation.tool
        self.windows = conversation.windows
        self.spans = conversation.spans[h - 1]
        asked = conversation.asked[h]
        past = conversation.past_before(asked.ids[: self.spans.target[0]], conversation.trunk)
        self.target = Target(self.tool, asked, past)
        self.everywhere = (0, self.tool.depth)
        rows = [Row(), self._hidden(self.spans.history)]
        (self.full, self.cut), self.numbers = self.target.parents(rows)

    def _hidden(self, keys: Range, *blocks: Range) -> Row:
        """A row that does not see some keys, in some blocks or in all."""
        return Row(tuple(Hidden(keys, each) for each in blocks or [self.everywhere]))

    def measure(self, parts: set[str]) -> dict[str, Any]:
        """The numbers of the parts that are wanted."""
        full, hidden = self.numbers
        none_run, none = self.conversation.none_run
        found: dict[str, Any] = {"none": none, "hidden": hidden, "full": full}
        windows = [[first + 1, end] for first, end in self.windows]
        if parts & {"block", "patch"}:
            found["windows"] = windows
        if "block" in parts:
            found |= self.by_window()
        if "turn" in parts:
            found |= self.by_turn()
        if "route" in parts:
            found["routes"] = self.routes()
        if "patch" in parts:
            found |= self.patched(none_run)
        if "attention" in parts:
            found |= self.looks()
        return {name: _stored(value) for name, value in found.items()}

    def by_window(self) -> dict[str, list[float]]:
        """The history hidden within each window, and seen within it only."""
        found: dict[str, list[float]] = {"hidden_by_window": [], "seen_by_window": []}
        history, depth = self.spans.history, self.tool.depth
        for first, end in self.windows:
            rows = [
                self._hidden(history, (first, end)),
                self._hidden(history, (0, first), (end, depth)),
            ]
            numbers = self.target.numbers(rows, [self.full, self.cut], first)
            for name, number in zip(found, numbers):
                found[name].append(number)
        return found

    def by_turn(self) -> dict[str, list[float]]:
        """Each turn hidden at all blocks; its user text alone; its answer alone."""
        spans = {"turn": self.spans.turns, "user": self.spans.users, "answer": self.spans.answers}
        rows = [self._hidden(keys) for ranges in spans.values() for keys in ranges]
        numbers = iter(self.target.numbers(rows))
        return {
            f"hidden_by_{name}": [next(numbers) for _ in ranges] for name, ranges in spans.items()
        }

    def routes(self) -> dict[str, float]:
        """The history hidden from the answer position; from the target's other tokens; from both.

        Of what the target's other tokens hold only the answer position is run again.
        """
        direct = Row((Hidden(self.spans.history, self.everywhere, from_target=False),))
        pasts = [parent.past.without_last() for parent in (self.full, self.cut)]
        cut_direct, cut_through = self.target.last_numbers([direct, Row()], pasts)
        return {"direct": cut_direct, "through_target": cut_through, "both": self.numbers[1]}

    def patched(self, none: Parent) -> dict[str, list[float]]:
        """States of the run without history put into the run with it, and the reverse.

        At the answer position after every block; at all aligned tokens of the target after the last
        block of each window.
        """
        without, windows = self.conversation.none, self.windows
        return {
            "patched_last": self.target.patched_last(self.full, none),
            "patched_target": self.target.patched_target(self.full, none, windows),
            "reverse_last": without.patched_last(none, self.full),
            "reverse_target": without.patched_target(none, self.full, windows),
        }

    def looks(self) -> dict[str, Any]:
        """Attention of the answer position by part: mean over heads, and of each head."""
        past, token = self.full.past.without_last(), self.target.asked.ids[-1]
        weights, _ = look(self.tool, token, past, past.length)
        found = by_part(weights, self.spans)
        heads = {name: of_part.tolist() for name, of_part in in_three(found).items()}
        return {
            "attention": {name: of_part.mean(-1).tolist() for name, of_part in found.items()},
            "attention_by_head": heads,
            "attention_if_uniform": uniform(self.spans),
        }


def aligned(states: Tensor, donor: Tensor) -> Tensor:
    """States [t, D] with the donor's [t', D] put in from the end on: prompts differ in length, and
    the target's tokens are equal from its end.
    """
    shared = min(len(states), len(donor))
    return torch.cat([states[: len(states) - shared], donor[len(donor) - shared :]])


def _stored(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _stored(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_stored(each) for each in value]
    return cleaned([value])[0] if isinstance(value, float) else value
