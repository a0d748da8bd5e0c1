"""What the blocks of a model hold at the ends of prompts, read by its lens."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lm.forward import PROBE, Reading, block_output, check_finite, input_device
from lm.lens import Lens, check_blocks, find_parts, proved_lens
from lm.memory import run_halving
from lm.prompts import Fork, Layers, Prefix, Prompt, other_odds

PROMPTS_AT_ONCE = 64  # whose states are read together, in float32

Readings = Mapping[Prefix, Reading]


class LayerReader:
    """Reads blocks through the lens of one model."""

    def __init__(self, lens: Lens, agree: bool = False):
        """`agree` reads Layers.agree too."""
        self.lens = lens
        self.agree = agree

    def read(self, prompts: Sequence[Prompt], readings: Readings) -> list[Layers]:
        """What the blocks hold at these prompts, some of them at a time."""
        starts = range(0, len(prompts), PROMPTS_AT_ONCE)
        batches = (prompts[start : start + PROMPTS_AT_ONCE] for start in starts)
        with torch.inference_mode():
            parts = [
                run_halving(b, lambda some: self.read_together(some, readings)) for b in batches
            ]
        return [layers for part in parts for layers in part]

    def read_together(self, prompts: Sequence[Prompt], readings: Readings) -> list[Layers]:
        """The same, all of them at once."""
        states = _stack(readings, [prompt.ids for prompt in prompts])
        baselines = _stack(readings, [(prompt.baseline or prompt).ids for prompt in prompts])
        view = self.lens.view(states)
        cosines = self.lens.cosines(view).tolist()
        centred = self.lens.cosines(view, centred=True).tolist()
        drift = self.lens.drift(states, baselines).tolist()
        labels = self._label_logits({p: p.fork for p in prompts}, readings)
        others = self._label_logits({p: p.fork_of_all for p in prompts}, readings)
        agree = [None] * len(prompts)
        if self.agree:
            own = torch.tensor([readings[prompt.ids].top_tokens[:1] for prompt in prompts])
            agree = (self.lens.top_tokens(view).cpu() == own).tolist()
        return [
            Layers(
                cosines=tuple(cosines[i]),
                cosines_centred=tuple(centred[i]),
                drift=tuple(drift[i]),
                label_logits=labels.get(prompt) and dict(zip(dict(prompt.labels), labels[prompt])),
                agree=None if agree[i] is None else tuple(agree[i]),
                other_odds=other_odds(prompt, others[prompt]) if prompt in others else {},
            )
            for i, prompt in enumerate(prompts)
        ]

    def _label_logits(
        self, forks: Mapping[Prompt, Fork | None], readings: Readings
    ) -> dict[Prompt, list[tuple[float, ...]]]:
        """Lens logits of the tokens of each fork that is there, those of equal tokens together."""
        groups: dict[tuple[int, ...], list[Prompt]] = {}
        for prompt, fork in forks.items():
            if fork:
                groups.setdefault(fork.tokens, []).append(prompt)
        found = {}
        for tokens, group in groups.items():
            view = self.lens.view(_stack(readings, [forks[prompt].prefix for prompt in group]))
            logits = self.lens.token_logits(view, tokens).transpose(1, 2).tolist()  # [P, T, L]
            for prompt, rows in zip(group, logits):
                found[prompt] = list(map(tuple, rows))
        return found


def _stack(readings: Readings, prefixes: Sequence[Prefix]) -> Tensor:
    """Outputs of all blocks at the ends of these prefixes [P, L, D]."""
    return torch.stack([readings[prefix].states for prefix in prefixes])


def prove_lens(model, kind: str = "logit") -> Lens:
    """The lens of a model, proved on a short row of tokens; UserError where none fits it."""
    parts, name = find_parts(model), type(model).__name__
    ids = torch.tensor([PROBE], device=input_device(model))
    outputs: list[Any] = []
    hook = parts.blocks[-1].register_forward_hook(lambda m, args, output: outputs.append(output))
    try:
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0]
    finally:
        hook.remove()
    check_finite(logits, model)
    check_blocks(outputs, name)
    return proved_lens(parts, block_output(outputs[0])[0], logits, name, kind)
