"""Label predictions that rounding may have decided: ties, and margins below what rounding does."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from core.debug_log import Example
from measures.table import ByLen, all_have

MARGIN = "label_margin"  # column: how far the best label is before the second


def columns(example: Example) -> Iterator[tuple[Hashable, Any]]:
    """MARGIN, where it is known."""
    if (found := margin(example)) is not None:
        yield MARGIN, found


def ties_by_len(
    by_len: ByLen, rounding: Mapping[str, float | None] | None
) -> dict[str, dict[str, int | None]]:
    """By history length how many predictions are `tied`, their two best labels having one log P,
    and how many are `close`: their margin is at most what `rounding` was seen to do.

    `rounding` holds differences (nats) between roads to the same log P, as `environment.rounding`
    of a result does; without it `close` is null. {} unless labels were scored.
    """
    if not all_have(by_len, MARGIN):
        return {}
    margins = {h: group.values(MARGIN) for h, group in by_len.items()}
    seen = max((each for each in (rounding or {}).values() if each is not None), default=None)
    return {
        h: {
            "tied": int((group == 0).sum()),
            "close": None if seen is None else int((group <= seen).sum()),
        }
        for h, group in margins.items()
    }


def margin(example: Mapping[str, Any]) -> float | None:
    """How far the best label is before the second (nats); None without two labels."""
    scores = sorted(example.get("label_logprobs", {}).values())
    return scores[-1] - scores[-2] if len(scores) > 1 else None


def close_calls(results: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Predictions of some results that are close, and all of their label predictions."""
    labelled = [result for result in results if result["ties_by_len"]]
    counts = (each["close"] or 0 for r in labelled for each in r["ties_by_len"].values())
    return sum(counts), sum(r["n"] * len(r["ties_by_len"]) for r in labelled)
