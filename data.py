"""Rows of tasks as turns, and the histories drawn from them. Never imports torch.

One row becomes a turn: one user prompt, one reference answer. The same template renders a row
wherever it stands, in the history or as the target, so that the two can never differ in form.
A history is drawn from the distractor's rows, and under a mix from the target task's own rows too;
the h-turn history is the beginning of the longer ones.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from itertools import groupby, product
from typing import Any

from core.debug_log import Conversation, messages_at
from core.errors import UserError, is_text
from measures.intrusion import Switch
from measures.scoring import find_number
from tasks.answers import (
    References,
    RowError,
    as_name,
    each_row,
    read_labels,
    read_texts,
    same_form,
)
from tasks.cells import OPTIONS, Field, as_text, is_missing, option_lines, parse_field, reach
from tasks.kinds import AT, CHATS, PLAIN, TEACHER, Fits, Kind, roles
from tasks.sources import Table, read_table
from tasks.task import Task, TaskSpec


@dataclass(frozen=True)
class Turn:
    """One user prompt and its references: a history shows the first; () where none is known."""

    prompt: str
    references: References
    cluster: str | None = None  # what its row has in the task's cluster column
    line: int | None = None  # of the file, where it is a turn of a chat
    first: str | None = None  # its prompt in the task's first wording, where it has another

    @cached_property
    def question(self) -> str:
        """The prompt as prompts are compared: two normal forms of a text, or wordings, are one."""
        return same_form(self.first or self.prompt)


@dataclass(frozen=True)
class TaskRows:
    """The rows of one task and split, rendered as turns."""

    spec: TaskSpec
    turns: tuple[Turn, ...]
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False)  # of a file of chats

    @cached_property
    def chats(self) -> list[list[int]]:
        """Where rows are turns of chats: those of each, in the order of the file."""
        indices = range(len(self.turns))
        return [list(of) for _, of in groupby(indices, lambda index: self.turns[index].line)]

    @cached_property
    def questions(self) -> frozenset[str]:
        """The different prompts among the rows."""
        return frozenset(turn.question for turn in self.turns)

    @property
    def distinct(self) -> int:
        """Number of different prompts among the rows."""
        return len(self.questions)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with any prompt or reference: other data, or another template, is another run."""
        rows = [(turn.prompt, turn.references) for turn in self.turns]
        if self.spec.task.cluster is not None:
            rows = [(*row, turn.cluster) for row, turn in zip(rows, self.turns)]
        text = json.dumps(rows)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_rows(spec: TaskSpec, data_root: str | None = None) -> TaskRows:
    """Rows of a task as turns, in the order of the source: an index means the same row everywhere.

    `data_root` is a folder in the Hub's layout (`data_root/org/name`); without it the rows of the
    Hub's data sets come from the Hub or its cache. UserError for an unknown split or subject, for
    rows that do not have the task's form, and where the source cannot be reached.
    """
    task, table = spec.task, read_table(spec, data_root)
    if not table.rows:
        raise UserError(f"{task.place('source')}'{spec}' has no rows.")
    _check_columns(spec, table)
    chosen = _rows_of_subject(spec, table)
    references = _references(task, table)  # of all rows: they decide what a column holds
    turns = (_turn(task, table, number, references[number - 1]) for number in chosen)
    return TaskRows(spec, tuple(turns))


def _check_columns(spec: TaskSpec, table: Table) -> None:
    """UserError where the rows lack a column, except for the reference of a split without any."""
    there = dict.fromkeys(column for row in table.rows for column in row)
    needed = dict(spec.task.columns)
    if spec.split == spec.task.split:
        needed.setdefault(table.place_of(spec.task.reference).column, "reference")
    for column, key in needed.items():
        if column not in there:
            raise UserError(
                f"{spec.task.place(key)}the rows of '{spec}' have no column '{column}'. "
                f"They have: {', '.join(map(str, there))}."
            )


def _rows_of_subject(spec: TaskSpec, table: Table) -> list[int]:
    """The numbers, from 1, of the rows that the task is about."""
    task, numbers = spec.task, range(1, len(table.rows) + 1)
    if not spec.subject:
        return list(numbers)
    field = parse_field(task.subject, dots=True)
    subjects = [same_form(_read_at(task, table, n, field, as_text)) for n in numbers]
    found = [n for n, subject in zip(numbers, subjects) if subject == same_form(spec.subject)]
    if not found:
        raise UserError(
            f"'{spec.dataset}': no such subject in {task.name}/{spec.split}. "
            f"Known: {', '.join(sorted(set(subjects)))}."
        )
    return found


