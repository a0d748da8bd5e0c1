"""The plan of a run: which pairs of tasks, which targets of them, and what the model can hold.

Never imports torch; where a model is needed it is passed in.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import data
from core import log_files, records
from core.errors import UserError
from core.schema import SCHEMA_VERSION
from data import Case, Pair, TaskRows, Turn
from lm.interface import LocalModel, Model
from lm.prompts import Longest
from run.config import MAY_CHANGE, NOT_SETTINGS, RunConfig, changed_settings
from run.effects import wanted_parts
from run.histories import chat_rows, require_chats
from run.journal import refuse_other_journals
from tasks.kinds import CHATS, OF_LABELS, Kind, caseless, parse_kind, roles
from tasks.spec import Task, builtin_tasks, parse_spec, read_tasks

# Of the settings that change no number
RECORDED = ("batch_size", "allow_pickle", "compress_logs", "device_map", "data_root", "task_file")


def requested(config: RunConfig, pair: Pair) -> dict[str, Any]:
    """The settings that decide a pair's numbers, as asked for (`auto` not yet resolved).

    `lengths` is null where every one up to `max_len` is run.
    """
    settings = {k: v for k, v in dataclasses.asdict(config).items() if k not in NOT_SETTINGS}
    for role, rows in (("target", pair.target), ("distractor", pair.distractor)):
        settings |= {role: str(rows.spec), f"{role}_rows": rows.fingerprint}
    if pair.wording > 1:
        settings["wording"] = pair.wording
    task, lengths = pair.target.spec.task, list(config.run_lengths)
    return settings | {
        "max_len": config.longest,
        "lengths": None if lengths == list(range(config.longest + 1)) else lengths,
        "served": config.served,
        "seed": list(config.seed),
        "effects": wanted_parts(config),
        "history": str(pair.kind),
        "target_metric": task.metric,
        "target_labels": list(task.labels),
        "target_cluster": task.cluster,
        "max_new_tokens": task.max_new_tokens,
    }


def describe_config(pair: Pair, config: RunConfig, lm: Model) -> dict[str, Any]:
    """Every resolved setting of a pair; `requested` holds what was asked for, such as `auto`."""
    target, distractor = pair.target.spec.task, pair.distractor.spec.task
    asked = requested(config, pair)
    return asked | {
        "requested": {name: asked[name] for name in ("prompt", "dtype", "engine")},
        **lm.describe(target.labels, target.max_new_tokens),
        "tasks": {"target": target.describe(), "distractor": distractor.describe()},
        **({"chats": dict(pair.distractor.facts)} if pair.distractor.facts else {}),
        **{name: getattr(config, name) for name in RECORDED},
    }


def measured(pair: Pair, config: RunConfig, lm: Model) -> dict[str, Any]:
    """The resolved settings that decide a pair's numbers, as its journal keeps them.

    Of chats those are the rows, wherever their file lies.
    """
    settings = describe_config(pair, config, lm)
    kept = {k: v for k, v in settings.items() if k not in {"requested", "chats", *MAY_CHANGE}}
    return kept | {"schema_version": SCHEMA_VERSION}


def result_path(config: RunConfig, pair: Pair) -> Path:
    """Where a pair's result goes: with several kinds of history into a folder for each, and of
    another wording than the first into one for that.
    """
    target, distractor = str(pair.target.spec), str(pair.distractor.spec)
    kind = str(pair.kind).replace("/", "_") if len(config.history) > 1 else ""
    wording = "" if pair.wording == 1 else f"wording_{pair.wording}"
    folder = Path(config.out_dir, wording, kind)
    return records.result_path(folder, config.model, target, distractor)


class Plan(NamedTuple):
    """What a run asks of a model."""

    places: list[list[Case]]  # in the order of targets: the cases of each place there
    dropped: list[Case]  # that are too long for the model

    def cases(self, *pairs: Pair) -> list[Case]:
        """The cases of these pairs."""
        return [case for place in self.places for case in place if case.pair in pairs]


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


def require_same_model(paths: Sequence[Path], config: RunConfig, lm: Model) -> None:
    """UserError where a result that is kept was made with other weights of the model."""
    if config.overwrite:
        return
    for path in paths:
        found = records.read_result(path)["config"].get("revision")
        if found not in (None, lm.revision):
            raise UserError(
                f"{path} was made with other weights of the model: revision {found!r} there, "
                f"{lm.revision!r} now.\nUse another --out_dir, or --overwrite to replace it."
            )


def unfinished(pairs: Sequence[Pair], config: RunConfig) -> list[Pair]:
    """The pairs without a result; UserError where one has a result or journal of other settings."""
    if config.overwrite:
        return list(pairs)
    there = [pair for pair in pairs if result_path(config, pair).exists()]
    for pair in there:
        result, wanted = records.read_result(result_path(config, pair)), requested(config, pair)
        if config.on_overflow == "skip" or not result.get("n_skipped"):
            del wanted["on_overflow"]  # the result is the same under both
        changed = changed_settings(result["config"], wanted)
        if changed:
            raise UserError(
                f"{result_path(config, pair)} was made with other settings: {'; '.join(changed)}.\n"
                "Use another --out_dir, or --overwrite to replace it."
            )
        path = result_path(config, pair)
        if records.find_log(path) is None:
            raise UserError(
                f"{records.debug_path(path)} is missing beside its result. Use --overwrite to make "
                "both again."
            )
        log_files.check_log(result | {"path": str(path)})
    waiting = [pair for pair in pairs if pair not in there]
    for pair in waiting:
        asked = requested(config, pair).items()
        wanted = {k: v for k, v in asked if k not in MAY_CHANGE and v != "auto"}
        refuse_other_journals(result_path(config, pair), wanted)
    return waiting


def make_plan(pairs: Sequence[Pair], lm: Model, config: RunConfig) -> Plan:
    """What is asked about these pairs; UserError where a prompt is too long for the model, or under
    `--on_overflow skip` where none is left of a pair.
    """
    places = data.plan_cases(
        pairs, config.longest, config.seed, config.limit, config.num_histories, config.mix
    )
    plan = drop_overflowing(places, lm, config)
    require_targets(plan, pairs, lm)
    return plan


def drop_overflowing(places: list[list[Case]], lm: Model, config: RunConfig) -> Plan:
    """The plan without the cases that are too long for the model; UserError under `stop`.

    A target that is too long under one seed goes under all of them.
    """
    longest = config.longest
    dropped = [case for cases in places for case in cases if _overflows(case, longest, config, lm)]
    if dropped and config.on_overflow == "stop":
        case = dropped[0]
        h = next(h for h in config.run_lengths if _overflows(case, h, config, lm))
        needed = lm.tokens_needed(_longest(case, h, config))
        raise UserError(
            f"{case.pair}, target {case.target_idx}, h = {h}: {needed} tokens, but the model's "
            f"context is {lm.context}. {len(dropped)} of {sum(map(len, places))} targets are too "
            "long.\nUse a smaller h, or --on_overflow skip to leave them out at every h."
        )
    gone = {(case.pair, case.target_idx) for case in dropped}
    return Plan(
        [[case for case in cases if (case.pair, case.target_idx) not in gone] for cases in places],
        dropped,
    )


def require_targets(plan: Plan, pairs: Sequence[Pair], lm: Model) -> None:
    """UserError for a pair of which no case is left."""
    left = {case.pair for place in plan.places for case in place}
    for pair in pairs:
        if pair not in left:
            raise UserError(
                f"{pair}: every target is too long for the model's context of {lm.context} tokens."
            )


def _overflows(case: Case, h: int, config: RunConfig, lm: LocalModel) -> bool:
    asked = _longest(case, h, config)
    return not lm.surely_fits(asked) and lm.tokens_needed(asked) > lm.context


def _longest(case: Case, h: int, config: RunConfig) -> Longest:
    """The longest conversation asked at h turns, and what is read behind it.

    Replies of the model's own are not known yet: each may be as long as its task allows. Until then
    one token stands in for each. A turn of neutral text may have a token more than the one here.
    """
    cue = config.switch_cue if h else None
    more = h if case.pair.kind.name == "filler" else 0
    if case.pair.kind.name == "model":
        tasks = {"target": case.task, "distractor": case.pair.distractor.spec.task}
        more = sum(tasks[past.role].max_new_tokens - 1 for past in case.history[:h])
        unknown = [replace(past, turn=Turn(past.turn.prompt, ("?",))) for past in case.history]
        case = replace(case, history=tuple(unknown))
    behind = case.labels or (case.target.references[:1] if config.sensitivity else ())
    most = config.answer_tokens(case.task)
    return Longest(case.messages(h, cue), behind, case.distractor_labels, most, more)
