"""What the rows of the benchmark work at: the prompts of cases, the loops and bare products beside
the engines, the tokens that each runs, and the other programs, started.
"""

import argparse
import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from data import Case
from lm.forward import block_output
from lm.prefix_tree import PrefixTree, run_together
from lm.prompts import Prompt, requests_of
from model import LanguageModel
from run.config import RunConfig
from run.examples import encode_case
from scripts.bench_others import Other
from scripts.bench_rows import Clock, Row

# -- prompts, and a model that runs them


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


# -- loops and limits


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


# -- other programs


def start_others(lm: LanguageModel, args: argparse.Namespace) -> list[Other]:
    """vLLM, in each dtype that was named, and llama.cpp, where an environment was named for it."""
    threads, own = torch.get_num_threads(), lm.facts()["dtype"]
    started = []
    if args.vllm:
        python, folder, *dtypes = args.vllm
        started = [Other(python, "vllm", folder, threads, dtype) for dtype in dtypes or [own]]
    if args.llama:
        python, gguf = args.llama
        started.append(Other(python, "llama", gguf, threads, own))
    return started


def clock_of(other: Other, clock: str) -> Clock | None:
    """What counts its processor time, where that is the clock; None for the clock of all."""
    return (lambda: other.cpu_seconds) if clock == "cpu" else None


def first_token_row(other: Other, clock: str) -> Row:
    """It reads prompts whole, for their first tokens."""

    def read(prompts: Sequence[Prompt]) -> None:
        other.read([prompt.ids for prompt in prompts])

    return Row(other.name, read, lambda p: sum(len(x.ids) for x in p), clock_of(other, clock))