def _references(task: Task, table: Table) -> list[References]:
    """The references of every row; UserError, with its number, for one that cannot be read."""

    def check(text: str) -> None:
        if task.extract and find_number(text) is None:
            raise ValueError(f"there is no number in {text!r:.40}")

    field = table.place_of(task.reference)
    try:
        if task.labels:
            values = each_row(table.rows, lambda row: reach(row, field))
            return read_labels(values, task.labels, task.index_from, table.names(field))
        return read_texts(each_row(table.rows, lambda row: table.shown(row, field)), check)
    except RowError as error:
        raise UserError(
            f"{task.place('reference')}row {error.number} of '{task.name}', column "
            f"'{task.reference}': {error}."
        ) from error


def _turn(task: Task, table: Table, number: int, references: References) -> Turn:
    """A row, by its number from 1, as a turn."""

    def lines(value: Any) -> str:
        if isinstance(value, str) and not task.options:  # a column that happens to be called so
            return value
        return option_lines(value, task.labels, *references[:1])

    def filled(field: Field) -> str:
        if field == Field(OPTIONS):
            return _read_at(task, table, number, task.options_field, lines)
        return _read_at(task, table, number, field, as_text)

    prompt = "".join(literal + (filled(field) if field else "") for literal, field in task.parts)
    if not is_text(prompt):
        raise UserError(
            f"{task.place('prompt')}row {number} of '{task.name}' contains a lone "
            "surrogate, which is not valid text."
        )
    column = parse_field(task.cluster, dots=True) if task.cluster else None
    return Turn(prompt, references, column and _read_at(task, table, number, column, as_name))


def _read_at(
    task: Task, table: Table, number: int, field: Field, form: Callable[[Any], str]
) -> str:
    """What stands at a field of a row, in a form; UserError for null and for what has no such."""
    key = task.columns[field.column]
    where = f"{task.place(key)}row {number} of '{task.name}'"
    try:
        value = table.shown(table.rows[number - 1], field)
        if not is_missing(value):
            return form(value)
    except ValueError as error:
        raise UserError(f"{where} does not fit the {key}: '{field}' {error}.") from error
    raise UserError(f"{where} has no '{field}'.")


def target_order(count: int, seed: int, limit: int | None) -> list[int]:
    """Row indices of the targets: a seeded shuffle of all rows, then the first `limit`."""
    return list(_shuffled(count, f"targets/{seed}")[:limit])  # data sets come sorted by label


def draw_rows(
    rows: TaskRows, seed: int, number: int, asked: set[str], fitting: Iterable[Fits]
) -> Iterator[int]:
    """Indices of the rows that a history takes from a task, in the order of their drawing.

    The draw depends on the seed, the task, the number and what may be shown alone, so that every
    process and every target task gets the same one. Rows that ask what is in `asked` are passed
    over, and what they ask goes into it. A row's answer must fit its turn. Ends only where the
    caller does: there must be rows left.
    """
    rng = random.Random(f"history/{seed}/{rows.spec}/{number}")
    for fits in fitting:
        while True:
            index = rng.randrange(len(rows.turns))
            turn = rows.turns[index]
            if turn.question not in asked and fits(turn.references[0]):
                break
        asked.add(turn.question)
        yield index


@cache
def _shuffled(count: int, key: str) -> tuple[int, ...]:
    order = list(range(count))
    random.Random(key).shuffle(order)
    return tuple(order)


def shown_turns(rows: TaskRows, drawn: Sequence[int], kind: Kind, key: str) -> list[Turn]:
    """The turns of a history as its kind shows them; `key`, with the task, seeds what is drawn."""
    turns = [rows.turns[index] for index in drawn]
    others = rows.spec.task.labels or [turn.references[0] for turn in rows.turns]
    references = [turn.references for turn in turns]
    answers = kind.shown(references, others, f"{rows.spec}/{key}")
    return [replace(turn, references=(answer,)) for turn, answer in zip(turns, answers)]


