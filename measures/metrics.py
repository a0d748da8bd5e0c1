"""Aggregates over examples, computed by the run and again by viz, so that they cannot disagree."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from core.debug_log import Example
from core.schema import PROPORTIONS, TEXT_SCORES
from measures import effects, intrusion, layers, sensitivity, stats, ties
from measures.reliability import reliability_by_len
from measures.scoring import label_score
from measures.table import ByLen, Group, Table, all_have, identity

MOST_FREQUENT = 5  # most frequent tokens that are kept


class Examples(Table):
    """The examples of a pair, put in one by one, as far as aggregates need them."""

    def __init__(self) -> None:
        super().__init__(columns)
        self.tokens: dict[int, dict[str, list[Any]]] = {}  # h -> token -> count, first place

    def add(self, example: Example) -> None:
        """Put an example in."""
        super().add(example)
        seen = self.tokens.setdefault(example["config"]["history_len"], {})
        for number, token in enumerate(example["top5"]):
            place = (identity(example), number)
            count, first = seen.get(token, (0, place))
            seen[token] = (count + 1, min(first, place))

    def top_tokens(self, h: str) -> list[list[Any]]:
        """The most frequent tokens among the likeliest next tokens at h, with their counts; of
        equally frequent ones those that come first in the order of the targets.
        """
        places = self.tokens[int(h)].items()
        ranked = sorted(places, key=lambda entry: (-entry[1][0], entry[1][1]))
        return [[token, count] for token, (count, _) in ranked[:MOST_FREQUENT]]


def columns(example: Example) -> Iterator[tuple[Hashable, Any]]:
    """Every number of an example that an aggregate needs, with the name of its column."""
    yield "score", example["score"]
    if "cued" in example:
        yield "cued_score", example["cued"]["score"]
    if "scores" in example:
        yield "scores", [example["scores"][name] for name in TEXT_SCORES]
    if "format_failure" in example:
        yield "format_failure", example["format_failure"]
    if "label_bounds" in example:
        yield "bounded_labels", len(example["label_bounds"])
    if "generated_score" in example:
        yield "generated_score", example["generated_score"]
        yield "likeliest_score", label_score(example["label_logprobs"], example["expected_answer"])
    yield from sensitivity.columns(example)
    yield from ties.columns(example)
    yield from intrusion.columns(example)
    yield from effects.columns(example)
    yield from layers.columns(example)


def aggregate(
    examples: Iterable[Example],
    metric_name: str,
    rounding: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """`aggregate_examples` of these."""
    found = Examples()
    for example in examples:
        found.add(example)
    return aggregate_examples(found, metric_name, rounding)


def aggregate_examples(
    examples: Examples, metric_name: str, rounding: Mapping[str, float | None] | None = None
) -> dict[str, Any]:
    """Every aggregate of a result file, from the examples of one pair.

    `rounding` is that of `ties.ties_by_len`.

    Raises ValueError unless the examples are the same targets, each once under a seed, at every
    history length, 0 among them. The statistics of each length are those of `stats.stats_by_len`.
    """
    by_len = examples.by_length()
    shared, names = zip(*examples.in_order())
    targets, histories = [each.target for each in names], [each.history for each in names]
    at_0 = stats.find_clusters(targets, shared)
    later = stats.find_clusters(targets, histories)
    by_h = {h: group.values("score") for h, group in by_len.items()}
    scores = np.array(list(by_h.values()))
    binary = metric_name in PROPORTIONS
    of_scores = stats.stats_by_len(scores, targets, histories, binary=binary)
    different = {"n_targets": len({each.question for each in names})}
    return {
        "n": by_len["0"].n,
        "metric_by_len": {h: float(row.mean()) for h, row in by_h.items()},
        "debug_top5_by_len": {h: examples.top_tokens(h) for h in by_len},
        "stats_by_len": {h: entry | different for h, entry in zip(by_len, of_scores)},
        "scores_by_len": _mean_scores(by_len),
        "format_failures_by_len": _counts(by_len, "format_failure"),
        "reads_by_len": _reads(by_len),
        "bounded_labels_by_len": _counts(by_len, "bounded_labels"),
        "cue_by_len": _cue(by_len, targets, histories, binary),
        "ties_by_len": ties.ties_by_len(by_len, rounding),
        "sensitivity_by_len": sensitivity.sensitivity_by_len(by_len, at_0, later),
        "effects_by_len": effects.effects_by_len(by_len, later),
        "intrusion_by_len": intrusion.intrusion_by_len(by_len, at_0, later),
        "reliability_by_len": reliability_by_len(by_h, [target for target, _ in shared], later),
    } | layers.aggregate(by_len, at_0, later)


def _mean_scores(by_len: ByLen) -> dict[str, dict[str, float]]:
    """Mean of each of a text's scores by history length; {} for a label task."""
    if not all_have(by_len, "scores"):
        return {}
    return {h: dict(zip(TEXT_SCORES, _means(group, "scores"))) for h, group in by_len.items()}


def _means(group: Group, name: Hashable) -> list[float]:
    return [float(np.mean(column)) for column in np.atleast_2d(group.values(name).T).copy()]


def _counts(by_len: ByLen, name: str) -> dict[str, int]:
    """Sums of a column: texts without the number or label that is scored, or labels that a server
    did not list among the likeliest tokens; {} where there are none to count.
    """
    if not all_have(by_len, name):
        return {}
    return {h: int(group.values(name).sum()) for h, group in by_len.items()}


# Accuracy by likelihood and by text side by side -> the columns that they are means of
READS = {
    "likelihood": "likeliest_score",
    "generate": "generated_score",
    "format_failure_rate": "format_failure",
}


def _reads(by_len: ByLen) -> dict[str, dict[str, float]]:
    """READS by history length; {} unless both were read."""
    if not all_have(by_len, "generated_score"):
        return {}
    return {
        h: {name: _means(group, column)[0] for name, column in READS.items()}
        for h, group in by_len.items()
    }


def _cue(
    by_len: ByLen, targets: Sequence[Hashable], histories: Sequence[Hashable], binary: bool
) -> dict[str, dict[str, Any]]:
    """What a cue before the target changes, on the same targets under the same histories.

    From h = 1: the metric with the cue, and the statistics of its difference to the metric without.
    """
    longer = {h: group for h, group in by_len.items() if int(h)}
    if not longer or not all_have(longer, "cued_score"):
        return {}
    found = {}
    for h, group in longer.items():
        rows = np.array([group.values("score"), group.values("cued_score")])
        compared = stats.stats_by_len(rows, targets, histories, binary=binary)[1]
        found[h] = {"metric": float(rows[1].mean()), **compared}
    corrected = stats.holm([entry["p_value"] for entry in found.values()])
    for entry, p_holm in zip(found.values(), corrected):
        entry["p_holm"] = p_holm
    return {"0": {}} | found
