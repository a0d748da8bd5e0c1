"""Intervals, tests and power for the scores of the same examples at every history length.

Scores are arrays [H + 1, N]: a row per history length from 0, a column per example. Examples that
are not independent form a cluster, and clusters are what is resampled and what changes its sign:
several seeds of one target, or targets that were given one history. A number that cannot be
computed is None, with the reason under the same name and `_reason`.
"""

import gc
from collections.abc import Hashable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from core.records import cleaned

CONFIDENCE = 0.95
ALPHA = 0.05  # two-sided
POWER = 0.8
RESAMPLES = 2000  # of a bootstrap
MOST_FLIPS = 99_999  # of a permutation test; its smallest p-value is 1 / (1 + flips)
MOST_SIGNS = 10**8  # flips times clusters: what a permutation test may cost
BLOCK = 4_000_000  # numbers that are drawn at once

Stats = dict[str, Any]


class Clusters(NamedTuple):
    """Which examples belong together; `unit` says in the plural what a cluster is."""

    unit: str
    count: int
    of: np.ndarray  # [N], numbers from 0 to count - 1

    def sums(self, rows: np.ndarray) -> np.ndarray:
        """Rows [K, N] of examples -> sums over each cluster [count, K]."""
        return np.stack([np.bincount(self.of, row, self.count) for row in rows], axis=1)

    @property
    def independent(self) -> bool:
        """True where every example is a cluster of its own."""
        return self.count == len(self.of)


