"""Ability or variance: how good a target is at its best, and how far its histories differ.

As Laban et al. (arXiv 2505.06120) define them, for a target with a score per history: its aptitude
is the 90th percentile of the scores, its unreliability the 90th less the 10th. Both are means over
targets. Percentiles are interpolated linearly (numpy's default), so that two histories with the
scores 0 and 1 have the percentiles 0.1 and 0.9.

At h = 0 no history is read, so that all scores of a target are one: its unreliability is 0 and its
aptitude its score. Scores that vary without any loss of the mean then have more aptitude.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from measures import stats
from measures.stats import Clusters

PERCENTILES = (10, 90)


def reliability_by_len(
    scores: Mapping[str, np.ndarray], targets: Sequence[int], later: Clusters
) -> dict[str, Any]:
    """Mean, aptitude and unreliability (fractions) by history length; {} with one history each.

    `scores` [N] of each length are of the `targets` [N], which are in order; `later` are their
    clusters. The changes against h = 0 are in points, paired by target, with the intervals of
    `stats.compare`.

    Raises ValueError unless every target has as many histories.
    """
    counts = Counter(targets)
    histories, *others = set(counts.values())
    if others:
        raise ValueError("the targets have different numbers of histories")
    if histories == 1:
        return {}
    rows = np.reshape(list(scores.values()), (len(scores), len(counts), histories))
    low, high = np.percentile(rows, PERCENTILES, axis=2)  # [H + 1, targets]
    clusters = later._replace(of=later.of[::histories])  # those of a target are in one cluster
    found = {
        "mean": rows.mean(axis=(1, 2)).tolist(),
        "aptitude": high.mean(axis=1).tolist(),
        "unreliability": (high - low).mean(axis=1).tolist(),
    }
    changes = zip(
        _changes("aptitude", high, clusters), _changes("unreliability", high - low, clusters)
    )
    return {
        h: {"histories": histories, **dict(zip(found, values)), **aptitude, **unreliability}
        for h, *values, (aptitude, unreliability) in zip(scores, *found.values(), changes)
    }


def _changes(name: str, rows: np.ndarray, clusters: Clusters) -> list[dict[str, Any]]:
    """Change (points) of the mean of rows [H + 1, targets] against the first, with its interval."""
    first = dict.fromkeys(("change_points", *stats.POINTS), 0.0)
    before = np.broadcast_to(rows[0], rows[1:].shape)
    later = stats.compare(rows[1:], before, clusters, binary=False)
    return [
        {
            key.replace("change_points", f"{name}_change"): value
            for key, value in entry.items()
            if key.startswith("change_points")
        }
        for entry in (first, *later)
    ]
