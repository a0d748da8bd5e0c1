"""What a history does to one target: the numbers that `--effects` stores for an example.

Every number is one of `lm.targets`: what the target's tokens say of the reference when they are run
again with the history hidden, or with states of the run without history put in, or the reverse.
What takes long is measured after the longest history only, unless every length is asked for.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from core.debug_log import Message
from core.errors import UserError
from core.schema import cleaned
from lm.attention import by_part, find_sinks, in_three, look, uniform
from lm.filler import neutral_text
from lm.interventions import Hidden, Interventions, Past, Row
from lm.prefix_tree import common_length
from lm.prompts import Prefix, Range
from lm.spans import Spans, find_spans
from lm.targets import NOTHING, Asked, Job, Parent, Target
from lm.text import Renderer

WINDOWS = 6  # windows of blocks where no width is given: each a sixth of the depth


def measure_effects(
    tool: Interventions,
    renderer: Renderer,
    conversations: Sequence[Sequence[Message]],
    asked: Sequence[Asked],
    parts: Iterable[str],
    *,
    width: int | None = None,
    all_lengths: bool = False,
    past: Past | None = None,
) -> list[dict[str, Any]]:
    """`spans` and `effects` of a target after histories of growing length, for the debug log.

    Conversations and prompts are those at h = 0 and at each length in order; `width` is that of a
    window of blocks. With `all_lengths` every part is measured at each, not the longest alone.
    `past` is that of the longest prompt, where it has been run already.
    """
    ids = [renderer.tokens(renderer.render(messages)) for messages in conversations]
    spans = [find_spans(renderer, *each) for each in list(zip(conversations, ids))[1:]]
    filler = renderer.tokens(neutral_text())
    histories = Histories(tool, asked, spans, width, past)
    effects = histories.measure(set(parts), filler, all_lengths)
    return [{"spans": s.describe(), "effects": e} for s, e in zip(spans, effects)]


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


class Histories:
    """One target after histories of growing length; at h = 0 there are no spans."""

    def __init__(
        self,
        tool: Interventions,
        asked: Sequence[Asked],
        spans: Sequence[Spans],
        width: int | None,
        past: Past | None = None,
    ):
        """`asked` at h = 0 and at each of the lengths, `spans` without h = 0; `past` begins with
        the tokens of the longest up to the target.

        Below, h is the place of a length in that order.
        """
        self.tool, self.asked, self.spans = tool, asked, spans
        longest = max(len(each.ids) + len(tail) for each in asked for _, tail in each.answers)
        regimes = tool.runtime.regimes
        if regimes.of(1) != regimes.of(longest):
            raise UserError(
                f"--effects: this model reads a text of {longest} tokens differently from a short "
                "one,\nso that cached keys are not those of the whole. Use a smaller h."
            )
        self.windows = windows_of(tool.depth, width)
        longest = asked[-1].ids[: spans[-1].target[0]]
        self.trunk = longest, past.first(len(longest)) if past else tool.past_of(longest)

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
        [parent], [number] = self.none.parents([NOTHING])
        return parent, number

    def measure(
        self, parts: set[str], filler: Prefix, all_lengths: bool = False
    ) -> list[dict[str, Any]]:
        """The effects at each length from 1 on."""
        longest = len(self.asked) - 1
        fillers = self._fillers(filler) if "position" in parts else {}
        found = []
        for h in range(1, longest + 1):
            effects = Effects(self, h)
            numbers = effects.measure(parts)
            if all_lengths or h == longest:
                numbers |= effects.measure_more(parts)
            found.append(_stored(numbers | ({"filler": fillers[h]} if fillers else {})))
        return found

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
            [found[h]] = Target(self.tool, each, past).numbers([NOTHING])
        return found


class Effects:
    """The effects of one history on one target."""

    def __init__(self, histories: Histories, h: int):
        self.histories, self.tool = histories, histories.tool
        self.windows = histories.windows
        self.spans = histories.spans[h - 1]
        asked = histories.asked[h]
        past = histories.past_before(asked.ids[: self.spans.target[0]], histories.trunk)
        self.target = Target(self.tool, asked, past)
        self.everywhere = (0, self.tool.depth)
        rows = [NOTHING, self._hidden(self.spans.history)]
        (self.full, self.cut), self.numbers = self.target.parents(rows)
        self.known = dict(zip(rows, self.numbers))

    def _hidden(self, keys: Range, *blocks: Range) -> Row:
        """A row that does not see some keys, in some blocks or in all."""
        return Row(tuple(Hidden(keys, each) for each in blocks or [self.everywhere]))

    def measure(self, parts: set[str]) -> dict[str, Any]:
        """The numbers of the parts that are wanted, but for those of `measure_more`."""
        full, hidden = self.numbers
        _, none = self.histories.none_run
        found: dict[str, Any] = {"none": none, "hidden": hidden, "full": full}
        if parts & {"block", "patch"}:
            found["windows"] = [[first + 1, end] for first, end in self.windows]
        jobs = [
            *(self.hidden_by_window() if "block" in parts else ()),
            *(self.hidden_by("turn", self.spans.turns) if "turn" in parts else ()),
        ]
        found |= self.target.done(jobs, self.known)
        if "route" in parts:
            found["routes"] = self.routes()
        if "attention" in parts:
            found |= self.looks()
        return found

    def measure_more(self, parts: set[str]) -> dict[str, Any]:
        """The other numbers of these parts, which take longer than they tell at every h."""
        halves = {"user": self.spans.users, "answer": self.spans.answers}
        jobs = [
            *(self.seen_by_window() if "block" in parts else ()),
            *(
                job
                for name, texts in halves.items()
                for job in self.hidden_by(name, texts)
                if "turn" in parts
            ),
        ]
        found = self.target.done(jobs, self.known)
        return found | (self.patched() if "patch" in parts else {})

    def hidden_by_window(self) -> Iterator[Job]:
        """The history hidden within each window of blocks."""
        for first, end in self.windows:
            row = self._hidden(self.spans.history, (first, end))
            yield Job("hidden_by_window", row, self.full, first)

    def seen_by_window(self) -> Iterator[Job]:
        """The history seen within each window only."""
        for first, end in self.windows:
            row = self._hidden(self.spans.history, (0, first), (end, self.tool.depth))
            yield Job("seen_by_window", row, self.cut, first)

    def hidden_by(self, name: str, ranges: Sequence[Range]) -> Iterator[Job]:
        """Each of some parts of the history hidden at all blocks."""
        for keys in ranges:
            yield Job(f"hidden_by_{name}", self._hidden(keys))

    def patched(self) -> dict[str, list[float]]:
        """States of the run without history put into the run with it, and the reverse."""
        none, target = self.histories.none, self.target
        parent, _ = self.histories.none_run
        into_full = patching("patched_target", self.full, parent, self.windows)
        into_none = patching("reverse_target", parent, self.full, self.windows)
        return {
            "patched_last": target.patched_last(self.full, parent),
            **target.done(list(into_full), {}),
            "reverse_last": none.patched_last(parent, self.full),
            **none.done(list(into_none), {}),
        }

    def routes(self) -> dict[str, float]:
        """The history hidden from the answer position; from the target's other tokens; from both.

        Of what the target's other tokens hold only the answer position is run again.
        """
        direct = Row((Hidden(self.spans.history, self.everywhere, from_target=False),))
        pasts = [parent.past.without_last() for parent in (self.full, self.cut)]
        cut_direct, cut_through = self.target.last_numbers([direct, NOTHING], pasts)
        return {"direct": cut_direct, "through_target": cut_through, "both": self.numbers[1]}

    def looks(self) -> dict[str, Any]:
        """Attention of the answer position by part: mean over heads, and of each head."""
        past, token = self.full.past.without_last(), self.target.asked.ids[-1]
        weights, _ = look(self.tool, token, past, past.length)
        found, flat = by_part(weights, self.spans), uniform(self.spans)
        if find_sinks(self.tool.runtime.model):
            found["sink"], flat["sink"] = 1 - weights.sum(-1), 0.0
        heads = {name: of_part.tolist() for name, of_part in in_three(found).items()}
        return {
            "attention": {name: of_part.mean(-1).tolist() for name, of_part in found.items()},
            "attention_by_head": heads,
            "attention_if_uniform": flat,
        }


def patching(name: str, into: Parent, donor: Parent, windows: Sequence[Range]) -> Iterator[Job]:
    """The donor's states put in at all aligned tokens of the target, after each window."""
    states = tuple(aligned(*of_block) for of_block in zip(into.states, donor.states))
    for _, end in windows:
        yield Job(name, parent=Parent(states, into.past), block=end)


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