def find_clusters(targets: Sequence[Hashable], histories: Sequence[Hashable]) -> Clusters:
    """Clusters of examples that share a target or a history, directly or through other examples.

    Where targets recur under several histories and histories under several targets, a cluster is
    a connected part of that graph: the finest partition whose parts share nothing.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    target, history = _numbered(targets), _numbered(histories)
    recur = [max(numbers) + 1 < len(numbers) for numbers in (target, history)]
    ends = (target, history + max(target) + 1)  # nodes: first the targets, then the histories
    nodes = max(ends[1]) + 1
    graph = coo_array((np.ones(len(target)), ends), shape=(nodes, nodes))
    count, part = connected_components(graph, directed=False)
    unit = "groups of targets and histories" if all(recur) else "histories"
    return Clusters(unit if recur[1] else "targets", count, part[target])


def _numbered(names: Sequence[Hashable]) -> np.ndarray:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])


def stats_by_len(
    scores: np.ndarray,
    targets: Sequence[Hashable],
    histories: Sequence[Hashable],
    *,
    binary: bool,
) -> list[Stats]:
    """Interval, change against h = 0, test and power of scores [H + 1, N], an entry per length.

    `targets` and `histories` [N] name what each example was made from; examples of equal names
    are clustered. At h = 0 no history is read, so only targets are. `binary` says that a score is
    0 or 1. `p_holm` is corrected over the lengths from 1.
    """
    at_0 = find_clusters(targets, range(len(targets)))
    later = find_clusters(targets, histories)
    changes = 100 * (scores - scores[0])  # points
    p_values = change_p_values(scores, later, binary=binary)
    corrected = holm(p_values)
    draws = bootstrap_means(np.concatenate([scores, changes]), later)
    draws_0 = draws if later.count == at_0.count else bootstrap_means(scores[:1], at_0)
    found = []
    for h, row in enumerate(scores):
        clusters, drawn = (later, draws) if h else (at_0, draws_0)
        found.append(
            {"n": row.size, "n_targets": len(set(targets))}
            | {"clusters": {"unit": clusters.unit, "count": clusters.count}}
            | _interval(row, clusters, None if drawn is None else drawn[h], binary)
            | _change(h, scores, changes, draws, later)
            | _test(h, later, p_values[h], corrected[h], binary)
            | _detectable(h, changes[h], later, binary)
        )
    return found


# -- the parts of an entry


def _interval(row: np.ndarray, clusters: Clusters, drawn: Any, binary: bool) -> Stats:
    """Wilson for 0/1 scores of independent examples, else a bootstrap over the clusters."""
    if binary and clusters.independent:
        low, high = wilson(row)
        return {"low": low, "high": high, "interval": f"{CONFIDENCE:.0%} Wilson"}
    method = {"interval": f"{CONFIDENCE:.0%} bootstrap over {clusters.unit}"}
    return _ends("low", "high", drawn, clusters) | method


def _change(h: int, scores: np.ndarray, changes: np.ndarray, draws: Any, used: Clusters) -> Stats:
    """Change against h = 0 in points and in per cent, with paired bootstrap intervals."""
    moved = None if draws is None else draws[len(scores) + h]
    names = ("percent_change_low", "percent_change_high")
    found = {"change_points": float(changes[h].mean())}
    found |= _ends("change_points_low", "change_points_high", moved, used)
    found |= percent_change(float(scores[h].mean()), float(scores[0].mean()))
    if found["percent_change"] is None:
        return found | _nulls(found["percent_change_reason"], *names)
    if draws is not None and not draws[0].all():
        return found | _nulls("a resample has a metric of 0 at h = 0", *names)
    return found | _ends(*names, None if draws is None else moved / draws[0], used)


def percent_change(value: float, baseline: float) -> Stats:
    """100 (m(h) - m(0)) / m(0) as in Gupta et al.; null with the reason where the baseline is 0."""
    if baseline == 0:
        return _nulls("the metric is 0 at h = 0", "percent_change")
    return {"percent_change": 100 * (value - baseline) / baseline}


def _test(h: int, clusters: Clusters, p_value: Any, corrected: Any, binary: bool) -> Stats:
    names = ("test", "p_value", "p_holm")
    if h == 0:
        return _nulls("h = 0 is the baseline", *names)
    if p_value is None:
        return _nulls(_alone(clusters), *names)
    exact = "exact McNemar" if binary and clusters.independent else None
    test = exact or f"sign-flip permutation over {clusters.unit}"
    return {"test": test, "p_value": p_value, "p_holm": corrected}


def _detectable(h: int, changes: np.ndarray, clusters: Clusters, binary: bool) -> Stats:
    name = "detectable_points"
    if h == 0:
        return _nulls("h = 0 is the baseline", name)
    if not changes.any():
        return _nulls("no score differs from h = 0", name)
    if binary and clusters.independent:
        points = detectable_binary(float(np.mean(changes != 0)), changes.size)
    elif clusters.count < 2:
        return _nulls(_alone(clusters), name)
    else:
        points = detectable_mean(cluster_sd(changes, clusters), clusters.count)
    if points is None:
        return _nulls("too few scores for any difference to reach this power", name)
    if points < 1e-9:  # nothing but rounding
        return _nulls("the differences do not vary", name)
    return {name: points}


def _ends(low: str, high: str, drawn: np.ndarray | None, clusters: Clusters) -> Stats:
    """Percentile interval of resampled values, under these two names."""
    if drawn is None:
        return _nulls(_alone(clusters), low, high)
    return dict(zip((low, high), _percentiles(drawn)))


def _percentiles(drawn: np.ndarray) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    return tuple(np.quantile(drawn, (tail, 1 - tail)).tolist())


def _nulls(reason: str, *names: str) -> Stats:
    return {
        key: value for name in names for key, value in ((name, None), (f"{name}_reason", reason))
    }


def _alone(clusters: Clusters) -> str:
    return f"all examples belong to one cluster ({clusters.unit})"


# -- methods


def wilson(correct: np.ndarray) -> tuple[float, float]:
    """Wilson score interval of a proportion from independent 0/1 scores (Wilson 1927)."""
    from scipy.stats import binomtest

    found = binomtest(int(correct.sum()), len(correct)).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def bootstrap_means(rows: np.ndarray, clusters: Clusters) -> np.ndarray | None:
    """Means of rows [K, N] in RESAMPLES resamples of whole clusters [K, RESAMPLES].

    The bootstrap of Efron (1979) over clusters (Davison and Hinkley 1997, section 3.8): where
    clusters differ in size a mean is the ratio of two resampled sums. All rows share the draws,
    so that differences and ratios of rows are paired. The draws are the same in every call. None
    where there is but one cluster. `scipy.stats.bootstrap` knows no clusters and draws for each
    row anew, which is slow for thousands of examples at many lengths.
    """
    if clusters.count < 2:
        return None
    totals = clusters.sums(np.vstack([rows, np.ones(rows.shape[1])]))  # [clusters, K + 1]
    rng = np.random.default_rng(0)
    drawn = []
    for size in _blocks(RESAMPLES, clusters.count):
        picks = rng.integers(0, clusters.count, (size, clusters.count))
        counts = [np.bincount(pick, minlength=clusters.count) for pick in picks]
        drawn.append(np.array(counts, dtype=float) @ totals)
    sums = np.concatenate(drawn).T  # [K + 1, RESAMPLES]
    return sums[:-1] / sums[-1]


def mean_and_interval(values: np.ndarray, clusters: Clusters) -> tuple[list, Stats]:
    """Mean of each column of values [N, L], and its interval by Student's t over the clusters.

    What is not finite is left out and counted. The error of the mean is that of `cluster_sd`, with
    independent examples the usual one; a single cluster has a mean but no interval (None).
    """
    from scipy.stats import t

    known = np.isfinite(values)
    n = known.sum(axis=0)  # [L]
    total = np.where(known, values, 0).sum(axis=0)
    mean = np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)
    spread = clusters.sums(np.where(known, values - mean, 0).T)  # [clusters, L]
    count = (clusters.sums(known.T.astype(float)) > 0).sum(axis=0)  # clusters that are left [L]
    spare = np.maximum(count - 1, 1)
    error = np.sqrt(count * (spread**2).sum(axis=0) / spare) / np.maximum(n, 1)
    half = np.where(count > 1, t.ppf((1 + CONFIDENCE) / 2, spare) * error, np.nan)
    return cleaned(mean), {
        "low": cleaned(mean - half),
        "high": cleaned(mean + half),
        "interval": f"{CONFIDENCE:.0%} Student's t over {clusters.unit}",
        "excluded": (len(values) - n).tolist(),
    }


def change_p_values(scores: np.ndarray, clusters: Clusters, *, binary: bool) -> list[float | None]:
    """Two-sided p-value of the change of scores [H + 1, N] against their first row; None there.

    Exact McNemar for 0/1 scores of independent examples, else sign flips over the clusters; all
    None where there is but one cluster and no McNemar.
    """
    if binary and clusters.independent:
        return [None, *(mcnemar(row, scores[0]) for row in scores[1:])]
    if clusters.count < 2 or len(scores) < 2:
        return [None] * len(scores)
    return [None, *sign_flip(scores[1:] - scores[0], clusters).tolist()]


def mcnemar(scores: np.ndarray, baseline: np.ndarray) -> float:
    """Exact two-sided McNemar p-value of paired 0/1 scores (McNemar 1947); 1 where none differ."""
    from statsmodels.stats.contingency_tables import mcnemar as test

    gained, lost = int((scores > baseline).sum()), int((scores < baseline).sum())
    return float(test([[0, gained], [lost, 0]], exact=True).pvalue)


def sign_flip(changes: np.ndarray, clusters: Clusters) -> np.ndarray:
    """Two-sided p-values [H] of mean changes [H, N] by flipping the sign of whole clusters.

    Under the null hypothesis a cluster's summed change is as likely as its negative (Fisher 1935;
    over clusters Canay, Romano and Shaikh 2017). It tests the mean that is reported; Wilcoxon's
    test ranks, drops the many ties of ROUGE and can contradict the mean. Every sign pattern is
    used where there are at most MOST_FLIPS of them, else random ones, counted with the observed
    one; C clusters cannot give less than 2 / 2**C. What `scipy.stats.permutation_test` computes,
    vectorised over lengths: it takes minutes for 10,000 examples.
    """
    sums = clusters.sums(changes)  # [clusters, H]
    # Equal sums must count as equal whatever the order they were added in.
    reached = np.abs(sums.sum(axis=0)) - 1e-9 * np.abs(sums).sum(axis=0)
    flips = as_extreme = 0
    for signs in _sign_patterns(clusters.count):
        flips += len(signs)
        as_extreme = as_extreme + (np.abs(signs @ sums) >= reached).sum(axis=0)
    if 2**clusters.count <= MOST_FLIPS:
        return as_extreme / flips
    return (1 + as_extreme) / (1 + flips)


def _sign_patterns(count: int) -> Iterator[np.ndarray]:
    """Blocks of rows of -1 and 1, [rows, count]: each pattern once, or a random lot of them."""
    if 2**count <= MOST_FLIPS:
        start = 0
        for rows in _blocks(2**count, count):
            numbers = np.arange(start, start := start + rows)
            yield 2.0 * (numbers[:, None] >> np.arange(count) & 1) - 1
        return
    rng = np.random.default_rng(0)
    for rows in _blocks(min(MOST_FLIPS, MOST_SIGNS // count), count):
        bits = np.unpackbits(rng.integers(0, 256, (rows, -(-count // 8)), dtype=np.uint8), axis=1)
        yield 2.0 * bits[:, :count] - 1


def _blocks(rows: int, width: int) -> Iterator[int]:
    """Numbers of rows that add up to `rows`, each of at most BLOCK numbers."""
    most = max(1, BLOCK // width)
    yield from (min(most, rows - start) for start in range(0, rows, most))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected over all that are there (Holm 1979); None stays None."""
    from statsmodels.stats.multitest import multipletests

    there = [p for p in p_values if p is not None]
    gc.freeze()  # multipletests collects garbage, half a second's work beside a loaded model
    try:
        corrected = iter(multipletests(there, method="holm")[1].tolist() if there else ())
    finally:
        gc.unfreeze()
    return [None if p is None else next(corrected) for p in p_values]


