"""Measure a causal LM on a target task after a history of distractor turns, layer by layer.

    python experiment.py    # the bundled model on the embedded tasks, about two minutes on a laptop
    python experiment.py --model Qwen/Qwen2.5-0.5B-Instruct --target mmlu --distractor tweetqa

Several targets and distractors make a grid of pairs, run in one process with the model loaded once.
Paper: Gupta et al., LLM Task Interference, EMNLP 2024, arXiv 2402.18216.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import compress
from operator import not_
from pathlib import Path
from typing import Any

import data
from core import log_files, records
from core.debug_log import Example
from core.errors import OutOfMemory, Terminated, UserError
from core.provenance import provenance
from core.schema import SCHEMA_VERSION
from core.terminal import escape_unprintable, restart_in_utf_8
from data import Case, Pair
from lm.interface import Model
from measures import metrics
from run import dry_run
from run.config import RunConfig, check_settings, parse_args
from run.effects import say_left_out
from run.examples import Query, reads_of, run_cases, work_in
from run.histories import describe_chats, random_rows
from run.journal import (
    CaseKey,
    Entry,
    Finished,
    Journal,
    claimed,
    example_entry,
    remove_journals,
    skipped_entry,
)
from run.planning import (
    describe_config,
    drop_overflowing,
    in_batches,
    load_pairs,
    measured,
    require_different,
    require_same_model,
    require_targets,
    result_path,
    unfinished,
)
from run.progress import Progress, print_table, what_is_kept
from run.team import Team, joined, rank_here
from tasks.kinds import RANDOM


def run(config: RunConfig) -> list[Path]:
    """Run what is missing of the grid and write it; returns the result files of the whole grid."""
    check_settings(config)
    with (
        joined(config.device, config.device_map) as team,
        claimed(config.out_dir) if team.is_first else nullcontext(),
    ):
        return run_share(config, team)


def run_share(config: RunConfig, team: Team) -> list[Path]:
    """This process's share of the run; the first process writes the results."""
    started = time.time()
    lm = pool = None
    if RANDOM in config.history:  # the model has to be there before the pairs are
        lm = _load(config)
        pool = random_rows(lm, config.longest, config.seed[0], config.max_new_tokens)
    with team.first_alone():  # what is wrong is said once
        pairs = load_pairs(config, pool)
        paths = [result_path(config, pair) for pair in pairs]
        require_different(pairs, paths)
        waiting = unfinished(pairs, config)
        for pair in waiting:
            records.check_writable(result_path(config, pair).parent, make=False)
        for pair in pairs:
            if team.is_first and pair not in waiting:  # left by a run that was killed at its end
                remove_journals(result_path(config, pair))
    if not waiting:
        if team.is_first:
            print("All results exist already, with the same settings. --overwrite runs them again.")
        return paths
    lm = lm or _load(config)
    if team.is_first:
        say_left_out(config, lm)
        for line in describe_chats(waiting):
            print(line, file=sys.stderr)
    require_same_model([path for path in paths if path.exists()], config, lm)
    settings = (config.longest, config.seed, config.limit, config.num_histories, config.mix)
    plan = data.plan_cases(waiting, *settings)
    plan, dropped = drop_overflowing(plan, lm, config)
    require_targets(plan, waiting, lm)
    journals = {
        pair: Journal(
            result_path(config, pair), measured(pair, config, lm), config.run_lengths, team.rank
        )
        for pair in waiting
    }
    run_plan(plan, journals, config, lm, team)
    if team.is_first:
        environment = provenance(started) | lm.facts() | {"processes": team.size}
        finish(plan, dropped, journals, config, lm, environment)
    return paths


def _load(config: RunConfig) -> Model:
    if sys.stderr.isatty() and not config.quiet and rank_here() == 0:
        print(f"Loading {config.model} ...", file=sys.stderr)
    if config.served:
        from lm.server import connect

        return connect(
            config.server,
            config.model,
            form=config.prompt,
            scoring=config.scoring,
            concurrency=config.concurrency,
            max_tokens_total=config.max_tokens_total,
            quiet=config.quiet,
        )
    from model import load_model

    return load_model(
        config.model,
        dtype=config.dtype,
        device=config.device,
        prompt_form=config.prompt,
        device_map=config.device_map,
        lens=None if config.no_cosine else config.lens,
        agree=config.agree,
        engine=config.engine,
        adapter=config.adapter,
        open_thought=config.open_thought,
        trust_remote_code=config.trust_remote_code,
        recheck=config.recheck,
        allow_pickle=config.allow_pickle,
    )


