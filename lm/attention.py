"""Where the answer position looks: its attention by part of the prompt, at each block.

The last token is run alone over the cached keys of all others under eager attention, the only one
that gives weights, so that no matrix of every token by every token exists.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lm.interventions import Interventions, Past, cache_over
from lm.prompts import Range
from lm.spans import Spans


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Within it attention is computed eagerly."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def find_sinks(model: nn.Module) -> list[Tensor]:
    """The weights of attention sinks, which take a share that no token gets (GPT-OSS)."""
    return [value for name, value in model.named_parameters() if name.endswith(".sinks")]


@contextmanager
def without_sinks(model: nn.Module) -> Iterator[None]:
    """Within it attention sinks take nothing."""
    kept = [(sink, sink.detach().clone()) for sink in find_sinks(model)]
    with torch.no_grad():
        for sink, _ in kept:
            sink.fill_(torch.finfo(sink.dtype).min)
        try:
            yield
        finally:
            for sink, before in kept:
                sink.copy_(before)


def look(tool: Interventions, token: int, past: Past, position: int) -> tuple[Tensor, Tensor]:
    """One token behind a past: its attention to every token, itself among them [L, heads, K], and
    its logits [V].
    """
    inputs = {"input_ids": tool.runtime.tensor([[token]])}
    if tool.takes_positions:
        inputs["position_ids"] = tool.runtime.tensor([[position]])
    tool.runtime.tokens += 1
    model, cache = tool.runtime.model, cache_over(past)
    with torch.inference_mode(), eager(model):
        found = model(past_key_values=cache, use_cache=True, output_attentions=True, **inputs)
    weights = [of_block[0, :, -1].cpu().float() for of_block in found.attentions]
    return torch.stack(weights), found.logits[0, -1].float()


def parts_of(spans: Spans) -> dict[str, list[Range]]:
    """The tokens of a prompt by part, each in one part.

    The first token is kept apart: it takes most of the weight whatever it is. What no text holds
    is marks of the template.
    """
    texts: dict[str, Range] = {"system": spans.system}
    for k, (user, *answer) in enumerate(zip(spans.users, *filter(None, [spans.answers])), 1):
        texts |= {f"user_{k}": user} | {f"answer_{k}": each for each in answer}
    texts["target"] = spans.question
    found = {"first": [(0, 1)]}
    found |= {name: [(max(first, 1), end)] for name, (first, end) in texts.items()}
    marks, seen = [], 1
    for first, end in texts.values():
        marks.append((seen, first))
        seen = max(seen, end)
    marks.append((seen, spans.target[1]))
    return found | {"marks": marks}


def by_part(attention: Tensor, spans: Spans) -> dict[str, Tensor]:
    """Attention [L, heads, K] summed over the tokens of each part [L, heads]."""
    return {
        name: sum(attention[..., first:end].sum(-1) for first, end in ranges)
        for name, ranges in parts_of(spans).items()
    }


def in_three(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parts of `by_part` in three that are kept for every head: history, target and the rest.

    The history is its texts, without the marks between them.
    """
    found: dict[str, Tensor] = {}
    for name, of_part in parts.items():
        whole = "history" if name.startswith(("user", "answer")) else name
        whole = whole if whole in ("history", "target") else "rest"
        found[whole] = found.get(whole, 0) + of_part
    return found


def uniform(spans: Spans) -> dict[str, float]:
    """What each part would have if every token had the same weight: its share of the tokens."""
    return {
        name: sum(max(0, end - first) for first, end in ranges) / spans.target[1]
        for name, ranges in parts_of(spans).items()
    }
