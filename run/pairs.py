"""The pairs of a run, a target task and what its histories are made of, and whether their rows do.

Never imports torch.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import data
from core.errors import UserError
from data import Pair, TaskRows
from run.config import RunConfig
from run.histories import chat_rows, require_chats
from run.pair_settings import result_path
from tasks.kinds import CHATS, OF_LABELS, Kind, caseless, parse_kind, roles
from tasks.spec import builtin_tasks, parse_spec, read_tasks
from tasks.task import Task


def known_tasks(config: RunConfig) -> dict[str, Task]:
    """Built-in tasks and those of --task_file; with --max_new_tokens where that is given."""
    known = dict(builtin_tasks())
    if config.task_file is not None:
        known |= read_tasks(Path(config.task_file), taken=builtin_tasks())
    if config.max_new_tokens is None:
        return known
    limit = config.max_new_tokens
    return {name: replace(task, max_new_tokens=limit) for name, task in known.items()}


def load_pairs(config: RunConfig, pool: TaskRows | None = None) -> list[Pair]:
    """The grid of pairs, each data set loaded once; UserError for data that cannot be used.

    `pool`, or the chats of a file, takes the place of the distractors.
    """
    known, kinds = known_tasks(config), list(map(parse_kind, config.history))
    for kind in kinds:
        if kind.name == CHATS:
            pool = chat_rows(kind.argument, max(1, config.longest))
    names = config.target if pool else (*config.target, *config.distractor)
    specs = {text: parse_spec(text, known) for text in names}
    require_wordings([spec.task for spec in specs.values()], config.wording)
    rows = {spec: data.load_rows(spec, config.data_root) for spec in dict.fromkeys(specs.values())}
    for table in rows.values():
        require_references(table)

    wordings = {
        number: {spec: reworded(rows[spec], number, config.data_root) for spec in rows}
        for number in range(1, config.wording + 1)
    }

    def tables(names: Sequence[str], wording: int) -> list[TaskRows]:
        chosen = dict.fromkeys(specs[name] for name in names)
        return [wordings[wording][spec] for spec in chosen]

    pairs = [
        Pair(target, other, kind, wording)
        for wording in wordings
        for kind in kinds
        for target in tables(config.target, wording)
        for other in ([pool] if pool else tables(config.distractor, wording))
    ]
    for pair in pairs:
        require_rows(pair, config)
    require_different(pairs, config)
    return pairs


def require_wordings(tasks: Sequence[Task], count: int) -> None:
    """UserError for a task whose prompt has fewer wordings than `count`."""
    for task in tasks:
        there = len(task.wordings)
        if there < count:
            raise UserError(
                f"--wording {count}: task '{task.name}' has {there} "
                f"wording{'' if there == 1 else 's'} of its prompt (keys prompt and prompts)."
            )


def reworded(table: TaskRows, wording: int, data_root: str | None) -> TaskRows:
    """The same rows in another wording of their task's prompt."""
    if wording == 1:
        return table
    spec = replace(table.spec, task=table.spec.task.worded(wording))
    pairs = zip(data.load_rows(spec, data_root).turns, table.turns, strict=True)
    return TaskRows(spec, tuple(replace(turn, first=first.prompt) for turn, first in pairs))


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


def require_rows(pair: Pair, config: RunConfig) -> None:
    """UserError where a pair's tasks have too few different rows for its longest history, or a file
    too few chats.
    """
    if pair.kind.name == CHATS:
        return require_chats(pair, config)
    shape = roles(config.mix, config.longest, pair.kind)
    apart = pair.target.questions.isdisjoint(pair.distractor.questions)
    for role, table in (("distractor", pair.distractor), ("target", pair.target)):
        needed = shape.count(role)
        if needed and not apart:  # a row in both is shown once, in either role
            needed = len(shape)
        there = choices(pair.kind, table) if role == "distractor" else table.distinct
        if needed and there <= needed:
            which = "" if pair.kind.name not in OF_LABELS else f" for --history {pair.kind}"
            raise UserError(
                f"h = {config.longest}: '{table.spec}' has only {there} different rows{which}; a "
                f"history of {needed} of its turns needs at least {needed + 1}. Use a smaller h."
            )


def choices(kind: Kind, table: TaskRows) -> int:
    """Different rows that every history of a kind can be drawn from; UserError where it cannot be
    made of this task.
    """
    labels = table.spec.task.labels
    if kind.name == "wrong":
        require_wrong_answers(kind, table)
    if kind.name not in OF_LABELS:
        return table.distinct
    if not labels or kind.argument not in (None, *labels):
        known = f"It has {', '.join(labels)}." if labels else "It has none."
        raise UserError(f"--history {kind}: '{table.spec}' has no such labels. {known}")
    asked = {
        label: {turn.question for turn in table.turns if turn.references[0] == label}
        for label in labels
    }
    if kind.name == "balanced":
        return _choices_of_each(asked)
    count = {label: len(questions) for label, questions in asked.items()}
    if kind.name == "one_label":
        return count[kind.argument]
    return table.distinct - max(count.values())


def _choices_of_each(asked: Mapping[str, set[str]]) -> int:
    """Different rows that every history with all labels in turn can be drawn from.

    A question with several labels is no choice: shown for one of them it is gone for the others.
    The target may take one of any label.
    """
    labels_of = Counter(question for questions in asked.values() for question in questions)
    own = (sum(labels_of[each] == 1 for each in questions) for questions in asked.values())
    return max(0, (min(own) - 1) * len(asked) + 1)


def require_wrong_answers(kind: Kind, table: TaskRows) -> None:
    """UserError where a row's right answers, in whatever case, are all that the task has."""
    others = table.spec.task.labels or [turn.references[0] for turn in table.turns]
    every = set(map(caseless, others))
    if any(every <= set(map(caseless, turn.references)) for turn in table.turns):
        raise UserError(
            f"--history {kind}: '{table.spec}' has no wrong answer to some of its rows."
        )


def require_different(pairs: Sequence[Pair], config: RunConfig) -> None:
    """UserError where two pairs share a result file: `foo/bar_test` and `foo_bar/test`."""
    at: dict[Path, Pair] = {}
    for pair in pairs:
        path = result_path(config, pair)
        if at.setdefault(path, pair) is not pair:
            raise UserError(
                f"'{at[path]}' and '{pair}' would have the same result file, {path}.\n"
                "Use a different --out_dir for each."
            )