def run_plan(
    plan: Sequence[Sequence[Case]],
    journals: Mapping[Pair, Journal],
    config: RunConfig,
    lm: Model,
    team: Team,
) -> None:
    """Run what is not in the journals yet, a batch of target examples at a time.

    A batch that lacks anything is run whole: the same prompts together give the same numbers to
    the last digit, at any time and in any process.
    """
    kept = read_journals(journals, config, team)
    budgets = [held.token_budget for held in kept.values() if held.token_budget]
    lm.token_budget = min([lm.token_budget, *budgets])
    batches = in_batches(plan, config.batch_size)
    lacking = [any(case.key not in kept[case.pair] for case in batch) for batch in batches]
    share = team.share(list(compress(batches, lacking)))
    done = work_in(compress(batches, map(not_, lacking)), config)
    quiet = config.quiet or not team.is_first
    meters = (lambda: lm.tokens_read, lambda: lm.peak_memory_mib)
    with Progress(work_in(share, config), done, *meters, quiet) as progress:
        for pair, held in kept.items():
            for scores in held.scores.values():
                for h, score in zip(config.run_lengths, scores):
                    progress.count(str(pair.target.spec), h, score)
        for batch in share:
            reads = sum(reads_of(case, config) for case in batch)
            progress.begin(work_in([batch], config), reads)
            for pair, entries in run_batch(batch, kept, config, lm, progress.advance).items():
                journals[pair].append(entries)
                for example in (entry["example"] for entry in entries if "example" in entry):
                    h = example["config"]["history_len"]
                    progress.count(str(pair.target.spec), h, example["score"])
            progress.finish()
    if share and team.is_first and not config.served:
        dry_run.keep_speed(config, lm, progress.speed())
    team.wait()


def read_journals(
    journals: Mapping[Pair, Journal], config: RunConfig, team: Team
) -> dict[Pair, Finished]:
    """What is finished of each pair. All processes read before any appends, so all get the same."""
    if team.is_first:
        for journal in journals.values():
            journal.prepare(config.overwrite)
    team.wait()
    kept = {pair: journal.read() for pair, journal in journals.items()}
    team.wait()
    if config.on_overflow == "stop":  # what was skipped is tried again
        for held in kept.values():
            held.skipped.clear()
    finished = sum(len(held.scores) for held in kept.values())
    damaged = sum(held.damaged for held in kept.values())
    if team.is_first and finished:
        print(f"Continuing: {finished} target examples are finished already.", file=sys.stderr)
    if team.is_first and damaged:
        print(
            f"{damaged} damaged journal lines are ignored; their targets are run again.",
            file=sys.stderr,
        )
    return kept


def run_batch(
    batch: Sequence[Case],
    kept: Mapping[Pair, Finished],
    config: RunConfig,
    lm: Model,
    advance: Callable[[int], None],
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
    advance: Callable[[int], None],
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


def finish(
    plan: Sequence[Sequence[Case]],
    dropped: Sequence[Case],
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
        cases = [case for place in plan for case in place if case.pair is pair]
        kept = journal.read_all([case.key for case in cases])
        gone = {target_idx for target_idx, _ in kept.skipped}  # under one seed, so under all
        keys = [case.key for case in cases if case.target_idx not in gone]
        if not keys:
            empty.append(pair)
            continue
        skipped = sorted({case.target_idx for case in dropped if case.pair is pair} | gone)
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


def terminate(number: int, frame: object) -> None:
    """End the run as Ctrl-C does: a cluster sends SIGTERM some time before SIGKILL."""
    raise Terminated


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; exit status 0 done, 2 an error the user can fix, 130 or 143 interrupted."""
    escape_unprintable()
    config = parse_args(argv, __doc__)
    rank = rank_here()
    signal.signal(signal.SIGTERM, terminate)
    try:
        if config.dry_run:
            if rank == 0:
                print(*dry_run.describe(config), sep="\n")
            return 0
        paths = run(config)
        if rank == 0:
            print_table(paths, config.out_dir)
    except UserError as error:
        print(f"{f'process {rank}: ' if rank else ''}error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        if rank == 0:
            print(f"\ninterrupted. {what_is_kept(config.out_dir)}", file=sys.stderr)
        return 143 if isinstance(stopped, Terminated) else 130
    return 0


if __name__ == "__main__":
    restart_in_utf_8()
    sys.exit(main())
