"""The result files of a run, written from its journals when all target examples are finished."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from core import log_files, records
from core.debug_log import Example
from core.errors import UserError
from core.schema import SCHEMA_VERSION
from data import Pair
from lm.interface import Model
from measures import metrics
from run.config import RunConfig
from run.journal import CaseKey, Finished, Journal, remove_journals
from run.pair_settings import describe_config, result_path
from run.planning import Plan


def write_results(
    plan: Plan,
    journals: Mapping[Pair, Journal],
    config: RunConfig,
    lm: Model,
    environment: dict[str, Any],
) -> None:
    """Write the results of all journals, then delete the journals.

    UserError at the end for pairs of which no target fits into memory.
    """
    empty = []
    for pair, journal in journals.items():
        cases = plan.cases(pair)
        kept = journal.read_all([case.key for case in cases])
        gone = {target_idx for target_idx, _ in kept.skipped}  # under one seed, so under all
        keys = [case.key for case in cases if case.target_idx not in gone]
        if not keys:
            empty.append(pair)
            continue
        skipped = sorted(gone.union(case.target_idx for case in plan.dropped if case.pair is pair))
        counts = {"n_skipped": len(skipped), "skipped_target_idx": skipped}
        made = {"config": describe_config(pair, config, lm), "environment": environment}
        write_pair(result_path(config, pair), identity(pair, config), kept, keys, counts | made)
    for pair in journals:
        if pair not in empty:
            remove_journals(result_path(config, pair))
    if empty:
        names = ", ".join(map(str, empty))
        raise UserError(
            f"not even one target fits into memory for: {names}.\n"
            "Use a smaller h or --dtype bfloat16. All other results are written."
        )


def identity(pair: Pair, config: RunConfig) -> dict[str, Any]:
    """What both files of a pair begin with."""
    return {
        "schema_version": SCHEMA_VERSION,
        "model": records.model_name(config.model),
        "target": str(pair.target.spec),
        "distractor": str(pair.distractor.spec),
        "metric_name": pair.target.spec.task.metric,
    }


def write_pair(
    path: Path,
    named: dict[str, Any],
    kept: Finished,
    keys: Sequence[CaseKey],
    made: dict[str, Any],
) -> None:
    """Write the debug log of some target examples and then its result, so that no result is without
    its log; a prompt at a time.
    """
    collected, aggregates = metrics.Examples(), {}

    def examples() -> Iterator[Example]:
        for place, key in enumerate(keys):
            for example in kept.examples[key]:
                collected.add(example)
                yield example | {"conversation": place}
        rounding = made["environment"].get("rounding")
        aggregates.update(metrics.aggregate_examples(collected, named["metric_name"], rounding))

    conversations = (kept.conversations[key] for key in keys)
    log = named | {"conversations": conversations, "debug_examples": examples()}
    compressed = made["config"]["compress_logs"]
    digest = log_files.write_log(records.debug_path(path, compressed), log)
    records.write_json(path, named | aggregates | made | {records.DIGEST_OF_LOG: digest})
