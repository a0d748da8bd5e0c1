"""Intervals, tests and power for the scores of the same examples at every history length.

Scores are arrays [H + 1, N]: a row for h = 0 and for each of H lengths, a column per example.
Examples that are not independent form a cluster, and clusters are what changes its sign and what an
interval's degrees of freedom count: several seeds of one target, or targets that were given one
history. A number that cannot be computed is None, with the reason under the same name and
`_reason`.
"""

import gc
from collections.abc import Hashable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from core.schema import cleaned
from measures import paired
from measures.paired import ALPHA, CONFIDENCE

POWER = 0.8
FEWEST = 7  # clusters that differ: from fewer, an interval does not cover
FEWEST_OF_RATIO = 12  # clusters: from fewer, an interval of a percentage does not cover

Stats = dict[str, Any]


class Clusters(NamedTuple):
    """Which examples belong together; `unit` says in the plural what a cluster is."""

    unit: str
    count: int
    of: np.ndarray  # [N], numbers from 0 to count - 1

    def sums(self, rows: np.ndarray) -> np.ndarray:
        """Rows [K, N] of examples -> sums over each cluster [count, K]."""
        return np.stack([np.bincount(self.of, row, self.count) for row in rows], axis=1)

    def among(self, kept: np.ndarray) -> "Clusters":
        """Those of the examples that are kept [N], numbered anew."""
        names, of = np.unique(self.of[kept], return_inverse=True)
        return Clusters(self.unit, len(names), of)

    @property
    def independent(self) -> bool:
        """True where every example is a cluster of its own."""
        return self.count == len(self.of)


