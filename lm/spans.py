"""Which tokens of a prompt are the system's, each turn's and the target's.

A conversation is rendered once more with every text replaced by a placeholder: what is left are the
marks of the template, and with the texts put back between them it must be the prompt again. So the
character at which each text and each turn begins is known and never searched for.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from core.debug_log import Message
from core.errors import UserError
from lm.prefix_tree import common_length
from lm.prompts import Prefix, Range
from lm.text import Renderer

PLACEHOLDER = "\ue000"  # of the private use area, so that no template takes it for anything
REFUSED = (
    "--effects: this model's chat template does not show where a turn begins ({why}).\n"
    "Use --prompt plain, or run without --effects."
)


@dataclass(frozen=True)
class Spans:
    """Token ranges of a prompt. Marks belong to the turn that they open or close.

    System, turns and target follow each other without a gap; users, answers and question are the
    texts inside them, without marks. Where turns have no answers, there are no ranges of answers.
    """

    system: Range
    turns: tuple[Range, ...]
    target: Range
    users: tuple[Range, ...]
    answers: tuple[Range, ...]
    question: Range
    across: int = 0  # tokens across a seam, which belong to the part behind it

    @property
    def history(self) -> Range:
        """All turns."""
        return self.system[1], self.target[0]

    def describe(self) -> dict[str, Any]:
        """The spans, for the debug log."""
        return {
            "system": list(self.system),
            "turns": list(map(list, self.turns)),
            "target": list(self.target),
            "users": list(map(list, self.users)),
            "answers": list(map(list, self.answers)),
            "question": list(self.question),
            "across_seams": self.across,
        }


def find_spans(renderer: Renderer, messages: Sequence[Message], ids: Prefix) -> Spans:
    """The spans of a conversation up to the target's answer, `ids` being its tokens.

    UserError where the template of the model does not show where a turn begins.
    """
    text = renderer.render(messages)
    marks = template_marks(renderer, messages)
    contents = texts_between(renderer, marks, messages, text)
    asks = [each["role"] == "user" for each in messages]  # turns may have no answers
    opening = find_opening(renderer, [mark for mark, user in zip(marks, asks) if user])
    ends = list(accumulate(map(len, [piece for pair in zip(marks, contents) for piece in pair])))
    texts = [(ends[2 * k], ends[2 * k + 1]) for k in range(len(contents))]  # characters
    begun = [start for (start, _), user in zip(texts, asks) if user]
    turns = [start - len(opening) for start in begun]  # where each one and the target begin
    seams = TokenSeams(renderer, text, ids)
    begins = [seams.index(character) for character in turns]
    ranges = [(seams.index(start), seams.index(end)) for start, end in texts]
    return Spans(
        system=(0, begins[0]),
        turns=tuple(pairwise(begins)),
        target=(begins[-1], len(ids)),
        users=tuple(span for span, user in zip(ranges[:-1], asks) if user),
        answers=tuple(span for span, user in zip(ranges, asks) if not user),
        question=ranges[-1],
        across=len(seams.crossed),
    )


def template_marks(renderer: Renderer, messages: Sequence[Message]) -> list[str]:
    """What the template puts before, between and behind the texts of a conversation."""
    marks = renderer.render([each | {"content": PLACEHOLDER} for each in messages])
    return marks.split(PLACEHOLDER)


def texts_between(
    renderer: Renderer, marks: Sequence[str], messages: Sequence[Message], text: str
) -> list[str]:
    """The texts as they stand between the marks: as they are, or without spaces at their ends."""
    shown = [renderer.escape(each["content"])[0] for each in messages]
    for contents in (shown, [content.strip() for content in shown]):
        pieces = [piece for pair in zip(marks, [*contents, ""]) for piece in pair]
        if len(marks) == len(contents) + 1 and "".join(pieces) == text:
            return contents
    raise UserError(REFUSED.format(why="it changes the texts that it is given"))


def find_opening(renderer: Renderer, marks: Sequence[str]) -> str:
    """The mark that opens every turn: `<|im_start|>user\\n`.

    It stands at the end of the marks before every user text, which are given. Before the first one
    the system's text precedes it, before the others what closes an answer, which is known from a
    conversation that ends there.
    """
    question = [{"role": "user", "content": PLACEHOLDER}]
    closing = renderer.render_answered(question, PLACEHOLDER).rpartition(PLACEHOLDER)[2]
    head, *gaps = marks
    found = {_opening(head, gap, closing) for gap in gaps}
    if len(found) > 1:
        raise UserError(REFUSED.format(why="turns are not opened alike"))
    return found.pop() if found else head


def _opening(head: str, gap: str, closing: str) -> str:
    behind = gap[common_length(gap, closing) :]
    opening = behind[len(behind) - common_length(head[::-1], behind[::-1]) :]
    if behind.removesuffix(opening).strip():  # space between turns goes with the one before it
        raise UserError(REFUSED.format(why="the first turn is opened otherwise than later ones"))
    return opening


class TokenSeams:
    """Finds the token of a text that a character begins with, and keeps what lies across."""

    def __init__(self, renderer: Renderer, text: str, ids: Prefix):
        self.renderer, self.text, self.ids = renderer, text, ids
        self.crossed: set[int] = set()
        self.ends: list[int] | None = None  # character behind each token, where the tokenizer says
        if renderer.tokenizer.is_fast:
            offsets = renderer.offsets(text)
            self.ends = list(accumulate((end for _, end in offsets), max))

    def index(self, character: int) -> int:
        """Number of tokens that lie wholly before a character of the text."""
        if self.ends is None:
            before = self.renderer.tokens(self.text[:character])
            index = common_length(before, self.ids)
            if index < len(before):
                self.crossed.add(index)
            return index
        index = bisect_right(self.ends, character)
        if (self.ends[index - 1] if index else 0) < character:
            self.crossed.add(index)
        return index
