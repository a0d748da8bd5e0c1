"""Engine, lens and memory on the device that TEST_DEVICE names. All of it runs on a CPU too, but
for real memory, which only an accelerator runs out of.

    TEST_DEVICE=cuda python -m pytest tests/test_device.py
"""

import os

import pytest
import tiny
import torch
from engines import DECODING, prompts_of_a_conversation, tokens

from lm.engine import PlainEngine, Runtime
from lm.lens import find_parts
from lm.prompts import Request
from lm.proof import choose_engine
from lm.tree_engine import TreeEngine
from model import LanguageModel

DEVICE = os.environ.get("TEST_DEVICE", "cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FAMILIES = ("llama", "gpt2", "gemma2", "gpt_oss")


def runtime(family, dtype, **settings):
    lm = tiny.fresh_model(family, dtype).to(DEVICE)
    limits = {"decoding": DECODING, "token_budget": 512, "forward_cost": 48.0}
    return Runtime(lm, find_parts(lm).blocks, **limits | settings)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_tree_reads_what_the_plain_loop_reads(family, dtype):
    engine, proof = choose_engine("auto", runtime(family, dtype))
    assert engine.name == "tree", proof
    wants = prompts_of_a_conversation()
    tree, plain = engine.read(wants), PlainEngine(runtime(family, dtype)).read(wants)
    slack = 2000 * torch.finfo(dtype).eps if dtype == torch.float32 else 60 * torch.finfo(dtype).eps
    for prefix, reading in plain.items():
        assert tree[prefix].logprobs == pytest.approx(reading.logprobs, abs=slack)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_block_through_the_lens_gives_the_models_logits(family, dtype):
    lm = LanguageModel(tiny.fresh_model(family, dtype).to(DEVICE), tiny.tokenizer())
    prompt = lm.encode([{"role": "user", "content": "is it"}], ("A", "positive"))
    [outcome] = lm.run([prompt])
    assert outcome.layers.cosines[-1] == pytest.approx(1, abs=1e-5)
    assert lm.facts()["device"].startswith(DEVICE)


@pytest.mark.skipif(DEVICE == "cpu", reason="only an accelerator runs out of memory by itself")
@pytest.mark.parametrize("engine", [PlainEngine, TreeEngine])
def test_real_short_memory_is_gone_round(engine):
    wants = {tokens(400, seed): Request({5}, is_prompt=True) for seed in range(400)}
    expected = engine(runtime("gpt2", torch.float32)).read(wants)
    short = runtime("gpt2", torch.float32, token_budget=10**9, forward_cost=1e9)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**28) / total)
    try:
        found = engine(short).read(wants)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert short.token_budget < 400 * 400
    for prefix, reading in expected.items():
        assert found[prefix].logprobs == pytest.approx(reading.logprobs, abs=1e-3)