def conversation(target: Turn, history: Sequence[Turn] = (), answered: bool = True) -> Conversation:
    """Chat messages: each history turn with its first reference, then the target's prompt.

    Without answers where they are not `answered`.
    """
    messages = []
    for turn in history:
        messages.append({"role": "user", "content": turn.prompt})
        if answered:
            messages.append({"role": "assistant", "content": turn.references[0]})
    return [*messages, {"role": "user", "content": target.prompt}]


@dataclass(frozen=True, eq=False)
class Pair:
    """One target task, one distractor task, and what a history of it shows."""

    target: TaskRows
    distractor: TaskRows
    kind: Kind = TEACHER
    wording: int = 1  # of both tasks' prompts

    def __str__(self) -> str:
        shown = "" if self.kind == TEACHER else f" ({self.kind})"
        shown += "" if self.wording == 1 else f" (wording {self.wording})"
        return f"{self.target.spec} after {self.distractor.spec}{shown}"

    def fitting(self, target: Turn, key: str) -> Iterator[Fits]:
        """Which answers the turns of a history before this target may have; `key` seeds them."""
        return self.kind.fitting(self.distractor.spec.task.labels, target.references[0], key)

    @cached_property
    def chats(self) -> list[list[int]]:
        """Of a file of chats as the distractor those that ask nothing that the target task asks."""
        rows, asked = self.distractor, self.target.questions
        return [of for of in rows.chats if asked.isdisjoint(rows.turns[i].question for i in of)]

    @cached_property
    def switch(self) -> Switch:
        """What tells an answer to the distractor from one to the target."""
        tasks = (self.target.spec.task, self.distractor.spec.task)
        return Switch.between(*(task.describe() for task in tasks))


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

    @property
    def distractor_labels(self) -> tuple[str, ...]:
        """Labels of the distractor that are none of the target's; () where it has none."""
        return self.pair.switch.others if self.labels else ()

    @cached_property
    def conversation(self) -> Conversation:
        """The longest conversation: all of the history, and the target's prompt."""
        answered = self.pair.kind.name != "user_only"
        return conversation(self.target, [past.turn for past in self.history], answered)

    def messages(self, h: int, cue: str | None = None) -> Conversation:
        """The conversation with a history of h turns; a cue stands before the target's prompt."""
        return messages_at(self.conversation, h, cue)


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
    shapes = {pair: roles(mix, max_len, pair.kind) for pair in pairs}
    plan = []
    for place in sorted(places, key=numbers.__getitem__):
        here = [(pair, order[place]) for pair, order in orders.items() if place < len(order)]
        number = numbers[place]
        plan.append(
            [
                Case(pair, idx, seed, number, _history(pair, idx, seed, number, shapes[pair]))
                for seed, (pair, idx) in product(seeds, here)
            ]
        )
    return plan


def _history(
    pair: Pair, target_idx: int, seed: int, number: int, shape: Sequence[str]
) -> tuple[HistoryTurn, ...]:
    """The turns of one history: no question twice, and none that the target asks."""
    tables = {"distractor": pair.distractor, "target": pair.target}
    target = pair.target.turns[target_idx]
    if pair.kind.name == CHATS:
        order = _shuffled(len(pair.chats), f"chats/{seed}/{pair.distractor.spec}")
        rows = pair.chats[order[number]][: len(shape)]  # of each number a chat of its own
        turns = pair.distractor.turns
        return tuple(HistoryTurn("distractor", idx, turns[idx]) for idx in rows)
    asked = {target.question}
    draws = {
        table: draw_rows(table, seed, number, asked, pair.fitting(target, f"{seed}/{number}"))
        for table in (pair.distractor, pair.target)
    }
    place = pair.kind.place  # its row is drawn first, so that every place has the same rows
    order = shape if place is None else sorted(shape)
    drawn = [(role, next(draws[tables[role]])) for role in order]
    if place is not None:
        drawn.insert(place - 1, drawn.pop(0))
    turns = [tables[role].turns[idx] for role, idx in drawn]
    if pair.kind.name not in (*PLAIN, AT):  # never with turns of the target task
        rows = [idx for _, idx in drawn]
        turns = shown_turns(pair.distractor, rows, pair.kind, f"{seed}/{number}")
    return tuple(HistoryTurn(*place, turn) for place, turn in zip(drawn, turns))


if __name__ == "__main__":
    from tasks import draft

    draft.main(load_rows)
