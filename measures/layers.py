"""What is read at each layer: the measures of one example, and their means over examples.

Layers are blocks 1..L. An example is one entry of a debug log; its layer measures are lists of one
number per block, null where a hidden state was not finite. Used by the run and by viz. No torch.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from core.debug_log import Example, Row
from core.schema import cleaned
from measures.stats import Clusters, mean_and_interval
from measures.table import ByLen, all_have

# Name of a measure in a result's `..._by_len` -> its key in an example of the debug log
EXAMPLE_KEYS = {
    **{"cos": "cosines", "cos_centred": "cosines_centred"},
    **{name: name for name in ("drift", "margin", "agree")},
}


# -- one example


def margin(label_logits: Mapping[str, Sequence[float]], reference: str) -> Row:
    """Lens log-odds (nats) of the reference label against the best other label at each block.

    Labels part at one token, so that the difference of its logits is the difference of log P.
    """
    others = [row for label, row in label_logits.items() if label != reference]
    best = np.max(np.array(others, dtype=float), axis=0)
    return cleaned(np.array(label_logits[reference], dtype=float) - best)


def leads(label_logits: Mapping[str, Sequence[float]], label: str) -> list[bool]:
    """At which blocks does this label have the highest lens logit, all of them being finite?"""
    every = np.array(list(label_logits.values()), dtype=float)  # [labels, L]
    own = np.array(label_logits[label], dtype=float)
    return ((own >= every) & np.isfinite(every)).all(axis=0).tolist()


def first_kept(holds: Sequence[bool]) -> int | None:
    """The first block from which on something holds at every block, from 1; None where it does not
    hold at the last.
    """
    kept = len(holds)
    while kept and holds[kept - 1]:
        kept -= 1
    return kept + 1 if kept < len(holds) else None


# -- many examples
# Smallest and largest value of each
BOUNDS = {"cos": (-1.0, 1.0), "cos_centred": (-1.0, 1.0), "drift": (-1.0, 1.0)}
BOUNDS |= {"margin": (-np.inf, np.inf), "agree": (0.0, 1.0)}


def columns(example: Example) -> Iterator[tuple[Hashable, Any]]:
    """The layer measures that an example has, under their keys there."""
    for key in (*EXAMPLE_KEYS.values(), "decision_layer"):
        if key in example:
            yield key, example[key]


def aggregate(by_len: ByLen, at_0: Clusters, later: Clusters) -> dict[str, Any]:
    """Every layer aggregate of a result file; {} for a measure that was not read.

    `..._by_len` holds the mean over examples at each block; `decision_layer_by_len` the number of
    examples decided at each block; `layer_stats_by_len` the intervals, and at each block how many
    examples were left out since their value was not finite. The clusters are those of the examples
    at h = 0 and at longer histories.
    """
    found: dict[str, Any] = {}
    stats: dict[str, dict[str, Any]] = {h: {} for h in by_len}
    clusters = {h: later if int(h) else at_0 for h in by_len}
    for name, key in EXAMPLE_KEYS.items():
        found[f"{name}_by_len"] = {}
        for h, values in _tables(by_len, key).items():
            found[f"{name}_by_len"][h], stats[h][name] = mean_and_interval(values, clusters[h])
    depth = max((len(row) for row in found["cos_by_len"].values()), default=0)
    found["decision_layer_by_len"] = {}
    for h, values in _tables(by_len, "decision_layer").items():
        counts = [int((values == block).sum()) for block in range(1, depth + 1)]
        found["decision_layer_by_len"][h] = counts
        stats[h]["decision_layer"] = _decision_stats(values, clusters[h])
    return found | {"layer_stats_by_len": stats if any(stats.values()) else {}}


def _tables(by_len: ByLen, key: str) -> dict[str, np.ndarray]:
    """A measure by history length, an entry per example, NaN for null; {} unless all have it."""
    if not all_have(by_len, key):
        return {}
    return {h: group.values(key) for h, group in by_len.items()}


def _decision_stats(decided: np.ndarray, clusters: Clusters) -> dict[str, Any]:
    """Mean decision layer of the examples that have one [N], and how many have none."""
    [mean], stats = mean_and_interval(decided[:, None], clusters)
    return {
        "mean": mean,
        "low": stats["low"][0],
        "high": stats["high"][0],
        "interval": stats["interval"],
        "undecided": stats["excluded"][0],
    }