def detectable_binary(discordant: float, n: int) -> float | None:
    """Smallest change (points) that McNemar's test finds at POWER, ALPHA two-sided; None for none.

    Solves sqrt(n) d = z_alpha sqrt(r) + z_power sqrt(r - d^2) of Connor (1987) for d, with r the
    rate of discordant pairs; d cannot exceed r. The exact test needs a little more.
    """
    from scipy.stats import norm

    a, b = norm.ppf(1 - ALPHA / 2), norm.ppf(POWER)
    if n < a**2 - b**2:
        return None
    d = np.sqrt(discordant) * (a * np.sqrt(n) + b * np.sqrt(n + b**2 - a**2)) / (n + b**2)
    return None if d > discordant else float(100 * d)


def detectable_mean(sd: float, n: int) -> float | None:
    """Smallest mean change that a paired t-test finds at POWER, ALPHA two-sided, in units of `sd`.

    From the noncentral t of statsmodels (Cohen 1988), which sign flips over n clusters approach;
    None where it is more than the 100 points that there are.
    """
    points = sd * _detectable_effect(n)
    return None if points > 100 else points


@cache
def _detectable_effect(n: int) -> float:
    from statsmodels.stats.power import TTestPower

    found = TTestPower().solve_power(nobs=n, alpha=ALPHA, power=POWER, alternative="two-sided")
    return float(np.squeeze(found))


def cluster_sd(values: np.ndarray, clusters: Clusters) -> float:
    """Standard deviation of clusters' parts in a mean, which has the error sd / sqrt(clusters).

    The linearised ratio estimator (Cochran 1977, section 6.4): a cluster's sum less its size times
    the mean, over the mean size. Where every example is a cluster it is the plain one.
    """
    totals = clusters.sums(np.stack([values - values.mean(), np.ones_like(values)]))
    return float(np.std(totals[:, 0] / totals[:, 1].mean(), ddof=1))
