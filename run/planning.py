"""The plan of a run: which pairs have no result yet, and which targets of them the model can hold.

Never imports torch; where a model is needed it is passed in.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import data
from core import log_files, records
from core.errors import UserError
from data import Case, Pair, Turn
from lm.interface import LocalModel, Model
from lm.prompts import Longest
from run.config import RunConfig
from run.journal import refuse_other_journals
from run.pair_settings import MAY_CHANGE, changed_settings, requested, result_path, told_by_task


class Plan(NamedTuple):
    """What a run asks of a model."""

    places: list[list[Case]]  # in the order of targets: the cases of each place there
    dropped: list[Case]  # that are too long for the model

    def cases(self, *pairs: Pair) -> list[Case]:
        """The cases of these pairs."""
        return [case for place in self.places for case in place if case.pair in pairs]


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
        kind, tasks = pair.kind.name, result["config"]["tasks"]
        found = result["config"] | told_by_task(tasks["distractor"], kind)
        wanted |= told_by_task(pair.distractor.spec.task.describe(), kind)
        changed = changed_settings(found, wanted)
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


def in_batches(places: Sequence[Sequence[Case]], size: int) -> list[list[Case]]:
    """All cases, at most `size` of them together, or all of one place.

    Those of a place stay together: h = 0 is then read once for all its distractors and seeds, and
    is the same number for all of them to the last digit.
    """
    batches: list[list[Case]] = [[]]
    for place in places:
        if len(batches[-1]) + len(place) > size:
            batches.append([])
        batches[-1] += place
    return [batch for batch in batches if batch]


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
