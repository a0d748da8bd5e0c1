"""Simulated coverage of the intervals, and size of the tests: what docs/statistics.md states.

    python scripts/coverage.py --draws 1000

Scores with a known mean are drawn, given to the code that makes a result's statistics, and counted:
how often an interval holds the true value (coverage, wanted 0.93 to 0.98, the mean over four
true changes), and how often a test finds a change where there is none (size, wanted at most 0.055).
Status 1 where a cell is outside. "null" is the share of draws that have no interval.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy.stats import beta, norm

sys.path.insert(0, str(Path(__file__).parents[1]))
from measures import paired, stats

SIZES = (10, 20, 50, 100, 300)
CLUSTERS = (6, 8, 12, 30)
OF_A_CLUSTER = (3, 5, 4, 7, 6, 2)  # examples, in turn
CHANGES = (0.0, 0.1, 0.2, 0.3)  # true falls of accuracy, or rises of ROUGE's share of zeros
BEFORE = {"accuracy": 0.6, "rouge": 0.45}  # share of ones, or of zeros
OF_TARGET, OF_CLUSTER = 0.2, 0.4  # shares of variance: of a target, and of a cluster in the rest
NULL_DRAWS = 10  # times as many without a change, for the size
BATCH = 50  # draws whose sign flips are computed at once
FLIPS = 1_999  # random flips: few, so that it takes minutes
COVERAGE, LARGEST_SIZE = (0.93, 0.98), 0.055
COLUMNS = ("scores", "examples", "change", "null", "size", "percent", "metric", "layers")


def quantiles(kind: str, change: float, u: np.ndarray) -> np.ndarray:
    """Scores at these ranks: 0/1, or ROUGE-like with many zeros."""
    share = BEFORE[kind] + (-change if kind == "accuracy" else change)
    if kind == "accuracy":
        return (u < share).astype(float)
    return np.where(u < share, 0, beta.ppf((u - share) / (1 - share), 2, 3))


def true_mean(kind: str, change: float) -> float:
    """Mean of such scores."""
    if kind == "accuracy":
        return BEFORE[kind] - change
    return (1 - BEFORE[kind] - change) * 2 / 5


def draw(rng: np.random.Generator, draws: int, clusters: stats.Clusters) -> list[np.ndarray]:
    """Ranks [draws, N] without and with a history: of one target, and clusters share the latter."""
    shape = (draws, len(clusters.of))
    target, own, other = (rng.normal(size=shape) for _ in range(3))
    shared = rng.normal(size=(draws, clusters.count))[:, clusters.of]
    if not clusters.independent:
        other = OF_CLUSTER**0.5 * shared + (1 - OF_CLUSTER) ** 0.5 * other
    rest = (1 - OF_TARGET) ** 0.5
    return [norm.cdf(OF_TARGET**0.5 * target + rest * each) for each in (own, other)]


def designs() -> list[tuple[str, stats.Clusters]]:
    """Independent examples of each size, and clusters of unequal size."""
    found = [(f"{n}", stats.find_clusters(range(n), range(n))) for n in SIZES]
    for count in CLUSTERS:
        of = np.repeat(np.arange(count), np.resize(OF_A_CLUSTER, count)).tolist()
        found.append((f"{count} clusters", stats.find_clusters(range(len(of)), of)))
    return found


def simulate(kind: str, clusters: stats.Clusters, draws: int) -> dict[str, float]:
    """Coverage of each interval, the mean over CHANGES, and the size of the test."""
    rng, binary = np.random.default_rng(1), kind == "accuracy"
    of_change = [_coverage(rng, kind, clusters, change, draws) for change in CHANGES]
    found = []
    for _ in range(NULL_DRAWS * draws // BATCH):
        before, after = (quantiles(kind, 0, u) for u in draw(rng, BATCH, clusters))
        entries = stats.compare(after, before, clusters, binary=binary)
        found += [entry["p_value"] < paired.ALPHA for entry in entries]
    pooled = {name: _mean([cell[name] for cell in of_change]) for name in of_change[0]}
    return pooled | {"size": float(np.mean(found))}


def _coverage(
    rng: np.random.Generator, kind: str, clusters: stats.Clusters, change: float, draws: int
) -> dict[str, float]:
    """Coverage of each interval under one true change, and the share that is null."""
    held: dict[str, list[bool]] = {name: [] for name in ("change", "percent", "metric", "layers")}
    truth, start, binary = true_mean(kind, change), true_mean(kind, 0), kind == "accuracy"
    for _ in range(max(1, draws // BATCH)):
        ranks = draw(rng, BATCH, clusters)
        before, after = quantiles(kind, 0, ranks[0]), quantiles(kind, change, ranks[1])
        entries = stats.compare(after, before, clusters, binary=binary)
        held["change"] += covered(entries, "change_points", 100 * (truth - start))
        held["percent"] += covered(entries, "percent_change", 100 * (truth / start - 1))
        metric = [stats.mean_interval(row, clusters, binary=binary) for row in after]
        held["metric"] += covered(metric, "", truth)
        _, layer = stats.mean_and_interval(beta.ppf(ranks[1], 8, 2).T, clusters)
        held["layers"] += [low <= 0.8 <= high for low, high in zip(layer["low"], layer["high"])]
    share = {name: _mean(row) for name, row in held.items()}
    return share | {"null": 1 - len(held["change"]) / len(held["metric"])}


def _mean(values: list) -> float:
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else np.nan


def covered(entries: list[dict], name: str, truth: float) -> list[bool]:
    """Whether each interval that is there holds the truth."""
    low, high = (f"{name}_{end}".lstrip("_") for end in ("low", "high"))
    return [each[low] <= truth <= each[high] for each in entries if each[low] is not None]


def main() -> int:
    """Print the table; 1 where a cell is outside."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=1000, help="of each cell (%(default)s)")
    draws = parser.parse_args().draws
    paired.MOST_FLIPS, outside = FLIPS, 0
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for kind in BEFORE:
        for name, clusters in designs():
            cell = simulate(kind, clusters, draws)
            cells = [f"{cell[column]:.3f}".replace("nan", "null") for column in COLUMNS[2:]]
            print(f"| {kind} | {name} | {' | '.join(cells)} |", flush=True)
            known = [cell[c] for c in ("change", "percent", "metric", "layers")]
            outside += sum(not COVERAGE[0] <= x <= COVERAGE[1] for x in known if x == x)
            outside += cell["size"] > LARGEST_SIZE
    print(f"\n{outside} cells are outside." if outside else "\nNo cell is outside.")
    return int(outside > 0)


if __name__ == "__main__":
    sys.exit(main())
