"""Histories and the plan of a run: which turns stand before which target. Never imports torch.

A history is drawn from the distractor's rows, and under a mix from the target task's own rows too.
The h-turn history is the beginning of the longer ones.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from data import TaskRows, Turn
from tasks import Task

# {"role": "user" | "assistant", "content": text}, as chat templates take it
Message = dict[str, str]

MIXES = ("distractor", "target_first", "target_last", "interleaved")
KINDS = ("teacher", "model", "random")  # whose answers a history shows, or what it holds


def target_order(count: int, seed: int, limit: int | None) -> list[int]:
    """Row indices of the targets: a seeded shuffle of all rows, then the first `limit`."""
    order = list(range(count))  # data sets come sorted by label
    random.Random(f"targets/{seed}").shuffle(order)
    return order[:limit]


def roles(mix: str, max_len: int) -> tuple[str, ...]:
    """Which task each turn of the longest history is of, `distractor` or `target`.

    target_first and target_last put max_len // 2 target-task turns at the beginning or the end;
    interleaved takes turns, beginning with the distractor.
    """
    half = max_len // 2
    if mix == "target_first":
        return ("target",) * half + ("distractor",) * (max_len - half)
    if mix == "target_last":
        return ("distractor",) * (max_len - half) + ("target",) * half
    second = "target" if mix == "interleaved" else "distractor"
    return tuple(second if k % 2 else "distractor" for k in range(max_len))


def draw_history(
    rows: TaskRows, target: Turn, max_len: int, seed: int, number: int
) -> tuple[int, ...]:
    """Indices of the `max_len` rows that a history takes from a task, in their order.

    The draw depends on the seed, the task and the number alone, so that every process and
    every target task gets the same one. Rows that ask what the target asks are passed over,
    wherever they come from. Needs `rows.distinct > max_len`.
    """
    rng = random.Random(f"history/{seed}/{rows.spec}/{number}")
    chosen: dict[int, None] = {}  # a dict keeps the order of drawing
    prompts = {target.prompt}
    while len(chosen) < max_len:
        index = rng.randrange(len(rows.turns))
        prompt = rows.turns[index].prompt
        if prompt not in prompts:
            prompts.add(prompt)
            chosen[index] = None
    return tuple(chosen)


def conversation(target: Turn, history: Sequence[Turn] = ()) -> list[Message]:
    """Chat messages: each history turn with its first reference, then the target's prompt."""
    messages = []
    for turn in history:
        messages += [
            {"role": "user", "content": turn.prompt},
            {"role": "assistant", "content": turn.references[0]},
        ]
    return [*messages, {"role": "user", "content": target.prompt}]


@dataclass(frozen=True, eq=False)
class Pair:
    """One target task and one distractor task."""

    target: TaskRows
    distractor: TaskRows

    def __str__(self) -> str:
        return f"{self.target.spec} after {self.distractor.spec}"


@dataclass(frozen=True)
class Past:
    """One turn of a history: its task's role in the pair, its row there, and what it shows."""

    role: str  # distractor or target
    idx: int
    turn: Turn


@dataclass(frozen=True, eq=False)
class Case:
    """One target example of a pair with its longest history; h turns are the first h of it."""

    pair: Pair
    target_idx: int
    seed: int  # of the history
    history_number: int  # cases of the same number and seed share their history
    history: tuple[Past, ...]

    @property
    def key(self) -> tuple[int, int]:
        """What tells it from the other cases of its pair: the target's row, and the seed."""
        return self.target_idx, self.seed

    @property
    def history_idx(self) -> tuple[int, ...]:
        """Row of each turn of the history, in its own task."""
        return tuple(past.idx for past in self.history)

    @property
    def target(self) -> Turn:
        """The turn that is scored."""
        return self.pair.target.turns[self.target_idx]

    @property
    def task(self) -> Task:
        """The target task."""
        return self.pair.target.spec.task

    @property
    def labels(self) -> tuple[str, ...]:
        """The target task's labels; () for a generation task."""
        return self.task.labels

    def messages(self, h: int, cue: str | None = None) -> list[Message]:
        """The conversation with a history of h turns; a cue stands before the target's prompt."""
        target = self.target if cue is None else Turn(f"{cue}\n{self.target.prompt}", ())
        return conversation(target, [past.turn for past in self.history[:h]])


def plan_cases(
    pairs: Sequence[Pair],
    max_len: int,
    seeds: Sequence[int],
    limit: int | None = None,
    num_histories: int | None = None,
    mix: str = "distractor",
) -> list[list[Case]]:
    """For each place in the order of targets, a case per seed and pair that has a target there.

    The first seed chooses the targets, every seed draws histories for them. A history belongs to
    the place, not to the target's row: all pairs of a distractor share it. With `num_histories`
    place i takes history i mod num_histories, and such places come together.
    """
    orders = {pair: target_order(len(pair.target.turns), seeds[0], limit) for pair in pairs}
    places = range(max(map(len, orders.values())))
    numbers = {place: place % (num_histories or len(places)) for place in places}
    shape = roles(mix, max_len)
    plan = []
    for place in sorted(places, key=numbers.__getitem__):
        here = [(pair, order[place]) for pair, order in orders.items() if place < len(order)]
        number = numbers[place]
        plan.append(
            [
                Case(pair, idx, seed, number, _history(pair, idx, seed, number, shape))
                for seed, (pair, idx) in product(seeds, here)
            ]
        )
    return plan


def _history(
    pair: Pair, target_idx: int, seed: int, number: int, shape: Sequence[str]
) -> tuple[Past, ...]:
    """The turns of one history; where both roles are one task they are drawn together."""
    tables = {"distractor": pair.distractor, "target": pair.target}
    target = pair.target.turns[target_idx]
    if pair.target is pair.distractor:
        one = iter(draw_history(pair.target, target, len(shape), seed, number))
        drawn = {"distractor": one, "target": one}
    else:
        drawn = {
            role: iter(draw_history(rows, target, shape.count(role), seed, number))
            for role, rows in tables.items()
        }
    found = ((role, next(drawn[role])) for role in shape)
    return tuple(Past(role, idx, tables[role].turns[idx]) for role, idx in found)
