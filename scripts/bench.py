"""Seconds per target example of the engines, side by side on the same prompts, and what they share.

    python scripts/bench.py --data_root DIR               # mmlu/test on mmlu/test
    python scripts/bench.py --task quiz --distractor quiz # no data needed
    python scripts/bench.py --busy                        # beside a process that takes the cores
    python scripts/bench.py --vllm PYTHON FOLDER --llama PYTHON GGUF  # see bench_others.py

Every round runs all rows in turn; the first round is dropped and medians are printed, with the
lowest and the highest of ratios, so that a machine whose speed drifts treats all rows alike.
Compare ratios, not seconds. The limit is what the products of the model's own weights take, with
as many rows as the forwards of the tree have tokens.
"""

import argparse
import copy
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import core  # isort: skip  # noqa: F401  before torch, which reads what it sets

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import data
from data import Case, Pair, plan_cases
from lm import bundled
from lm.engine import PlainEngine
from lm.lens import block_output
from lm.loading import DTYPES
from lm.prefix_tree import PrefixTree, run_together
from lm.prompts import Prompt, requests_of
from lm.tree_engine import TreeEngine
from model import LanguageModel, load_model
from run.config import RunConfig
from run.examples import encode_case
from scripts.bench_others import Other
from scripts.bench_rows import CLOCKS, Row, measure, print_rows, ratio
from tasks import spec

# -- what is compared


def original_loop(lm: LanguageModel, prompts: Sequence[Prompt]) -> None:
    """Per prompt one forward for the lens with all logits, then one forward per label."""
    states: list[torch.Tensor] = []
    blocks = lm.lens.parts.blocks
    hooks = [block.register_forward_hook(lambda m, a, out: states.append(out)) for block in blocks]
    head = lm.model.get_output_embeddings()
    for prompt in prompts:
        states.clear()
        final = lm.model(lm.runtime.tensor([prompt.ids])).logits[0, -1]
        for state in states:
            torch.cosine_similarity(head(block_output(state)[0, -1]), final, dim=0)
        for _, ids in prompt.labels:
            logits = lm.model(lm.runtime.tensor([ids])).logits[0].log_softmax(-1)
            sum(logits[k - 1, ids[k]] for k in range(prompt.start, len(ids)))
    for hook in hooks:
        hook.remove()


def prefill(lm: LanguageModel, rows: Sequence[Sequence[int]]) -> None:
    """The backbone alone over whole rows, one at a time: no logits, no lens, nothing shared."""
    for row in rows:
        lm.model.base_model(lm.runtime.tensor([row]), use_cache=False)


def limit_rows(prompts: Sequence[Prompt]) -> list[Sequence[int]]:
    """As many tokens as the tree has nodes, in rows as long as the prompts, long and short."""
    left = tree_tokens(prompts)
    queue = sorted((prompt.ids for prompt in prompts), key=len)
    rows = []
    while left > 0 and queue:
        row = queue.pop(-1 if len(rows) % 2 == 0 else 0)[:left]
        rows.append(row)
        left -= len(row)
    return rows


def block_weights(lm: LanguageModel) -> list[torch.Tensor]:
    """Weights [out, in] of the linear layers in the blocks."""
    modules = (m for block in lm.lens.parts.blocks for m in block.modules())
    return [module.weight for module in modules if isinstance(module, nn.Linear)]


def products(lm: LanguageModel, prompts: Sequence[Prompt]) -> None:
    """The products alone that the tree's forwards need, with as many rows as each has tokens."""
    states: dict[tuple[int, int], torch.Tensor] = {}
    for tokens in forward_sizes(lm, prompts):
        for weight in block_weights(lm):
            shape = (tokens, weight.shape[1])
            if shape not in states:
                states[shape] = torch.ones(shape, dtype=weight.dtype, device=weight.device)
            nn.functional.linear(states[shape], weight)


def forward_sizes(lm: LanguageModel, prompts: Sequence[Prompt]) -> list[int]:
    """Tokens of each forward of the tree over these prompts, padding not counted."""
    tree, runtime = PrefixTree(requests_of(prompts)), lm.runtime
    waiting, sizes = tree.in_order(), []
    while waiting:
        count, _ = run_together(
            waiting, runtime.token_budget, runtime.forward_cost, shared=runtime.shares
        )
        sizes.append(sum(len(path.tokens) for path in waiting[:count]))
        del waiting[:count]
    return sizes


