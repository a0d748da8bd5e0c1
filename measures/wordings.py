"""How far a metric, and a switch contrast, move with the wording of the prompts.

The same targets were run after the same rows under each wording, so that what differs between
wordings is theirs. A spread is from the lowest to the highest of them; it is no interval.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from core.keys import WORDING, Key
from measures.contrasts import OWN, SCORE, Side, paired_sides, unlike

Record = dict[str, Any]


class Spread(NamedTuple):
    """A number under each of several wordings, by history length."""

    key: Key  # of the results, the wording left blank
    against: str | None  # the own task, of a contrast in points; None of a metric (fraction)
    metric: str
    by_len: dict[int, list[float]]  # h -> the number under each wording, in their order

    @property
    def wordings(self) -> int:
        """How many there are."""
        return len(self.by_len[0])

    def at(self, h: int) -> tuple[float, float, float]:
        """Mean, lowest and highest at a history length."""
        values = self.by_len[h]
        return sum(values) / len(values), min(values), max(values)


def spreads(results: Mapping[Key, Record]) -> list[Spread]:
    """The metric of each pair that was run in several wordings, and then its difference to the
    target's own task; at the history lengths that all have.
    """
    values = [
        (key.without(WORDING), None, result["metric_name"], _metric(result))
        for key, result in results.items()
        if WORDING in key.fields
    ]
    if not values:
        return []
    sides = paired_sides(results, "distractor", OWN, SCORE)
    values += [
        (first.key.without(WORDING), own.name, first.metric, _less(first, own))
        for first, own in sides
        if _same_targets(first, own)
    ]
    groups: dict[tuple, list[dict[int, float]]] = {}
    for *named, by_len in values:
        groups.setdefault(tuple(named), []).append(by_len)
    return [Spread(*named, _together(each)) for named, each in groups.items() if len(each) > 1]


def _metric(result: Record) -> dict[int, float]:
    return {int(h): value for h, value in result["metric_by_len"].items()}


def _less(first: Side, own: Side) -> dict[int, float]:
    """Points that the first side has more than the own task, at the lengths of both."""
    one, two = _metric(first.result), _metric(own.result)
    return {h: 100 * (one[h] - two[h]) for h in one if h in two}


def _same_targets(first: Side, own: Side) -> bool:
    """Were the same targets scored in the same way, so that means can be subtracted?"""
    counts = [(side.result["n"], side.result["skipped_target_idx"]) for side in (first, own)]
    return counts[0] == counts[1] and not unlike(first, own)


def _together(of_wordings: Sequence[dict[int, float]]) -> dict[int, list[float]]:
    shared = [h for h in of_wordings[0] if all(h in each for each in of_wordings)]
    return {h: [each[h] for each in of_wordings] for h in shared}
