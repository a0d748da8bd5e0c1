"""Measure a causal LM on a target task after a history of distractor turns, layer by layer.

    python experiment.py    # the bundled model on the embedded tasks, about two minutes on a laptop
    python experiment.py --model Qwen/Qwen2.5-0.5B-Instruct --target mmlu --distractor tweetqa

Several targets and distractors make a grid of pairs, run in one process with the model loaded once.
Paper: Gupta et al., LLM Task Interference, EMNLP 2024, arXiv 2402.18216.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import data
import histories
import metrics
import records
from config import RANDOM, RunConfig, check_settings, parse_args
from data import TaskRows
from errors import UserError
from examples import answer_tokens, reads_of, run_cases
from histories import Case, Pair
from replies import random_rows
from tasks import TASKS, Task, parse_spec, read_tasks

if TYPE_CHECKING:  # torch is slow to import, and --help does not need it
    from model import LanguageModel

# -- planning


def known_tasks(config: RunConfig) -> dict[str, Task]:
    """Built-in tasks and those of --task_file; with --max_new_tokens where that is given."""
    known = dict(TASKS)
    if config.task_file is not None:
        known |= read_tasks(Path(config.task_file), taken=TASKS)
    if config.max_new_tokens is None:
        return known
    limit = config.max_new_tokens
    return {name: replace(task, max_new_tokens=limit) for name, task in known.items()}


def load_pairs(config: RunConfig, pool: TaskRows | None = None) -> list[Pair]:
    """The grid of pairs, each data set loaded once; UserError for data that cannot be used.

    `pool` takes the place of the distractors.
    """
    known = known_tasks(config)
    names = config.target if pool else (*config.target, *config.distractor)
    specs = {text: parse_spec(text, known) for text in names}
    rows = {spec: data.load_rows(spec, config.data_root) for spec in dict.fromkeys(specs.values())}
    for table in rows.values():
        data.require_references(table)

    def tables(names: Sequence[str]) -> list[TaskRows]:
        return [rows[spec] for spec in dict.fromkeys(specs[name] for name in names)]

    distractors = [pool] if pool else tables(config.distractor)
    pairs = [Pair(target, other) for target in tables(config.target) for other in distractors]
    for pair in pairs:
        require_rows(pair, config)
    return pairs


def require_rows(pair: Pair, config: RunConfig) -> None:
    """UserError where a pair's tasks have too few different rows for its longest history."""
    shape = histories.roles(config.mix, config.max_len)
    for role, table in (("distractor", pair.distractor), ("target", pair.target)):
        needed = len(shape) if pair.target is pair.distractor else shape.count(role)
        if needed and table.distinct <= needed:
            raise UserError(
                f"--max_len {config.max_len}: '{table.spec}' has only {table.distinct} different "
                f"rows, and a history of {needed} of its turns needs one more."
            )


def unfinished(pairs: Sequence[Pair], config: RunConfig) -> list[Pair]:
    """The pairs without a result; UserError where one has a result made with other settings."""
    if config.overwrite:
        return list(pairs)
    there = [pair for pair in pairs if config.path(pair).exists()]
    for pair in there:
        found = records.read_result(config.path(pair))["config"]
        changed = _changed_settings(found, config.requested(pair))
        if changed:
            raise UserError(
                f"{config.path(pair)} was made with other settings: {'; '.join(changed)}.\n"
                "Use another --out_dir, or --overwrite to replace it."
            )
        log = records.debug_path(config.path(pair))
        if not log.exists():
            raise UserError(f"{log} is missing beside its result. --overwrite makes both again.")
        records.read_debug(log)
    return [pair for pair in pairs if pair not in there]


