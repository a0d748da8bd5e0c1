"""Measure a causal LM on a target task after a history of distractor turns, layer by layer.

    python experiment.py    # the bundled model on the embedded tasks, about two minutes on a laptop
    python experiment.py --model Qwen/Qwen2.5-0.5B-Instruct --target mmlu --distractor tweetqa

Several targets and distractors make a grid of pairs, run in one process with the model loaded once.
Paper: Gupta et al., LLM Task Interference, EMNLP 2024, arXiv 2402.18216.
"""

import gc
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from core import records, without_collection
from core.errors import Terminated, UserError
from core.provenance import provenance
from core.terminal import escape_unprintable, restart_in_utf_8, say
from data import Case, Pair
from lm.interface import Model
from run import dry_run
from run.batches import run_batch
from run.config import RunConfig, check_settings, parse_args
from run.effects import say_left_out
from run.examples import reads_of, work_in
from run.histories import describe_chats, random_rows
from run.journal import Finished, Journal, remove_journals
from run.lock import claimed
from run.pair_settings import measured, result_path
from run.pairs import load_pairs
from run.planning import Plan, in_batches, make_plan, require_same_model, unfinished
from run.progress import Progress
from run.results import write_results
from run.summary import print_table, what_is_kept
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
        waiting = unfinished(pairs, config)
        for pair in waiting:
            records.check_writable(result_path(config, pair).parent, make=False)
        for pair in pairs:
            if team.is_first and pair not in waiting:  # left by a run that was killed at its end
                remove_journals(result_path(config, pair))
    paths = [result_path(config, pair) for pair in pairs]
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
    plan = make_plan(waiting, lm, config)
    journals = {
        pair: Journal(
            result_path(config, pair), measured(pair, config, lm), config.run_lengths, team.rank
        )
        for pair in waiting
    }
    run_plan(plan, journals, config, lm, team)
    if team.is_first:
        environment = provenance(started) | lm.facts() | {"processes": team.size}
        write_results(plan, journals, config, lm, environment)
    return paths


@without_collection()
def _load(config: RunConfig) -> Model:
    say(f"Loading {config.model} ...", quiet=config.quiet or rank_here() > 0)
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
    plan: Plan, journals: Mapping[Pair, Journal], config: RunConfig, lm: Model, team: Team
) -> None:
    """Run what is not in the journals yet, a batch of target examples at a time.

    A batch that lacks anything is run whole: the same prompts together give the same numbers to
    the last digit, at any time and in any process.
    """
    kept = read_journals(journals, config, team)
    budgets = [held.token_budget for held in kept.values() if held.token_budget]
    lm.token_budget = min([lm.token_budget, *budgets])

    def is_finished(batch: Sequence[Case]) -> bool:
        return all(case.key in kept[case.pair] for case in batch)

    batches = in_batches(plan.places, config.batch_size)
    share = team.share([batch for batch in batches if not is_finished(batch)])
    with Progress(
        work_in(share, config),
        work_in(filter(is_finished, batches), config),
        tokens=lambda: lm.tokens_read,
        memory=lambda: lm.peak_memory_mib,
        quiet=config.quiet or not team.is_first,
    ) as progress:
        for pair, h, score in finished_scores(kept, config):
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


def finished_scores(
    kept: Mapping[Pair, Finished], config: RunConfig
) -> Iterator[tuple[Pair, int, float]]:
    """Pair, history length and score of every prompt that was finished before."""
    for pair, held in kept.items():
        for scores in held.scores.values():
            for h, score in zip(config.run_lengths, scores):
                yield pair, h, score


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
    status = main()
    gc.freeze()  # on the way out nothing is looked through for garbage, which takes over a second
    sys.exit(status)
