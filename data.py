"""Rows of tasks as turns, and the histories drawn from them. Never imports torch.

One row becomes a turn: one user prompt, one reference answer. The same template renders a row
wherever it stands, in the history or as the target, so that the two can never differ in form.
A history is drawn from the distractor's rows, and under a mix from the target task's own rows too;
the h-turn history is the beginning of the longer ones.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any

from core.errors import UserError, is_text
from lm.prompts import Message
from measures.scoring import find_number
from tasks.sources import Row, read_rows
from tasks.spec import Task, TaskSpec


@dataclass(frozen=True)
class Turn:
    """One user prompt and its references: a history shows the first; () where none is known."""

    prompt: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class TaskRows:
    """The rows of one task and split, rendered as turns."""

    spec: TaskSpec
    turns: tuple[Turn, ...]

    @cached_property
    def distinct(self) -> int:
        """Number of different prompts among the rows."""
        return len({turn.prompt for turn in self.turns})

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any prompt or reference: other data, or another template, is another run."""
        text = json.dumps([(turn.prompt, turn.references) for turn in self.turns])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_rows(spec: TaskSpec, data_root: str | None = None) -> TaskRows:
    """Rows of a task as turns, in the order of the source: an index means the same row everywhere.

    `data_root` is a folder in the Hub's layout (`data_root/org/name`); without it the rows of the
    Hub's data sets come from the Hub or its cache. UserError for an unknown split or subject, for
    rows that do not have the task's form, and where the source cannot be reached.
    """
    task = spec.task
    rows = read_rows(spec, data_root)
    if not rows:
        raise UserError(f"{task.place('source')}'{spec}' has no rows.")
    _check_columns(spec, rows[0])
    if spec.subject:
        subjects = sorted({str(row.get(task.subject)) for row in rows})
        rows = [row for row in rows if str(row.get(task.subject)) == spec.subject]
        if not rows:
            raise UserError(
                f"'{spec.dataset}': no such subject in {task.name}/{spec.split}. "
                f"Known: {', '.join(subjects)}."
            )
    return TaskRows(spec, tuple(_turn(task, row, number) for number, row in enumerate(rows, 1)))


def _check_columns(spec: TaskSpec, row: Row) -> None:
    """UserError where the rows lack a column, except for the reference of a split without any."""
    needed = dict(spec.task.columns)
    if spec.split == spec.task.split:
        needed.setdefault(spec.task.reference, "reference")
    for column, key in needed.items():
        if column not in row:
            raise UserError(
                f"{spec.task.place(key)}the rows of '{spec}' have no column '{column}'. "
                f"They have: {', '.join(map(str, row))}."
            )


def _turn(task: Task, row: Row, number: int) -> Turn:
    """A row as a turn; its number, from 1, is for messages."""
    empty = [column for column in task.columns if _is_missing(row.get(column))]
    if empty:
        raise UserError(f"{task.place('prompt')}row {number} of '{task.name}' has no '{empty[0]}'.")
    try:
        prompt = task.prompt.format_map(row)
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(
            f"{task.place('prompt')}row {number} of '{task.name}' does not fit the prompt "
            f"({error!r:.60})."
        ) from error
    if not is_text(prompt):
        raise UserError(
            f"{task.place('prompt')}row {number} of '{task.name}' holds half a character "
            "(a lone surrogate)."
        )
    try:
        return Turn(prompt, (_label if task.labels else _texts)(task, row.get(task.reference)))
    except ValueError as error:
        raise UserError(
            f"{task.place('reference')}row {number} of '{task.name}', column '{task.reference}': "
            f"{error}."
        ) from error


def _is_missing(value: Any) -> bool:
    """True for null, and for the NaN that stands for it in tables."""
    return value is None or (isinstance(value, float) and value != value)


def _label(task: Task, value: Any) -> tuple[str, ...]:
    """The label that a column names by its text or its index; () for none: empty, null or -1.

    Where the labels are whole numbers themselves an index could be either, so texts alone count.
    """
    labels, text = task.labels, str(value).strip()
    if text in labels:
        return (text,)
    if _is_missing(value) or text in ("", "-1"):
        return ()
    known, indices = ", ".join(labels), dict(zip(map(str, range(len(labels))), labels))
    if any(label.lstrip("-").isdecimal() for label in labels):
        indices = {}
    else:
        known += f" or an index 0 to {len(labels) - 1}"
    index = str(int(value)) if isinstance(value, bool) else text
    if index not in indices:
        raise ValueError(f"{value!r:.40} is none of {known}")
    return (indices[index],)


def _texts(task: Task, value: Any) -> tuple[str, ...]:
    """The references in a column: a text, a number or a list of texts; () where none is known."""
    found = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, str | int | float | None) or isinstance(item, bool):
            raise ValueError(f"{item!r:.40} is neither a text nor a list of texts")
        text = "" if _is_missing(item) else str(item).strip()
        if not is_text(text):
            raise ValueError("there is half a character (a lone surrogate)")
        if text and task.extract and find_number(text) is None:
            raise ValueError(f"there is no number in {text!r:.40}")
        found += [text] if text else []
    return tuple(found)


def require_references(rows: TaskRows) -> None:
    """UserError unless every row has a reference, to be scored by or shown as an answer."""
    missing = sum(not turn.references for turn in rows.turns)
    if missing:
        spec, task = rows.spec, rows.spec.task
        advice = f"Use a split with references, such as {spec.dataset}/{task.split}."
        if spec.split == task.split:
            advice = f"References are in column '{task.reference}'."
        raise UserError(
            f"'{spec}' has no reference answer in {missing} of {len(rows.turns)} rows. {advice}"
        )


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
class HistoryTurn:
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
    history: tuple[HistoryTurn, ...]

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
) -> tuple[HistoryTurn, ...]:
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
    return tuple(HistoryTurn(role, idx, tables[role].turns[idx]) for role, idx in found)