def find_clusters(targets: Sequence[Hashable], *histories: Sequence[Hashable]) -> Clusters:
    """Clusters of examples that share a target or a history, directly or through other examples.

    Each of `histories` names a history of every example; two where two results are compared.

    Where targets recur under several histories and histories under several targets, a cluster is
    a connected part of that graph: the finest partition whose parts share nothing.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    target, *others = map(_numbered, (targets, *histories))
    recur = [max(numbers) + 1 < len(numbers) for numbers in (target, *others)]
    starts = np.cumsum([max(numbers) + 1 for numbers in (target, *others)])  # nodes: targets first
    ends = [history + start for history, start in zip(others, starts)]
    edges = (np.tile(target, len(ends)), np.concatenate(ends))
    graph = coo_array((np.ones(len(edges[0])), edges), shape=(starts[-1], starts[-1]))
    count, part = connected_components(graph, directed=False)
    unit = "groups of targets and histories" if recur[0] else "histories"
    return Clusters(unit if any(recur[1:]) else "targets", count, part[target])


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
    before = np.broadcast_to(scores[0], scores[1:].shape)
    changes = compare(scores[1:], before, later, binary=binary)
    corrected = holm([entry["p_value"] for entry in changes])
    for entry, p_holm in zip(changes, corrected):
        entry |= _nulls(entry["p_value_reason"], "p_holm") if p_holm is None else {"p_holm": p_holm}
    found = []
    for h, (row, change) in enumerate(zip(scores, [_baseline(scores[0]), *changes])):
        used = later if h else at_0
        found.append(
            {"n": row.size, "n_targets": len(set(targets))}
            | {"clusters": {"unit": used.unit, "count": used.count}}
            | mean_interval(row, used, binary=binary)
            | change
        )
    return found


def _baseline(row: np.ndarray) -> Stats:
    """What there is of a change at h = 0, where it is 0 by definition."""
    percent = percent_change(float(row.mean()), float(row.mean()))
    names = ("percent_change_low", "percent_change_high")
    known = percent["percent_change"] is not None
    reason = percent.get("percent_change_reason", "")
    return (
        dict.fromkeys(("change_points", "change_points_low", "change_points_high"), 0.0)
        | percent
        | (dict.fromkeys(names, 0.0) if known else _nulls(reason, *names))
        | _nulls("h = 0 is the baseline", "test", "p_value", "p_holm", "detectable_points")
    )


def percent_change(value: float, baseline: float) -> Stats:
    """100 (m(h) - m(0)) / m(0) as in Gupta et al.; null with the reason where the baseline is 0."""
    if baseline == 0:
        return _nulls("the metric is 0 at h = 0", "percent_change")
    return {"percent_change": 100 * (value - baseline) / baseline}


# -- differences


def compare(
    after: np.ndarray,
    before: np.ndarray,
    clusters: Clusters,
    *,
    binary: bool,
    room: float | None = None,
) -> list[Stats]:
    """Change of the means of scores [H, N], in points and per cent, with intervals, test and power.

    Each row of `after` is paired with the same row of `before`. 0/1 scores of independent examples
    are compared by McNemar's mid-p test, others by sign flips over the clusters. `room` is the
    largest change that can be there to be detected; None: that of scores from 0 to 1.
    """
    exact = binary and clusters.independent
    tested = (_compare_counts if exact else _compare_flips)(after, before, clusters)
    return [
        {"change_points": float(100 * (x - y).mean())}
        | percent_change(float(x.mean()), float(y.mean()))
        | entry
        | _detectable(
            100 * (x - y), clusters, binary, 100 * (room_around(y) if room is None else room)
        )
        for x, y, entry in zip(after, before, tested)
    ]


def room_around(*scores: np.ndarray, low: float = 0.0, high: float = 1.0) -> float:
    """The largest change from the mean of some scores [N] to what a mean can be."""
    means = [score.mean() for score in scores]
    return float(max(high - min(means), max(means) - low))


POINTS = ("change_points_low", "change_points_high")
PERCENT = ("percent_change_low", "percent_change_high")


def _compare_counts(after: np.ndarray, before: np.ndarray, clusters: Clusters) -> list[Stats]:
    found = []
    for pairs in map(paired.count_pairs, after, before):
        low, high = paired.difference_interval(pairs)
        entry = {"test": "mid-p McNemar", "p_value": paired.mcnemar(pairs)}
        entry |= {POINTS[0]: 100 * low, POINTS[1]: 100 * high}
        if pairs.both + pairs.lost:
            ends = (100 * (end - 1) for end in paired.ratio_interval(pairs))
            entry |= _ends(PERCENT, ends, "no score is 1 after the history")
        else:
            entry |= _nulls("the metric is 0 at h = 0", *PERCENT)
        found.append(entry)
    return found


def _compare_flips(after: np.ndarray, before: np.ndarray, clusters: Clusters) -> list[Stats]:
    if clusters.count < 2 or not len(after):
        names = ("test", "p_value", *POINTS, *PERCENT)
        return [_nulls(_alone(clusters), *names) for _ in after]
    sums = clusters.sums(after - before)  # [clusters, H]
    sizes = np.broadcast_to(clusters.sums(np.ones_like(after[:1])), sums.shape)
    baseline = clusters.sums(before)
    flipped = paired.sign_flip(sums, [sizes, baseline])
    test = {"test": f"sign-flip permutation over {clusters.unit}"}
    return [
        test
        | {"p_value": float(p_value)}
        | _flip_intervals(sums[:, h], baseline[:, h], 100 * flipped.ends[..., h], clusters.unit)
        for h, p_value in enumerate(flipped.p_values)
    ]


def _flip_intervals(sums: np.ndarray, baseline: np.ndarray, ends: np.ndarray, unit: str) -> Stats:
    """Intervals from their ends in points and per cent [2, 2], null where they would not cover."""
    changed, count = int((np.abs(sums) > 1e-9).sum()), len(sums)
    if changed < FEWEST:
        few = f"an interval needs {FEWEST} {unit} that differ: {changed} do"
        return _nulls(few, *POINTS, *PERCENT)
    found = _ends(POINTS, ends[0], "nothing bounds it")
    if not baseline.any():
        return found | _nulls("the metric is 0 at h = 0", *PERCENT)
    if count < FEWEST_OF_RATIO:
        few = f"a percentage needs {FEWEST_OF_RATIO} {unit} for an interval: {count} are there"
        return found | _nulls(few, *PERCENT)
    return found | _ends(PERCENT, ends[1], "the metric at h = 0 is too near to 0")


def _ends(names: Sequence[str], ends: Any, reason: str) -> Stats:
    """Both ends of an interval under these names, or null where one is infinite."""
    low, high = (float(end) for end in ends)
    if not np.isfinite((low, high)).all():
        return _nulls(reason, *names)
    return dict(zip(names, (low, high)))


def _detectable(changes: np.ndarray, clusters: Clusters, binary: bool, most: float) -> Stats:
    name = "detectable_points"
    if not changes.any():
        return _nulls("no score differs", name)
    if binary and clusters.independent:
        points = detectable_binary(float(np.mean(changes != 0)), changes.size)
    elif clusters.count < 2:
        return _nulls(_alone(clusters), name)
    else:
        points = detectable_mean(cluster_sd(changes, clusters), clusters.count)
    if points is None or points > most:
        return _nulls("too few scores for any difference to reach this power", name)
    if points < 1e-9:  # nothing but rounding
        return _nulls("the differences do not vary", name)
    return {name: points}


def _nulls(reason: str, *names: str) -> Stats:
    return {
        key: value for name in names for key, value in ((name, None), (f"{name}_reason", reason))
    }


def _alone(clusters: Clusters) -> str:
    return f"all examples belong to one cluster ({clusters.unit})"


# -- means


def mean_interval(row: np.ndarray, clusters: Clusters, *, binary: bool) -> Stats:
    """Interval of the mean of scores in [0, 1]: Wilson's (1927), at the effective n where needed.

    0/1 scores of independent examples have n. For others n is the number of such scores that
    would have the same error, m (1 - m) / error**2, and Student's t takes the place of the normal
    (Korn and Graubard 1998; Franco et al. 2019). Scores that are all 0, or all 1, have the
    effective number of clusters.
    """
    if binary and clusters.independent:
        low, high = wilson(row)
        return {"low": low, "high": high, "interval": f"{CONFIDENCE:.0%} Wilson"}
    method = {"interval": f"{CONFIDENCE:.0%} Wilson at the effective n, over {clusters.unit}"}
    [error], [effective] = (x.tolist() for x in _error(row[:, None], clusters)[1:])
    if clusters.count < 2:
        return _nulls(_alone(clusters), "low", "high") | method
    if effective < 2:
        return _nulls("one cluster holds most of the examples", "low", "high") | method
    share = float(row.mean())
    inside = 0 < share < 1
    if inside and error < 1e-9:
        return _nulls("the scores do not vary", "low", "high") | method
    n = share * (1 - share) / error**2 if inside else effective
    low, high = _wilson(share, n, float(student(effective - 1)))
    return {"low": low, "high": high} | method


def wilson(correct: np.ndarray) -> paired.Ends:
    """Score interval of a proportion from independent 0/1 scores (Wilson 1927)."""
    from scipy.special import ndtri

    return _wilson(float(correct.mean()), len(correct), float(ndtri((1 + CONFIDENCE) / 2)))


def student(freedom: Any) -> Any:
    """Quantile of Student's t that an interval reaches, for degrees of freedom."""
    from scipy.special import stdtrit  # as scipy.stats has it, which takes half a second to import

    return stdtrit(freedom, (1 + CONFIDENCE) / 2)


