"""The neutral text: it tells of a valley, sets no task and asks nothing. No torch.

What it does in the place of a history is what reading as much does: its tokens for `--effects
position`, its words for `--history filler`.
"""

import random
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from core.errors import UserError

FILE = Path(__file__).with_name("filler.txt")  # written for this
FEWEST = 10  # sentences that are left without labels
SENTENCE = re.compile(r"(?<=\.)\s+")  # what stands between two

Said = tuple[str, str]  # user text and answer of a turn
Count = Callable[..., int]  # tokens of a conversation with that turn: of (user, answer)


@cache
def neutral_text() -> str:
    """The whole text."""
    return FILE.read_text(encoding="utf-8")


def neutral_turns(
    turns: Sequence[Said], count: Count, key: str, never: Collection[str] = ()
) -> list[Said]:
    """Turns of the neutral text with as many tokens as these: to within one each, and in all.

    The text begins at a sentence drawn by `key`, goes on from piece to piece and begins again at
    its end, so that fewer turns are the beginning of more. No piece is one letter or holds one of
    the labels `never` as a word, in whatever case; a label of one letter it may hold as an article.
    UserError where that leaves no text.
    """
    text = _text_without(frozenset(never))
    place = random.Random(f"filler/{key}").choice(text.sentences())
    found, owed = [], 0
    for user, answer in turns:
        goal = count(user, answer) + owed
        asked, place = text.cut(place, goal, partial(count, answer=answer))
        reply, place = text.cut(place, goal, partial(count, asked))
        found.append((asked, reply))
        owed = goal - count(asked, reply)
    return found


@cache
def _text_without(labels: frozenset[str]) -> "_Line":
    """The text without the sentences that hold one of these labels as a word."""
    words = sorted(re.escape(label.strip()) for label in labels if len(label.strip()) > 1)
    never = re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)" if words else "(?!)", re.IGNORECASE)
    sentences = [each for each in SENTENCE.split(neutral_text().strip()) if not never.search(each)]
    if len(sentences) < FEWEST:
        raise UserError(
            "--history filler: nearly every sentence of the neutral text holds a label of these "
            "tasks. Leave out filler."
        )
    # A space in place of each blank line: where that is several tokens, no piece of the text has a
    # length in between.
    return _Line(" ".join(" ".join(sentences).split()) + " ", never)


@dataclass(frozen=True)
class _Line:
    """A text on one line, with a space at its end, behind which it begins again."""

    text: str
    never: re.Pattern  # what no piece may hold

    def cut(self, place: int, goal: int, count: Count) -> tuple[str, int]:
        """The longest piece that fits from a place on, and where the next word begins.

        One that may not be shown is passed over.
        """
        for _ in self.text.split():
            piece = self._longest(place, goal, count)
            place = self._next_word(place + len(piece))
            if len(piece) > 1 and not self.never.search(piece):
                return piece, place
        raise UserError(
            "--history filler: no piece of text with as few tokens as an answer is more than a "
            "letter or other than a label.\nThis model reads letter by letter: leave out filler."
        )

    def _longest(self, place: int, goal: int, count: Count) -> str:
        """The longest piece from a place on with at most so many tokens; at least one letter."""
        above = 8
        while count(self._passage(place, above)) <= goal:
            above *= 2
        lengths = range(1, above)
        fitting = bisect_right(lengths, goal, key=lambda n: count(self._passage(place, n)))
        return self._passage(place, max(1, fitting))

    def _passage(self, place: int, length: int) -> str:
        """So many characters of the text from a place on, without space at their end."""
        times = 1 + (place + length) // len(self.text)
        return (self.text * times)[place : place + length].rstrip()

    def _next_word(self, place: int) -> int:
        place %= len(self.text)
        return (re.compile(r" \S").search(self.text * 2, place).end() - 1) % len(self.text)

    def sentences(self) -> list[int]:
        """Where sentences begin."""
        return [0, *(found.end() for found in re.finditer(r"\. (?=\S)", self.text))]
