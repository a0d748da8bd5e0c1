"""Seconds per target example of the engines, side by side on the same prompts, and what they share.

    python scripts/bench.py --data_root DIR               # mmlu/test on mmlu/test
    python scripts/bench.py --task quiz --distractor quiz # no data needed
    python scripts/bench.py --answers                     # decoding, see bench_answers.py
    python scripts/bench.py --busy                        # beside a process that takes the cores
    python scripts/bench.py --vllm PYTHON FOLDER --llama PYTHON GGUF  # see bench_others.py

Every round runs all rows in turn; the first round is dropped and medians are printed, with the
lowest and the highest of ratios, so that a machine whose speed drifts treats all rows alike.
Compare ratios, not seconds. The limit is what the products of the model's own weights take, with
as many rows as the forwards of the tree have tokens.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import core  # isort: skip  # noqa: F401  before torch, which reads what it sets

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import data
from core.errors import UserError
from data import Case, Pair, plan_cases
from lm import bundled
from lm.engine import PlainEngine
from lm.loading import DTYPES
from lm.prompts import Prompt
from lm.tree_engine import TreeEngine
from model import LanguageModel, load_model
from scripts.bench_answers import compare_answers
from scripts.bench_others import Other
from scripts.bench_rows import CLOCKS, Row, measure, print_rows, ratio
from scripts.bench_work import (
    encode_cases,
    first_token_row,
    harness_row,
    limit_rows,
    original_loop,
    original_tokens,
    plain_tokens,
    prefill,
    products,
    start_others,
    tree_tokens,
    variant,
)
from tasks import spec

# -- the runs


def compare_engines(lm: LanguageModel, args: argparse.Namespace, pair: Pair, max_len: int) -> None:
    """The table of one max_len."""
    plan = plan_cases([pair], max_len, [args.seed], args.n)
    examples = [encode_cases(lm, cases, max_len) for cases in plan]
    tree, plain = variant(lm, TreeEngine), variant(lm, PlainEngine, token_budget=2048)
    without, more = variant(lm, TreeEngine, lens=False), variant(lm, TreeEngine, agree=True)
    copied = variant(lm, TreeEngine, shares=False)
    rows = [
        Row("original loop", lambda p: original_loop(lm, p), original_tokens),
        Row("plain loop", plain.run, plain_tokens),
        Row("tree", tree.run, tree_tokens),
        Row("tree, pasts copied", copied.run, tree_tokens),
        Row("tree without layers", without.run, tree_tokens),
        Row("tree with --agree", more.run, tree_tokens),
        harness_row(lm, examples[0]),
        Row("prefill of as many tokens", lambda p: prefill(lm, limit_rows(p)), tree_tokens),
    ]
    rows = [row for row in rows if row and (not args.rows or row.name in args.rows)]
    others = start_others(lm, args)
    rows += [first_token_row(other, args.clock) for other in others]
    rows.append(Row("limit: products", lambda p: products(lm, p), tree_tokens))
    print(f"\n{pair}, max_len {max_len}, {len(examples)} targets, {lm.facts()['dtype']}")
    measure(rows, examples, args.repeats, CLOCKS[args.clock])
    print_rows(rows, examples)
    for other in others:
        print(f"{other.name}: same top label in {same_labels(tree, other, examples)}")
        other.close()


def same_labels(lm: LanguageModel, other: Other, examples: Sequence[Sequence[Prompt]]) -> str:
    """In how many prompts the likeliest label is the same by its first token."""
    same, count = 0, 0
    for prompts in examples:
        tops = other.read([prompt.ids for prompt in prompts])
        for prompt, outcome, top in zip(prompts, lm.run(prompts), tops):
            found = [top.get(str(token), -float("inf")) for token in prompt.fork.tokens]
            own = list(outcome.label_logprobs.values())
            same += found.index(max(found)) == own.index(max(own))
            count += 1
    return f"{same} of {count} prompts"


def compare_growth(lm: LanguageModel, args: argparse.Namespace, pair: Pair) -> None:
    """Seconds of the tree at growing max_len, and the ratio of each to the one before."""
    tree, rows = variant(lm, TreeEngine), []
    for max_len in args.growth:
        [cases] = plan_cases([pair], max_len, [args.seed], 1)
        prompts = encode_cases(lm, cases, max_len)
        rows.append(Row(f"max_len {max_len}", lambda _, p=prompts: tree.run(p), len))
    measure(rows, [[]], args.repeats, CLOCKS[args.clock])
    medians = [statistics.median(row.seconds) for row in rows]
    print("\ngrowth: " + ", ".join(f"{r.name} {s:.2f} s" for r, s in zip(rows, medians)))
    print("ratios: " + ", ".join(ratio(b.seconds, a.seconds) for a, b in pairwise(rows)))


def compare_grid(lm: LanguageModel, args: argparse.Namespace) -> None:
    """All pairs of three tasks in one call against one call per pair, encoding included."""
    rows = [data.load_rows(spec.parse_spec(text), args.data_root) for text in args.grid]
    pairs = [Pair(target, distractor) for target in rows for distractor in rows]
    [cases] = plan_cases(pairs, args.max_len[0], [args.seed], 1)

    def together(_: object) -> None:
        lm.run(encode_cases(lm, cases, args.max_len[0]))

    def apart(_: object) -> None:
        for case in cases:
            lm.run(encode_cases(lm, [case], args.max_len[0]))

    runs = [Row("grid", together, len), Row("nine runs", apart, len)]
    measure(runs, [[]], args.repeats, CLOCKS[args.clock])
    grid, nine = (run.seconds for run in runs)
    print(f"\n{len(pairs)} pairs of {' '.join(args.grid)}, max_len {args.max_len[0]}:")
    seconds = (
        f"{statistics.median(grid):.2f} s per target, single runs {statistics.median(nine):.2f}"
    )
    print(f"one grid {seconds} s, ratio {ratio(grid, nine)}")


# -- beside another process

FORWARD = """
import sys, time
sys.path.insert(0, sys.argv[1])
from model import load_model
import torch
lm, spent = load_model(sys.argv[2], lens=None), []
ids = torch.arange(5, 5 + int(sys.argv[3]))[None]
with torch.inference_mode():
    for _ in range(8):
        start = time.perf_counter()
        lm.model(ids)
        spent.append(time.perf_counter() - start)
