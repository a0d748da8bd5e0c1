"""Tests of paired differences, each with the interval of all differences that it does not reject.

An interval here excludes no difference exactly where its own test has p < ALPHA. Differences are
fractions; `ratio` is the mean after over the mean before. `scripts/coverage.py` simulates both.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
ALPHA = 0.05  # two-sided
MOST_FLIPS = 99_999  # of a permutation test; its smallest p-value is 1 / (1 + flips)
MOST_SIGNS = 10**8  # flips times clusters: what a permutation test may cost
BLOCK = 4_000_000  # numbers that are drawn at once

Ends = tuple[float, float]


class Counts(NamedTuple):
    """Pairs of 0/1 scores: 1 in both, 1 only after, 1 only before, and all of them."""

    both: int
    gained: int
    lost: int
    n: int


def count_pairs(after: np.ndarray, before: np.ndarray) -> Counts:
    """Counts of paired 0/1 scores [N]."""
    pairs = (after * before, after > before, after < before)
    return Counts(*(int(row.sum()) for row in pairs), len(after))


def mcnemar(pairs: Counts) -> float:
    """Two-sided mid-p value of McNemar's test (Lancaster 1961; Fagerland et al. 2013).

    The exact p-value less the probability of what was seen; 1 where as many gained as lost.
    """
    from scipy.stats import binom
    from statsmodels.stats.contingency_tables import mcnemar as test

    fewer, more = sorted((pairs.gained, pairs.lost))
    if fewer == more:
        return 1.0
    exact = test([[0, fewer], [more, 0]], exact=True).pvalue
    return float(exact - binom.pmf(fewer, fewer + more, 0.5))


def difference_interval(pairs: Counts) -> Ends:
    """Tango's (1998) score interval of a difference of paired proportions, agreeing with `mcnemar`.

    Without a difference the score test is McNemar's without correction. Its p-value is the smaller
    one, so an interval from which the mid-p test does not exclude 0 is widened to 0.
    """
    swapped = pairs._replace(gained=pairs.lost, lost=pairs.gained)
    return _widened((_tango(pairs), -_tango(swapped)), 0, pairs)


def ratio_interval(pairs: Counts) -> Ends:
    """Score interval of a ratio of paired proportions (Tang, Tang and Chan 2003), as above.

    The proportion before may not be 0.
    """
    swapped = pairs._replace(gained=pairs.lost, lost=pairs.gained)
    above = _tang(swapped)
    return _widened((_tang(pairs), 1 / above if above else np.inf), 1, pairs)


def _widened(ends: Ends, null: float, pairs: Counts) -> Ends:
    low, high = ends
    return (low, high) if mcnemar(pairs) < ALPHA else (min(low, null), max(high, null))


def _tango(pairs: Counts) -> float:
    """Lower end: b - c - n d = z sqrt(n (2 q + d (1 - d))), q the likeliest share of losses."""
    b, c, n = pairs.gained, pairs.lost, pairs.n
    if c == n:
        return -1.0

    def excess(d: float) -> float:
        linear, constant = (2 * n - b + c) * d - b - c, -c * d * (1 - d)
        q = _larger_root(2 * n, linear, constant)
        return b - c - n * d - _z() * max(n * (2 * q + d * (1 - d)), 0) ** 0.5

    return _root(excess, -1, (b - c) / n)


def _tang(pairs: Counts) -> float:
    """Lower end: x1 - t x0 = z sqrt(n (1 + t) q + x (t - 1)), q the likeliest share of losses."""
    both, b, c, n = pairs
    after, before, either = both + b, both + c, both + b + c
    if not after:
        return 0.0

    def excess(t: float) -> float:
        linear, constant = before * t**2 - (after + 2 * c), c * (1 - t) * either / n
        q = _larger_root(n * (1 + t), linear, constant)
        return after - t * before - _z() * max(n * (1 + t) * q + either * (t - 1), 0) ** 0.5

    highest = after / before if before else 1.0
    while not before and excess(highest) > 0:
        highest *= 2
    return _root(excess, 0, highest)


def _larger_root(a: float, b: float, c: float) -> float:
    return (max(b * b - 4 * a * c, 0) ** 0.5 - b) / (2 * a)


def _root(excess: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import brentq

    # At the estimate itself no difference is left, and where no pair differs no variance either.
    return float(brentq(excess, low, high - 1e-9 * (high - low), xtol=1e-12))


def _z() -> float:
    from scipy.stats import norm

    return float(norm.ppf((1 + CONFIDENCE) / 2))


# -- sign flips


class Flipped(NamedTuple):
    """p-values [H], and the ends of an interval for each weighting [K, 2, H], perhaps infinite."""

    p_values: np.ndarray
    ends: np.ndarray


def sign_flip(sums: np.ndarray, weights: Sequence[np.ndarray]) -> Flipped:
    """Sign-flip tests of clusters' summed differences [C, H], and their inversions.

    Under the null hypothesis a cluster's sum is as likely as its negative (Fisher 1935; over
    clusters Canay, Romano and Shaikh 2017). It tests the mean that is reported; Wilcoxon's test
    ranks, drops the many ties of ROUGE and can contradict the mean. Every sign pattern is used
    where there are at most MOST_FLIPS of them, else random ones, counted with the observed one; C
    clusters cannot give less than 2 / 2**C.

    The interval holds each r for which the sums less r times the weights [C, H], at least 0, are
    not rejected: the sizes of clusters give the mean difference, sums of the baseline the relative
    one. A pattern that flips the clusters outside of a subset reaches what was observed exactly
    where r lies between the subset's ratio, sum over weight, and that of the rest, so the ends are
    order statistics of subsets' ratios (Hartigan 1969).
    """
    lows, highs = ([[] for _ in weights] for _ in range(2))
    total, tiny = sums.sum(axis=0), 1e-9 * np.abs(sums).sum(axis=0)
    for chosen in _subsets(len(sums)):
        inside = _snapped(chosen @ sums, tiny)
        outside = _snapped(total - inside, tiny)
        for weight, low, high in zip(weights, lows, highs):
            whole = weight.sum(axis=0)
            part = _snapped(chosen @ weight, 1e-12 * whole)
            ratios = [_ratio(inside, part), _ratio(outside, _snapped(whole - part, 1e-12 * whole))]
            unknown = np.isnan(ratios).any(axis=0)  # no weight on one side: always reached
            low.append(np.where(unknown, -np.inf, np.minimum(*ratios)))
            high.append(np.where(unknown, np.inf, np.maximum(*ratios)))
    low, high = (np.stack([np.concatenate(part) for part in side]) for side in (lows, highs))
    rises = _snapped(total, tiny) >= 0
    reached = np.where(rises, (low[0] <= 0).sum(axis=0), (high[0] >= 0).sum(axis=0))
    return Flipped(reached / low.shape[1], np.stack([_kth(low), -_kth(-high)], axis=1))


def _snapped(values: np.ndarray, tiny: np.ndarray) -> np.ndarray:
    """Values with 0 for what is rounding: equal sums count as equal in whatever order added."""
    return np.where(np.abs(values) <= tiny, 0.0, values)


def _ratio(sums: np.ndarray, weights: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums / weights


def _kth(lows: np.ndarray) -> np.ndarray:
    """The smallest of lows [K, F, H] below which less than ALPHA of them lie [K, H]."""
    flips = lows.shape[1]
    k = int(np.searchsorted(np.arange(flips + 1) / flips, ALPHA))
    return np.partition(lows, k - 1, axis=1)[:, k - 1]


def _subsets(count: int) -> Iterator[np.ndarray]:
    """Blocks of rows of 0 and 1, [rows, count]: each subset once, or a random lot and the whole."""
    if 2**count <= MOST_FLIPS:
        start = 0
        for rows in _blocks(2**count, count):
            numbers = np.arange(start, start := start + rows)
            yield (numbers[:, None] >> np.arange(count) & 1).astype(float)
        return
    yield np.ones((1, count))
    rng = np.random.default_rng(0)
    for rows in _blocks(min(MOST_FLIPS, MOST_SIGNS // count), count):
        bits = np.unpackbits(rng.integers(0, 256, (rows, -(-count // 8)), dtype=np.uint8), axis=1)
        yield bits[:, :count].astype(float)


def _blocks(rows: int, width: int) -> Iterator[int]:
    """Numbers of rows that add up to `rows`, each of at most BLOCK numbers."""
    most = max(1, BLOCK // width)
    yield from (min(most, rows - start) for start in range(0, rows, most))
