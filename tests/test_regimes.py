"""Models that read a text otherwise by its length: each prompt as the bare model reads it alone."""

import pytest
import tiny
import torch
from engines import DECODING, MOST, tokens
from tiny import BY_LENGTH, SWITCH

from lm.engine import PlainEngine, Runtime
from lm.prompts import Request
from lm.regimes import Regimes, regimes_of
from lm.tree_engine import TreeEngine

ENGINES = (PlainEngine, TreeEngine)
LABELS = {5, 6}


def fresh(family):
    return tiny.fresh_model(family, families=BY_LENGTH)


def prompts_around_the_switch():
    """Nested histories that end before, at and behind the switch; one of each two is answered."""
    history = tokens(60)
    wants = {}
    for h in (0, 12, SWITCH - 6, SWITCH - 5, SWITCH - 4, 60):
        for seed in (1, 2):
            prompt = history[:h] + tokens(3 + seed, seed)
            wants[prompt] = Request(LABELS, is_prompt=True, answer=MOST * (seed == 2))
    return wants


def bare_logits(family, ids):
    """Logits behind a text that a model has read that read nothing before."""
    with torch.no_grad():
        return fresh(family)(torch.tensor([ids])).logits[0, -1]


def bare_answer(family, prompt):
    text = list(prompt)
    while len(text) < len(prompt) + MOST:
        token = bare_logits(family, text).argmax().item()
        if token in DECODING.eos_ids:
            break
        text.append(token)
    return tuple(text[len(prompt) :])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", BY_LENGTH)
def test_each_prompt_is_read_as_the_bare_model_reads_it_alone(family, engine):
    wants = prompts_around_the_switch()
    readings = engine(Runtime(fresh(family), (), DECODING, 512, 48.0)).read(wants)
    assert readings.keys() == wants.keys()
    for prompt, reading in readings.items():
        logprobs = bare_logits(family, prompt).log_softmax(-1)
        expected = {token: logprobs[token].item() for token in LABELS}
        assert reading.logprobs == pytest.approx(expected, abs=1e-4)
        if wants[prompt].answer:
            assert reading.answer == bare_answer(family, prompt)


@pytest.mark.parametrize("family", ["phi3", "phimoe", "minicpm3", "llama"])
def test_beside_a_long_text_the_bare_model_reads_a_short_one_otherwise(family):
    short, long = tokens(20, 1), tokens(60)
    ids = torch.tensor([[*short, *[0] * 40], long])
    with torch.no_grad():
        beside = fresh(family)(ids, attention_mask=(ids != 0).long()).logits[0, 19]
    assert (beside - bare_logits(family, short)).abs().max() > 0.05


@pytest.mark.parametrize(
    ("family", "regimes"),
    [
        ("phi3", Regimes(switches=(SWITCH,))),
        ("llama", Regimes(growing=(SWITCH,))),
        ("llama4_text", Regimes(slot_bin=SWITCH // 4)),
        ("ministral3", Regimes()),
    ],
)
def test_the_configuration_says_what_depends_on_the_length(family, regimes):
    assert regimes_of(fresh(family).config) == regimes


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_no_other_family_depends_on_it(family):
    assert regimes_of(tiny.model(family).config.get_text_config()) == Regimes()
