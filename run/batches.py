"""Target examples that are run together, and what is done where they do not fit into memory."""

import sys
from collections.abc import Mapping, Sequence

from core.errors import OutOfMemory, UserError
from data import Case, Pair
from lm.interface import Model
from run.config import RunConfig
from run.examples import Query, run_cases
from run.histories import Advance
from run.journal import Entry, Finished, example_entry, skipped_entry


def run_batch(
    batch: Sequence[Case],
    kept: Mapping[Pair, Finished],
    config: RunConfig,
    lm: Model,
    advance: Advance,
) -> dict[Pair, list[Entry]]:
    """Run some cases together; returns the entries that the journals lack."""
    budget = lm.token_budget
    cases = [case for case in batch if case.key not in kept[case.pair].skipped]
    queries, skipped = fitting(cases, kept, config, lm, advance)
    entries: dict[Pair, list[Entry]] = {}
    for query in queries:
        case = query.case
        if case.key not in kept[case.pair]:
            conversation = query.conversation if query.h == config.longest else None
            entry = example_entry(query.example, conversation)
            entries.setdefault(case.pair, []).append(entry)
    for case, reason in skipped.items():
        entries.setdefault(case.pair, []).append(skipped_entry(case.key, reason))
    if lm.token_budget < budget:  # a run that goes on need not find that out again
        for lines in entries.values():
            lines.append({"token_budget": lm.token_budget})
    return entries


def fitting(
    cases: Sequence[Case],
    kept: Mapping[Pair, Finished],
    config: RunConfig,
    lm: Model,
    advance: Advance,
) -> tuple[list[Query], dict[Case, str]]:
    """The queries of cases, and the cases with a prompt that does not fit into memory even alone.

    UserError for the first such case, unless --on_overflow is skip.
    """
    try:
        return run_cases(cases, config, lm, advance), {}
    except OutOfMemory as error:
        reason = str(error)
    lm.release_memory()  # behind the except: the error holds on to what the failed forward held
    if len(cases) > 1:
        missing = [case for case in cases if case.key not in kept[case.pair]]
        middle = len(missing) // 2  # 0 where one is missing: that is tried by itself
        halves = [half for half in (missing[:middle], missing[middle:]) if half]
        parts = [fitting(half, kept, config, lm, advance) for half in halves]
        found = [query for queries, _ in parts for query in queries]
        return found, {case: why for _, gone in parts for case, why in gone.items()}
    [case] = cases
    where = f"{case.pair}, target {case.target_idx}, seed {case.seed}: {reason}"
    if config.on_overflow == "stop":
        raise UserError(
            f"{where}. Use a smaller h,\n--dtype bfloat16, or --on_overflow skip to "
            "leave out such targets at every h. What was finished is kept."
        )
    print(f"{where}; skipped", file=sys.stderr)
    return [], {case: reason}
