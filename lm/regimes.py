"""Models that read a text differently by its length, and which texts they may read together.

Some rotary embeddings choose their frequencies by the longest position of a forward: longrope one
of two tables (Phi-3-128k; Ding et al., arXiv 2402.13753), dynamic NTK new ones for every length. A
short text beside a long one is then read as if it were long. Llama 4 scales its attention by the
slot in which a token stands, padding counted.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lm.prompts import Prefix, Request


@dataclass(frozen=True)
class Regimes:
    """Lengths, in tokens, at which a model changes how it reads; without any, it never does."""

    switches: tuple[int, ...] = ()  # longrope: the longest text that is read by the short table
    growing: tuple[int, ...] = ()  # dynamic NTK: beyond it every length has frequencies of its own
    slot_bin: int | None = None  # Llama 4: slots that share one scale

    def of(self, length: int) -> tuple[int, ...]:
        """Texts of two lengths are read alike where this is the same."""
        tables = (int(length > last) for last in self.switches)
        return (*tables, *(max(length, last) for last in self.growing))

    def changes(self, length: int, more: int) -> bool:
        """Is a text read otherwise when `more` tokens have come behind it?"""
        return self.of(length) != self.of(length + more)

    def groups(self, requests: Mapping[Prefix, Request]) -> Iterator[dict[Prefix, Request]]:
        """Requests that are read alike, those of the longest texts first."""
        found: dict[tuple[int, ...], dict[Prefix, Request]] = {}
        for prefix in sorted(requests, key=len, reverse=True):
            found.setdefault(self.of(len(prefix)), {})[prefix] = requests[prefix]
        yield from found.values()

    def fixed_slots(self, longest: int) -> bool:
        """Must every token stand in the slot of its position, in rows that may have this many?"""
        return self.slot_bin is not None and longest >= self.slot_bin

    @property
    def alone(self) -> bool:
        """May padding of a batch come beyond the length at which its rows would be read alike?"""
        return bool(self.switches or self.growing or self.slot_bin)


def regimes_of(config: Any) -> Regimes:
    """What a text configuration of transformers says of it."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [each for each in rope.values() if isinstance(each, Mapping)] or [rope]
    switches, growing = [], []
    for parameters in kinds:  # one for all layers, or one for each type of them
        kind = parameters.get("rope_type") or "default"
        if kind == "longrope":
            switches.append(parameters["original_max_position_embeddings"])
        elif "dynamic" in kind:
            growing.append(config.max_position_embeddings)
    tuned = getattr(config, "attn_temperature_tuning", None)
    slot_bin = getattr(config, "floor_scale", None) if tuned else None
    return Regimes(tuple(switches), tuple(growing), slot_bin)