def harness_row(lm: LanguageModel, prompts: Sequence[Prompt]) -> Row | None:
    """lm-evaluation-harness on the same prompts and labels, where it is installed."""
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        return None
    harness = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, backend="causal", batch_size=1)

    def work(prompts: Sequence[Prompt]) -> None:
        requests = [
            Instance("loglikelihood", {}, (prompt.text, lm.continuation(label)), k)
            for prompt in prompts
            for k, (label, _) in enumerate(prompt.labels)
        ]
        harness.loglikelihood(requests, disable_tqdm=True)

    return Row("lm-evaluation-harness (no cosines)", work, lambda p: sum(len(x.ids) for x in p))


# -- tokens


def tree_tokens(prompts: Sequence[Prompt]) -> int:
    """Nodes of the prefix tree of these prompts."""
    return PrefixTree(requests_of(prompts)).size


def plain_tokens(prompts: Sequence[Prompt]) -> int:
    """Tokens of every prefix that has to be read, run whole."""
    return sum(map(len, requests_of(prompts)))


def original_tokens(prompts: Sequence[Prompt]) -> int:
    """Tokens of one forward for the lens and one for each label."""
    return sum(len(prompt.ids) + sum(len(ids) for _, ids in prompt.labels) for prompt in prompts)


# -- the runs


def encode_cases(lm: LanguageModel, cases: Sequence[Case], max_len: int) -> list[Prompt]:
    """The different prompts of these cases at every history length."""
    config = RunConfig(max_len=max_len)
    encoded = (each for case in cases for each in encode_case(case, config, lm))
    return list(dict.fromkeys(query.prompt for query in encoded))


def variant(lm: LanguageModel, engine: type, lens: bool = True, agree: bool = False, **settings):
    """The same loaded model, run by another engine or reading less or more of its layers."""
    other = copy.copy(lm)
    blocks = lm.runtime.blocks if lens else ()
    other.runtime = replace(lm.runtime, blocks=blocks, **settings)
    other.engine, other.lens, other.agree = engine(other.runtime), lm.lens if lens else None, agree
    return other


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
    others = [other_row(lm, args, kind) for kind in ("vllm", "llama") if getattr(args, kind)]
    rows += [row for row, _ in others]
    rows.append(Row("limit: products", lambda p: products(lm, p), tree_tokens))
    print(f"\n{pair}, max_len {max_len}, {len(examples)} targets, {lm.facts()['dtype']}")
    measure(rows, examples, args.repeats, CLOCKS[args.clock])
    print_rows(rows, examples)
    for row, other in others:
        print(f"{row.name}: same top label in {same_labels(tree, other, examples)}")
        other.close()


def other_row(lm: LanguageModel, args: argparse.Namespace, kind: str) -> tuple[Row, Other]:
    """A row of vLLM or llama.cpp, started in the environment that was named for it."""
    python, model = getattr(args, kind)
    other = Other(python, kind, model, torch.get_num_threads(), lm.facts()["dtype"])
    clock = (lambda: other.cpu_seconds) if args.clock == "cpu" else None
    name = "vLLM" if kind == "vllm" else "llama.cpp, its GGUF"

    def read(prompts: Sequence[Prompt]) -> None:
        other.read([prompt.ids for prompt in prompts])

    return Row(name, read, lambda p: sum(len(x.ids) for x in p), clock), other


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
    print("ratios: " + ", ".join(ratio(b, a) for a, b in pairwise(rows)))


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
    grid, nine = (statistics.median(run.seconds) for run in runs)
    print(f"\n{len(pairs)} pairs of {' '.join(args.grid)}, max_len {args.max_len[0]}:")
    print(f"one grid {grid:.2f} s per target, single runs {nine:.2f} s, ratio {ratio(*runs)}")


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
    parser.add_argument("--vllm", nargs=2, metavar=("PYTHON", "FOLDER"), help="its model's folder")
    parser.add_argument("--llama", nargs=2, metavar=("PYTHON", "GGUF"), help="its model's file")
    parser.add_argument("--busy", action="store_true", help="a forward beside another process")
    parser.add_argument("--throughput", action="store_true", help="bfloat16 against the peak")
    args = parser.parse_args()
    if args.busy:
        return compare_waiting(args)
    if args.throughput:
        return compare_throughput(args)
    lm = load_model(args.model, dtype=args.dtype, device=args.device)
    facts = lm.facts()
    print(
        f"{args.model} on {facts['device']}, {torch.get_num_threads()} threads, {facts['engine']}"
    )
    specs = (spec.parse_spec(text) for text in (args.task, args.distractor))
    pair = Pair(*(data.load_rows(spec, args.data_root) for spec in specs))
    for max_len in args.max_len:
        compare_engines(lm, args, pair, max_len)
    if args.growth:
        compare_growth(lm, args, pair)
    if args.grid:
        compare_grid(lm, args)


if __name__ == "__main__":
    main()
