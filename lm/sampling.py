"""Texts sampled from a model, for histories that hold no task."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor

from lm.engine import Runtime
from lm.forward import picked_logits
from lm.memory import run_halving


def sample(
    runtime: Runtime, begin: Sequence[int], count: int, max_new_tokens: int, seed: int
) -> list[list[int]]:
    """Token ids sampled at temperature 1 behind these first ones, which are not among them.

    Each text is drawn by a generator of its own, so that it does not matter how many run together.
    """
    ends = list(runtime.decoding.eos_ids) or None
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False,
        eos_token_id=ends, pad_token_id=ends[0] if ends else 0,
    )  # fmt: skip

    def draw(numbers: Sequence[int]) -> list[list[int]]:
        ids = runtime.tensor([begin] * len(numbers))
        with torch.inference_mode(), picked_logits(runtime.model):
            rows = runtime.model.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=settings,
                logits_processor=[Drawn([seed, number] for number in numbers)],
            )  # fmt: skip
        return rows[:, len(begin) :].tolist()

    return run_halving(range(count), draw)


class Drawn(LogitsProcessor):
    """Makes the argmax of each row a draw from its softmax, by adding Gumbel noise of its own."""

    def __init__(self, seeds: Iterable[Sequence[int]]):
        self.generators = [np.random.default_rng(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = np.stack([each.gumbel(size=scores.shape[-1]) for each in self.generators])
        return scores + torch.from_numpy(noise).to(scores.device, torch.float32)
