"""The effects of a history in a run: which parts of them, and each example's own."""

import sys
from collections.abc import Sequence

from core.debug_log import Example
from data import Case
from lm.interface import LocalModel
from lm.prompts import Prompt
from run.config import RunConfig


def say_left_out(config: RunConfig, lm: LocalModel) -> None:
    """Name the parts that are asked for and not exact for this model; the rest is run."""
    left_out = [part for part in config.effect_parts or () if part not in lm.exact_effects]
    if left_out:
        print(
            f"{type(lm.model).__name__}: --effects {' '.join(left_out)} would not be exact for "
            "this model and is left out.",
            file=sys.stderr,
        )


def effect_reads(config: RunConfig) -> int:
    """What the effects of a case count for in the progress: a prompt for each length from 1."""
    return 0 if config.effects is None else len(config.run_lengths) - 1


def effects_of(
    case: Case, prompts: Sequence[Prompt], config: RunConfig, lm: LocalModel
) -> list[Example]:
    """`spans` and `effects` of a case's examples from h = 1 on; `prompts` from h = 0.

    [] where the run asks for none, or the model allows none.
    """
    parts = [part for part in config.effect_parts or () if part in lm.exact_effects]
    if not parts:
        return []
    messages = [case.messages(h) for h in config.run_lengths]
    reference = case.target.references[0]
    return lm.effects(
        messages,
        prompts,
        reference,
        parts,
        window=config.effect_window,
        all_lengths=config.effect_lengths == "all",
    )