print(sorted(spent[1:])[3])
"""
LOAD = "import torch; a = torch.randn(1500, 1500)\nwhile True: a @ a"


def compare_waiting(args: argparse.Namespace) -> None:
    """Seconds of a forward by itself and beside a process that multiplies matrices, with threads
    that spin for each other and with threads that sleep; each in a process of its own.
    """
    print(f"{'OMP_WAIT_POLICY':18}{'tokens':>8}{'alone':>10}{'busy':>10}   s, median of 7 forwards")
    for policy in ("ACTIVE", "PASSIVE"):
        for tokens in (30, 200):
            alone = forward_seconds(args.model, policy, tokens)
            load = subprocess.Popen([sys.executable, "-c", LOAD])
            try:
                busy = forward_seconds(args.model, policy, tokens)
            finally:
                load.kill()
                load.wait()
            print(f"{policy:18}{tokens:8}{alone:10.2f}{busy:10.2f}", flush=True)


def forward_seconds(model: str, policy: str, tokens: int) -> float:
    """Median seconds of a forward, in a process that waits by this policy."""
    root = str(Path(__file__).parent.parent)
    command = [sys.executable, "-c", FORWARD, root, model, str(tokens)]
    environment = os.environ | {"OMP_WAIT_POLICY": policy}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


# -- on an accelerator

PEAK_TFLOPS = {"H100": 989, "H200": 989, "A100": 312, "L4": 121, "A10": 125, "4090": 165}  # bf16
SHAPE_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
}  # fmt: skip


def compare_throughput(args: argparse.Namespace) -> None:
    """Tokens/s of the tree in bfloat16 for a model and for a random Llama of 7B parameters, and
    the share of the card's peak that they are: 2 x parameters operations a token.
    """
    rows = [data.load_rows(spec.parse_spec(name)) for name in (args.task, args.distractor)]
    plan = plan_cases([Pair(*rows)], args.max_len[0], [args.seed], args.n)
    lm = load_model(args.model, dtype="bfloat16", device=args.device)
    device = next(lm.model.parameters()).device
    print_throughput(args.model, lm, plan, args)
    shape = SHAPE_7B if device.type == "cuda" else SHAPE_7B | {"num_hidden_layers": 1}
    config = LlamaConfig(**shape | {"vocab_size": len(lm.tokenizer)})
    with torch.device(device):
        large = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)
    large = LanguageModel(large, lm.tokenizer)
    print_throughput(f"Llama, {shape['num_hidden_layers']} blocks of 7B's", large, plan, args)


def print_throughput(
    name: str, lm: LanguageModel, plan: Sequence[Sequence[Case]], args: argparse.Namespace
) -> None:
    """A line of tokens/s, with the share of the peak where the card's is known."""
    prompts = [p for cases in plan for p in encode_cases(lm, cases, args.max_len[0])]
    row = Row(name, lm.run, tree_tokens)
    measure([row], [prompts], args.repeats)
    speed = tree_tokens(prompts) / statistics.median(row.seconds)
    parameters = sum(p.numel() for p in lm.model.parameters())
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    words = re.split(r"\W+", card)  # "L4" is no part of "L40S"
    peak = next((peak for part, peak in PEAK_TFLOPS.items() if part in words), None)
    share = f", {2 * parameters * speed / peak / 1e10:.1f} % of the peak" if peak else ""
    print(f"{name}: {speed:.0f} tokens/s on {card}{share}, {row.peak_mib} MiB")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default=bundled.BUNDLED)
    parser.add_argument("--task", default="mmlu/test", help="target task (mmlu/test)")
    parser.add_argument("--distractor", default="mmlu/test", help="distractor task (mmlu/test)")
    parser.add_argument("--data_root", help="folder in the Hub's layout")
    parser.add_argument("--max_len", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--growth", type=int, nargs="*", default=[4, 8, 16])
    parser.add_argument("--grid", nargs="*", default=["quiz", "reviews", "posts"])
    parser.add_argument("--rows", nargs="*", default=[], help="their names (all)")
    parser.add_argument("--n", type=int, default=2, help="target examples (2)")
    parser.add_argument("--repeats", type=int, default=3, help="counted rounds (3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto", choices=("auto", *DTYPES))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--clock", default="wall", choices=CLOCKS, help="time, or the processor's")
    parser.add_argument(
        "--vllm",
        nargs="+",
        metavar=("PYTHON", "FOLDER"),
        help="its model's folder; behind it dtypes, a row each (that of --dtype)",
    )
    parser.add_argument("--llama", nargs=2, metavar=("PYTHON", "GGUF"), help="its model's file")
    parser.add_argument(
        "--answers",
        nargs="?",
        const="posts",
        metavar="TASK",
        help="greedy answers (to posts) after each task of --grid",
    )
    parser.add_argument("--busy", action="store_true", help="a forward beside another process")
    parser.add_argument("--throughput", action="store_true", help="bfloat16 against the peak")
    args = parser.parse_args()
    if args.vllm and len(args.vllm) < 2:
        parser.error("--vllm takes the environment's PYTHON and the model's FOLDER")
    if args.busy:
        return compare_waiting(args)
    if args.throughput:
        return compare_throughput(args)
    lm = load_model(args.model, dtype=args.dtype, device=args.device)
    facts = lm.facts()
    print(
        f"{args.model} on {facts['device']}, {torch.get_num_threads()} threads, {facts['engine']}"
    )
    if args.answers:
        return compare_answers(lm, args)
    specs = (spec.parse_spec(text) for text in (args.task, args.distractor))
    pair = Pair(*(data.load_rows(spec, args.data_root) for spec in specs))
    for max_len in args.max_len:
        compare_engines(lm, args, pair, max_len)
    if args.growth:
        compare_growth(lm, args, pair)
    if args.grid:
        compare_grid(lm, args)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
