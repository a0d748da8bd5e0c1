"""What an intervention must be true to, tried on a short row of tokens when a model is loaded.

    nothing hidden                              = the normal run
    what is hidden                              makes no difference
    all hidden, positions as without history    = the run without history
    a run's own states patched in, or resumed   = the same run
    the other run's last state, patched         = the other run
    attention of the last token                 sums to 1, and leaves the run as it is

A part of `--effects` that rests on one that fails is left out, by name.
"""

import sys
from collections.abc import Callable
from itertools import chain

import torch

from core.schema import EFFECT_PARTS
from lm.attention import find_sinks, look, without_sinks
from lm.checks import MISFITS, in_a_line, slack_of
from lm.interventions import Hidden, Interventions, Past, Row
from lm.prompts import Prefix
from lm.targets import Asked, Target

SYSTEM, HISTORY, TOKENS = 2, 3, 8  # of the probe: shorter than any window of a sliding layer


def exact_parts(tool: Interventions) -> tuple[str, ...]:
    """The parts of `--effects` that are exact for a model."""
    probe = _Probe(tool)
    if not _holds(probe.hiding):
        return ()
    needed = {
        "position": (probe.renumbered,),
        "block": (probe.resumed,),
        "patch": (probe.resumed, probe.patched),
        "attention": (probe.attention,),
    }
    holds = {identity: _holds(identity) for identity in dict.fromkeys(chain(*needed.values()))}
    return tuple(
        part for part in EFFECT_PARTS if all(holds[identity] for identity in needed.get(part, ()))
    )


def _holds(identity: Callable[[], bool]) -> bool:
    try:
        return identity()
    except MISFITS as error:  # no ordinary keys and values, or no mask
        print(f"--effects: {identity.__name__} cannot be run ({in_a_line(error)})", file=sys.stderr)
        return False


class _Probe:
    """A prompt of a few tokens with and without what stands in its middle."""

    def __init__(self, tool: Interventions):
        vocabulary = tool.runtime.model.config.get_text_config().vocab_size
        drawn = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(0)).tolist()
        self.tool, self.ids, self.others = tool, tuple(drawn[:TOKENS]), drawn[TOKENS:]
        self.begin = SYSTEM + HISTORY
        self.everywhere = (0, tool.depth)
        self.slack = slack_of(tool.runtime.model.dtype)

    def target(self, ids: Prefix, past: Past, position: int | None = None) -> Target:
        """The end of a prompt, read by the log-odds of two tokens."""
        answers = (("one", tuple(self.others[:1])), ("two", tuple(self.others[1:2])))
        return Target(self.tool, Asked(ids, answers, "one"), past, position)

    def numbers(self, ids: Prefix, *rows: Row, begin: int = 0) -> list[float]:
        """Numbers of a prompt whose first tokens are its past."""
        return self.target(ids, self.tool.past_of(ids[:begin])).numbers(rows)

    def alike(self, *numbers: float) -> bool:
        """Are these the same number, to within rounding?"""
        return max(numbers) - min(numbers) <= self.slack

    def hidden(self, *keys: int) -> Row:
        """A row that sees none of some keys, at any block."""
        return Row((Hidden(keys, self.everywhere),))

    def hiding(self) -> bool:
        """Nothing hidden is the normal run, and what is hidden makes no difference."""
        [whole] = self.numbers(self.ids, Row())
        nothing, hidden = self.hidden(0, 0), self.hidden(SYSTEM, self.begin)
        same, without = self.numbers(self.ids, nothing, hidden, begin=self.begin)
        others = (*self.ids[:SYSTEM], *self.others[2 : 2 + HISTORY], *self.ids[self.begin :])
        [other] = self.numbers(others, hidden, begin=self.begin)
        return self.alike(whole, same) and self.alike(without, other)

    def renumbered(self) -> bool:
        """All hidden, and positions as without history: the run without history.

        Models that take no positions (ALiBi) know distances alone, which the cached keys keep.
        """
        if not self.tool.takes_positions:
            return True
        target = self.target(self.ids, self.tool.past_of(self.ids[: self.begin]), SYSTEM)
        [hidden] = target.numbers([self.hidden(SYSTEM, self.begin)])
        return self.alike(hidden, *self.numbers(self.without, Row(), begin=SYSTEM))

    @property
    def without(self) -> Prefix:
        """The prompt without its middle."""
        return (*self.ids[:SYSTEM], *self.ids[self.begin :])

    def resumed(self) -> bool:
        """A run resumed with its own states at any block is the same run."""
        target = self.target(self.ids, self.tool.past_of(self.ids[: self.begin]))
        parents, numbers = target.parents([Row()])
        ends = range(1, self.tool.depth + 1)
        return self.alike(*numbers, *(target.numbers([Row()], parents, k)[0] for k in ends))

    def patched(self) -> bool:
        """The own state put in changes nothing; the other run's last state gives its number."""
        target = self.target(self.ids, self.tool.past_of(self.ids[: self.begin]))
        without = self.target(self.without, self.tool.past_of(self.ids[:SYSTEM]))
        ([own], [number]), ([other], [wanted]) = (
            each.parents([Row()]) for each in (target, without)
        )
        same, last = target.patched_last(own, own), target.patched_last(own, other)[-1]
        return self.alike(number, *same) and self.alike(last, wanted)

    def attention(self) -> bool:
        """The last token alone is the same run; its weights sum to 1 at every block and head, in a
        model with attention sinks without these.
        """
        past, model = self.tool.past_of(self.ids[:-1]), self.tool.runtime.model
        weights, logits = look(self.tool, self.ids[-1], past, TOKENS - 1)
        one, two = (logits[token].item() for token in self.others[:2])
        if find_sinks(model):
            with without_sinks(model):
                weights, _ = look(self.tool, self.ids[-1], past, TOKENS - 1)
        sums = weights.sum(-1)
        whole = weights.shape[-1] == TOKENS and bool(((sums - 1).abs() <= 1e-2).all())
        return whole and self.alike(one - two, *self.numbers(self.ids, Row()))
