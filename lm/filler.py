"""The neutral text: it tells of a valley, sets no task and asks nothing. No torch.

What it does in the place of a history is what reading as much does: its tokens for `--effects
position`, its words for `--history filler`.
"""

import random
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from functools import cache, partial
from pathlib import Path

from core.errors import UserError

FILE = Path(__file__).with_name("filler.txt")  # written for this

Said = tuple[str, str]  # user text and answer of a turn
Count = Callable[..., int]  # tokens of a conversation with that turn: of (user, answer)


@cache
def neutral_text() -> str:
    """The whole text."""
    return FILE.read_text(encoding="utf-8")


@cache
def _one_line() -> str:
    """The whole text with a space in place of each blank line, and at its end: where a blank line
    is several tokens, no piece of the text has a length in between.
    """
    return " ".join(neutral_text().split()) + " "


def neutral_turns(
    turns: Sequence[Said], count: Count, key: str, never: Collection[str] = ()
) -> list[Said]:
    """Turns of the neutral text with as many tokens as these: to within one each, and in all.

    The text begins at a sentence drawn by `key`, goes on from piece to piece and begins again at
    its end, so that fewer turns are the beginning of more. No piece is one letter or one of
    `never`, which are lower-case.
    """
    place = random.Random(f"filler/{key}").choice(_sentences())
    found, owed = [], 0
    for user, answer in turns:
        goal = count(user, answer) + owed
        asked, place = _cut(place, goal, partial(count, answer=answer), never)
        reply, place = _cut(place, goal, partial(count, asked), never)
        found.append((asked, reply))
        owed = goal - count(asked, reply)
    return found


def _cut(place: int, goal: int, count: Count, never: Collection[str]) -> tuple[str, int]:
    """The longest piece that fits from a place on, and where the next word begins.

    One that may not be shown is passed over.
    """
    for _ in _one_line().split():
        piece = _longest(place, goal, count)
        place = _next_word(place + len(piece))
        if len(piece) > 1 and piece.lower() not in never:
            return piece, place
    raise UserError(
        "--history filler: no piece of text with as few tokens as an answer is more than a letter "
        "or other than a label.\nThis model reads letter by letter: leave out filler."
    )


def _longest(place: int, goal: int, count: Count) -> str:
    """The longest piece from a place on with at most so many tokens; at least one letter."""
    above = 8
    while count(_passage(place, above)) <= goal:
        above *= 2
    lengths = range(1, above)
    fitting = bisect_right(lengths, goal, key=lambda length: count(_passage(place, length)))
    return _passage(place, max(1, fitting))


def _passage(place: int, length: int) -> str:
    """So many characters of the text from a place on, without space at their end."""
    text = _one_line()
    return (text * (1 + (place + length) // len(text)))[place : place + length].rstrip()


def _next_word(place: int) -> int:
    text = _one_line()
    return (re.compile(r" \S").search(text * 2, place % len(text)).end() - 1) % len(text)


@cache
def _sentences() -> list[int]:
    """Where sentences begin."""
    return [0, *(found.end() for found in re.finditer(r"\. (?=\S)", _one_line()))]
