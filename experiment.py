"""Measure a causal LM on a target task after a history of distractor turns, layer by layer.

    python experiment.py    # the bundled model on the embedded tasks, about two minutes on a laptop
    python experiment.py --model Qwen/Qwen2.5-0.5B-Instruct --target mmlu --distractor tweetqa

Several targets and distractors make a grid of pairs, run in one process with the model loaded once.
Paper: Gupta et al., LLM Task Interference, EMNLP 2024, arXiv 2402.18216.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import histories
import metrics
import records
from config import RANDOM, RunConfig, check_settings, parse_args
from errors import UserError
from examples import reads_of, run_cases
from histories import Case, Pair
from planning import drop_overflowing, load_pairs, unfinished
from replies import random_rows

if TYPE_CHECKING:  # torch is slow to import, and --help does not need it
    from model import LanguageModel


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
    records.write_json(records.debug_path(path), identity | {"debug_examples": examples})
    records.write_json(path, identity | aggregates | counts | made)


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