def _wilson(share: float, n: float, z: float) -> paired.Ends:
    """The same from any n and quantile."""
    if share in (0, 1):  # the end that is reached is exact
        far = z**2 / (n + z**2)
        return (0.0, far) if share == 0 else (1 - far, 1.0)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_and_interval(values: np.ndarray, clusters: Clusters) -> tuple[list, Stats]:
    """Mean of each column of values [N, L], and its interval by Student's t over the clusters.

    What is not finite is left out and counted. The error is the jackknife's, the degrees of
    freedom one less than the effective number of clusters; with independent examples both are the
    usual ones. A single cluster has a mean but no interval (None).
    """
    known = np.isfinite(values).sum(axis=0)
    mean, error, effective = _error(values, clusters)
    there = effective >= 2
    spare = np.where(there, effective - 1, 1)
    half = np.where(there, student(spare) * error, np.nan)
    return cleaned(mean), {
        "low": cleaned(mean - half),
        "high": cleaned(mean + half),
        "interval": f"{CONFIDENCE:.0%} Student's t over {clusters.unit}",
        "excluded": (len(values) - known).tolist(),
    }


def _error(values: np.ndarray, clusters: Clusters) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, its standard error and the effective number of clusters of each column [L] of values.

    The error is the jackknife's over C clusters, (C - 1) / C times the summed squares of what the
    mean moves by without one (Bell and McCaffrey 2002); the number sum(n)**2 / sum(n**2) of their
    sizes (Kish 1965). Values that are not finite are left out; NaN where there are none.
    """
    known = np.isfinite(values)
    n = known.sum(axis=0)  # [L]
    total = np.where(known, values, 0).sum(axis=0)
    mean = np.divide(total, n, out=np.full(len(n), np.nan), where=n > 0)
    rest = clusters.sums(np.where(known, values - mean, 0).T)  # [clusters, L]
    sizes = clusters.sums(known.T.astype(float))
    count = np.maximum((sizes > 0).sum(axis=0), 1)
    moved = np.divide(rest, n - sizes, out=np.zeros_like(rest), where=n > sizes)
    error = np.sqrt((count - 1) / count * (moved**2).sum(axis=0))
    squares = np.maximum((sizes**2).sum(axis=0), 1)
    return mean, error, n**2 / squares


# -- correction and power


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values corrected over all that are there (Holm 1979); None stays None."""
    there = [p for p in p_values if p is not None]
    if len(there) < 2:
        return list(p_values)
    from statsmodels.stats.multitest import multipletests

    gc.freeze()  # multipletests collects garbage, half a second's work beside a loaded model
    try:
        corrected = iter(multipletests(there, method="holm")[1].tolist())
    finally:
        gc.unfreeze()
    return [None if p is None else next(corrected) for p in p_values]


def detectable_binary(discordant: float, n: int) -> float | None:
    """Smallest change (points) that McNemar's test finds at POWER, ALPHA two-sided; None for none.

    Solves sqrt(n) d = z_alpha sqrt(r) + z_power sqrt(r - d^2) of Connor (1987) for d, with r the
    rate of discordant pairs; d cannot exceed r, and the p-value of k pairs is 0.5^k at least. The
    mid-p test needs a little more.
    """
    from scipy.stats import norm

    a, b = norm.ppf(1 - ALPHA / 2), norm.ppf(POWER)
    if 0.5 ** (discordant * n) >= ALPHA:
        return None
    d = np.sqrt(discordant) * (a * np.sqrt(n) + b * np.sqrt(n + b**2 - a**2)) / (n + b**2)
    return None if d > discordant else float(100 * d)


def detectable_mean(sd: float, n: int) -> float | None:
    """Smallest mean change that a paired t-test finds at POWER, ALPHA two-sided, in units of `sd`.

    From the noncentral t of statsmodels (Cohen 1988), which sign flips over n clusters approach;
    None for fewer than FEWEST of these, whose flips need all of them to agree, or never suffice.
    """
    return None if n < FEWEST else sd * _detectable_effect(n)


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
