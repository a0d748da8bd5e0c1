"""Engines on tiny models, and the prompts of a conversation, for the claims about how they read."""

import pytest
import tiny
import torch

from lm.engine import Decoding, Runtime
from lm.lens import find_parts
from lm.prompts import Request

DECODING = Decoding(eos_ids=(2,), stop_text=None, decode=str)
MOST = 6  # tokens of an answer


def runtime(family="llama", dtype=torch.float32, layers=True, **settings):
    lm = tiny.model(family, dtype)
    blocks = find_parts(lm).blocks if layers else ()
    limits = {"decoding": DECODING, "token_budget": 512, "forward_cost": 48.0}
    return Runtime(lm, blocks, **{**limits, **settings})


def tokens(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(3, tiny.VOCABULARY, (count,), generator=generator).tolist())


def prompts_of_a_conversation():
    """Nested histories, two targets behind each, labels of one to three tokens, some to answer."""
    history = tokens(60)
    wants = {}
    for h in (0, 12, 37, 60):
        for seed in (1, 2):
            prompt = history[:h] + tokens(5 + seed, seed)
            most = MOST * (seed == 2)
            wants[prompt] = Request({5, 6}, is_prompt=True, answer=most, states=True)
            wants[(*prompt, 5)] = Request({7})
            wants[(*prompt, 5, 7)] = Request({8, 9})
    return wants


def assert_same(first, second, slack=1e-4):
    assert first.keys() == second.keys()
    for prefix, reading in first.items():
        other = second[prefix]
        assert reading.logprobs == pytest.approx(other.logprobs, abs=slack)
        assert (reading.top_tokens, reading.answer) == (other.top_tokens, other.answer)
        assert (reading.states is None) == (other.states is None)
        if reading.states is not None:
            torch.testing.assert_close(reading.states, other.states, rtol=1e-3, atol=slack)