def _changed_settings(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Settings that differ; one asked for as `auto` may match the word or what it became."""
    asked = found | found.get("requested", {})
    return [
        f"{name} {found.get(name)!r} there, {value!r} now"
        for name, value in wanted.items()
        if value not in (found.get(name), asked.get(name))
    ]


def drop_overflowing(
    plan: list[list[Case]], lm: "LanguageModel", config: RunConfig
) -> tuple[list[list[Case]], list[Case]]:
    """The plan without the cases too long for the model, and those; UserError if told to stop."""
    longest = config.max_len
    dropped = [case for cases in plan for case in cases if _overflows(case, longest, config, lm)]
    if dropped and config.on_overflow == "stop":
        case = dropped[0]
        h = next(h for h in range(longest + 1) if _overflows(case, h, config, lm))
        needed = lm.tokens_needed(*_longest(case, h, config))
        raise UserError(
            f"{case.pair}, target {case.target_idx}, h = {h}: {needed} tokens, but the model's "
            f"context is {lm.context}. {len(dropped)} of {sum(map(len, plan))} targets are too "
            "long.\nUse a smaller --max_len, or --on_overflow skip to leave them out at every h."
        )
    gone = set(dropped)
    return [[case for case in cases if case not in gone] for cases in plan], dropped


def _overflows(case: Case, h: int, config: RunConfig, lm: "LanguageModel") -> bool:
    asked = _longest(case, h, config)
    return not lm.surely_fits(*asked) and lm.tokens_needed(*asked) > lm.context


def _longest(case: Case, h: int, config: RunConfig) -> tuple[list, tuple[str, ...], int, int]:
    """The longest conversation asked at h turns, the texts that are read behind it, the most tokens
    of its answer, and the most tokens that are yet to come into it.

    Replies of the model's own are not known yet: each may be as long as its task allows.
    """
    cue = config.switch_cue if h else None
    replies = 0
    if config.history == "model":
        tasks = (case.task, case.pair.distractor.spec.task)
        replies = h * max(task.max_new_tokens for task in tasks)
    behind = case.labels or (case.target.references[:1] if config.sensitivity else ())
    return case.messages(h, cue), behind, answer_tokens(case, config), replies


# -- running


def run(config: RunConfig) -> list[Path]:
    """Run what is missing of the grid, write its results -> result files of the whole grid."""
    check_settings(config)
    started = time.time()
    lm = pool = None
    if config.history == RANDOM:  # the model has to be there before the pairs are
        lm = _load(config)
        pool = random_rows(lm, config.max_len, config.seed[0], config.max_new_tokens)
    pairs = load_pairs(config, pool)
    waiting = unfinished(pairs, config)
    if not waiting:
        print("Complete already, with the same settings. --overwrite runs it again.")
        return [config.path(pair) for pair in pairs]
    for pair in waiting:
        records.check_writable(config.path(pair).parent, make=False)
    lm = lm or _load(config)
    settings = (config.max_len, config.seed, config.limit, config.num_histories, config.mix)
    plan = histories.plan_cases(waiting, *settings)
    plan, dropped = drop_overflowing(plan, lm, config)
    for pair in waiting:
        if not any(case.pair is pair for cases in plan for case in cases):
            raise UserError(f"{pair}: no target fits the model's context of {lm.context} tokens.")
    examples = run_plan(plan, config, lm)
    environment = records.provenance(started) | lm.facts()
    for pair in waiting:
        skipped = sorted({case.target_idx for case in dropped if case.pair is pair})
        made = {"config": describe_config(pair, config, lm), "environment": environment}
        write_pair(config.path(pair), pair, examples[pair], skipped, made)
    return [config.path(pair) for pair in pairs]


def _load(config: RunConfig) -> "LanguageModel":
    from loading import load_model

    return load_model(
        config.model,
        dtype=config.dtype,
        device=config.device,
        prompt_form=config.prompt,
        device_map=config.device_map,
        lens=None if config.no_cosine else config.lens,
        agree=config.agree,
        engine=config.engine,
        trust_remote_code=config.trust_remote_code,
        allow_pickle=config.allow_pickle,
    )


def run_plan(
    plan: list[list[Case]], config: RunConfig, lm: "LanguageModel"
) -> dict[Pair, list[dict[str, Any]]]:
    """Walk over the target examples, a batch at a time -> the examples of each pair."""
    from tqdm import tqdm

    examples: dict[Pair, list[dict[str, Any]]] = {}
    total = sum(reads_of(case, config) for cases in plan for case in cases)
    pause = 0.1 if sys.stderr.isatty() else 30  # seconds between two states of the bar
    with tqdm(total=total, unit="prompt", mininterval=pause, smoothing=0) as bar:
        for start in range(0, len(plan), config.batch_size):
            cases = [case for place in plan[start : start + config.batch_size] for case in place]
            for case, example in run_cases(cases, config, lm, bar.update):
                examples.setdefault(case.pair, []).append(example)
    return examples


def write_pair(
    path: Path, pair: Pair, examples: list[dict], skipped: list[int], made: dict[str, Any]
) -> None:
    """Write a pair's debug log and then its result, so that no result is there without its log."""
    identity = {
        "schema_version": records.SCHEMA_VERSION,
        "model": records.model_name(made["config"]["model"]),
        "target": str(pair.target.spec),
        "distractor": str(pair.distractor.spec),
        "metric_name": pair.target.spec.task.metric,
    }
    aggregates = metrics.aggregate(examples, identity["metric_name"])
    counts = {"n_skipped": len(skipped), "skipped_target_idx": skipped}
    log, result = identity | {"debug_examples": examples}, identity | aggregates | counts | made
    records.write_json(records.debug_path(path), log)
    records.write_json(path, result | {"content_sha256": records.digest(result, log)})


def describe_config(pair: Pair, config: RunConfig, lm: "LanguageModel") -> dict[str, Any]:
    """Every resolved setting of a pair; under `requested` those that were asked for as `auto`."""
    target, distractor = pair.target.spec.task, pair.distractor.spec.task
    asked = config.requested(pair)
    return asked | {
        "requested": {name: asked[name] for name in ("prompt", "dtype", "engine")},
        "prompt": lm.prompt_form,
        "engine": lm.engine.name,
        "dtype": lm.facts()["dtype"],
        "label_continuations": {label: lm.continuation(label) for label in target.labels},
        "margin_tokens": lm.margin_tokens(target.labels),
        "generation": lm.decoding.describe() | {"max_new_tokens": target.max_new_tokens},
        "tasks": {"target": target.describe(), "distractor": distractor.describe()},
        "batch_size": config.batch_size,
        "allow_pickle": config.allow_pickle,
        "device_map": config.device_map,
        "data_root": config.data_root,
        "task_file": config.task_file,
    }


def print_table(paths: Sequence[Path]) -> None:
    """The metric by history length of each pair, and where the results are."""
    results = [records.read_result(path) for path in paths]
    width = max(len(result[key]) for result in results for key in ("target", "distractor"))
    lengths = max((result["metric_by_len"] for result in results), key=len)
    room = max(8, *(len(result["metric_name"]) for result in results))
    print(
        f"\n{'target':{width}}  {'distractor':{width}}  {'metric':{room}}  {'n':>5}"
        + "".join(f"{'h=' + h:>8}" for h in lengths)
    )
    for result in results:
        names = f"{result['target']:{width}}  {result['distractor']:{width}}"
        numbers = "".join(f"{value:8.3f}" for value in result["metric_by_len"].values())
        skipped = result.get("n_skipped")
        note = f"  ({skipped} too long, skipped)" if skipped else ""
        print(f"{names}  {result['metric_name']:{room}}  {result['n']:5}{numbers}{note}")
    made = results[-1]["environment"].get
    print(f"\n{made('engine')} engine, {made('seconds')} s, {made('peak_memory_mib')} MiB at most")
    print("Results (each with its _debug.json beside it):", *paths, sep="\n  ")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry: 0 done, 2 something the user can put right, 130 interrupted."""
    config = parse_args(argv, __doc__)
    try:
        print_table(run(config))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written for the pairs under way.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
