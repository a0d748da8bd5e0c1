"""The kinds of history: what a history shows, made so that explanations of its effect come apart.

    teacher               the reference answers
    model, random         the model's own answers; text sampled from the model instead of a task
    wrong:P               each answer is replaced by a wrong one with probability P
    shuffled              answers change places with those of a neighbouring turn
    one_label:NAME        rows of one label only
    without_target_label  rows of any label but the target's own right one
    balanced              rows of all labels, as evenly as the length allows
    user_only             questions without answers
    filler                a neutral text, turn by turn as long as what `teacher` shows
    at:K                  turn K alone is of the distractor, all others of the target's own task
    chats:FILE            real conversations instead of a task

`one_label`, `without_target_label`, `balanced` and `at` choose among the rows, `random` and `chats`
take others; all other kinds have the rows of `teacher`.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from core.errors import UserError
from tasks.answers import same_form

AT, CHATS, RANDOM = "at", "chats", "random"
PLAIN = ("teacher", "model", RANDOM)
BARE = (*PLAIN, "shuffled", "without_target_label", "balanced", "user_only", "filler")
FORMS = (*BARE, "wrong:P", "one_label:NAME", "at:K", "chats:FILE")
REPLACING = (RANDOM, CHATS)  # the distractor
OF_LABELS = ("one_label", "without_target_label", "balanced")  # need a distractor with labels

Fits = Callable[[str], bool]  # may a row with this answer be shown?


@dataclass(frozen=True)
class Kind:
    """One kind of history, as the command line names it."""

    name: str
    argument: str | None = None

    def __str__(self) -> str:
        if self.argument is None or self.name == CHATS:  # not where a file lies
            return self.name
        return f"{self.name}:{self.argument}"

    @property
    def probability(self) -> float:
        """Of a wrong answer."""
        return float(self.argument)

    @property
    def place(self) -> int | None:
        """Of the one distractor turn, from 1; None for a kind that is not about it."""
        return int(self.argument) if self.name == AT else None

    def fitting(self, labels: Sequence[str], target: str, key: str) -> Iterator[Fits]:
        """Which answers may be shown at each turn; `target` is the right answer of the target.

        `key` seeds what is drawn.
        """
        if self.name == "one_label":
            yield from _always(lambda answer: answer == self.argument)
        elif self.name == "without_target_label":
            yield from _always(lambda answer: answer != target)
        elif self.name == "balanced":
            rng = random.Random(f"balanced/{key}")
            while True:
                for label in rng.sample(list(labels), len(labels)):
                    yield label.__eq__
        yield from _always(lambda answer: True)

    def shown(
        self, references: Sequence[Sequence[str]], others: Sequence[str], key: str
    ) -> list[str]:
        """The answers that a history shows for turns with these references, in order.

        A wrong answer is one of `others`. Each turn is drawn for itself, seeded by `key`, so that a
        shorter history is the beginning of a longer one.
        """
        answers = [known[0] for known in references]
        if self.name == "shuffled":
            return [answers[place] for place in neighbours(len(answers))]
        if self.name == "wrong":
            draws = [random.Random(f"wrong/{key}/{turn}") for turn in range(len(answers))]
            return [
                wrong_answer(known, others, rng) if rng.random() < self.probability else known[0]
                for known, rng in zip(references, draws)
            ]
        return answers


TEACHER = Kind("teacher")


def roles(mix: str, max_len: int, kind: Kind = TEACHER) -> tuple[str, ...]:
    """Which task each turn of the longest history is of, `distractor` or `target`.

    target_first and target_last put max_len // 2 target-task turns at the beginning or the end;
    interleaved takes turns, beginning with the distractor.
    """
    if kind.place is not None:
        return tuple("target" if k != kind.place else "distractor" for k in range(1, max_len + 1))
    half = max_len // 2
    if mix == "target_first":
        return ("target",) * half + ("distractor",) * (max_len - half)
    if mix == "target_last":
        return ("distractor",) * (max_len - half) + ("target",) * half
    second = "target" if mix == "interleaved" else "distractor"
    return tuple(second if k % 2 else "distractor" for k in range(max_len))


def _always(fits: Fits) -> Iterator[Fits]:
    while True:
        yield fits


def wrong_answer(known: Sequence[str], others: Sequence[str], rng: random.Random) -> str:
    """One of the others that is none of the known right answers, in whatever case; there must be
    one.
    """
    right = set(map(caseless, known))
    while True:
        found = rng.choice(others)
        if caseless(found) not in right:
            return found


def caseless(answer: str) -> str:
    """An answer as a wrong one is told from a right one."""
    return same_form(answer).lower()


def neighbours(count: int) -> list[int]:
    """For each turn another turn whose answer it shows: two change places, the last three rotate.

    Every even number of turns shows the same answers as before, in other places.
    """
    places = [turn ^ 1 for turn in range(count - count % 2)]
    if count % 2 and count > 1:
        places[-2:] = [count - 2, count - 1]
        return [*places, count - 3]
    return [*places, *range(len(places), count)]


def parse_kind(text: str) -> Kind:
    """`name` or `name:argument` as a Kind; UserError for any other text."""
    name, colon, argument = text.partition(":")
    if not colon and name in BARE:
        return Kind(name)
    if name in ("one_label", CHATS) and argument:
        return Kind(name, argument)
    if name == "wrong" and _is_share(argument):
        return Kind(name, f"{abs(float(argument))}".removesuffix(".0"))  # 0.5 and 0.50 are one
    if name == AT and re.fullmatch("[1-9][0-9]{0,8}", argument):
        return Kind(name, argument)
    raise UserError(f"--history {text}: there is no such kind. Known: {', '.join(FORMS)}.")


def _is_share(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False
