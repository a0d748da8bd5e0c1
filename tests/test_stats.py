"""Claims about intervals, tests and power: by hand, by scipy and statsmodels, by simulation."""

import json
import time
from math import comb

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import statsmodels.stats.proportion
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import proportion_confint

from measures import paired, stats
from scripts import coverage

NUMBERS = ("change_points", "percent_change")


def own(n):
    """Names of n targets or histories, each of its own."""
    return list(range(n))


def alone(n):
    return stats.find_clusters(own(n), own(n))


def mean_interval(values, clusters=None):
    """95 % interval of the mean of scores in [0, 1]."""
    found = stats.mean_interval(values, clusters or alone(len(values)), binary=False)
    return found["low"], found["high"]


def flips(changes, clusters):
    """Sign-flip tests of changes [H, N] over clusters, and the intervals of their means."""
    sums = clusters.sums(changes)
    sizes = np.broadcast_to(clusters.sums(np.ones_like(changes[:1])), sums.shape)
    return paired.sign_flip(sums, [sizes])


def binary(*rows, histories=None, targets=None):
    """Statistics by length of 0/1 scores."""
    n = len(rows[0])
    scores = np.array(rows, dtype=float)
    return stats.stats_by_len(scores, targets or own(n), histories or own(n), binary=True)


def graded(*rows, histories=None, targets=None):
    """Statistics by length of scores that are any fraction."""
    n = len(rows[0])
    scores = np.array(rows, dtype=float)
    return stats.stats_by_len(scores, targets or own(n), histories or own(n), binary=False)


def counts(n, hits):
    return [1.0] * hits + [0.0] * (n - hits)


# --- intervals


@pytest.mark.parametrize(("hits", "n"), [(3, 8), (0, 5), (5, 5), (60, 100)])
def test_wilson_is_its_formula_and_what_statsmodels_gives(hits, n):
    z, p = 1.959963984540054, hits / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    low, high = stats.wilson(np.array(counts(n, hits)))
    assert (low, high) == (pytest.approx(middle - half), pytest.approx(middle + half))
    expected = proportion_confint(hits, n, method="wilson")
    assert (low, high) == pytest.approx(expected, abs=1e-12)


def test_a_graded_mean_has_wilsons_interval_at_the_n_of_equal_error():
    values = np.random.default_rng(1).random(30) ** 2
    mean, error = values.mean(), values.std(ddof=1) / 30**0.5
    n, z = mean * (1 - mean) / error**2, scipy.stats.t.ppf(0.975, 29)
    for end in mean_interval(values):
        # An end is a share that lies z of its own standard errors from the mean.
        assert abs(mean - end) == pytest.approx(z * (end * (1 - end) / n) ** 0.5)


def test_0_and_1_that_are_independent_have_their_own_n():
    scores = np.array(counts(40, 12))
    n = 39 + 1e-9  # the variance of a sample divides by n - 1
    z = scipy.stats.t.ppf(0.975, 39)
    low, _ = mean_interval(scores)
    assert abs(0.3 - low) == pytest.approx(z * (low * (1 - low) / n) ** 0.5)


def test_what_does_not_vary_has_an_interval_only_at_0_and_1():
    assert mean_interval(np.array([0.25] * 4)) == (None, None)
    assert mean_interval(np.zeros(20))[0] == 0
    assert 0.1 < mean_interval(np.zeros(20))[1] < 0.2


def test_a_single_example_has_no_interval():
    (of_0,) = graded([0.5])
    assert of_0["low"] is of_0["high"] is None
    assert "one cluster" in of_0["low_reason"]


def test_clusters_of_one_example_change_nothing():
    rows = np.random.default_rng(2).random((3, 20))
    shuffled = [f"h{i}" for i in range(20)]
    assert graded(*rows, histories=shuffled) == graded(*rows)
    clustered = stats.find_clusters(own(20), shuffled)
    assert mean_interval(rows[0], clustered) == mean_interval(rows[0])


def test_clustered_examples_that_agree_count_once():
    once = np.random.default_rng(3).random((2, 12))
    thrice = np.repeat(once, 3, axis=1)
    single, tripled = graded(*once)[1], graded(*thrice, targets=np.repeat(own(12), 3).tolist())[1]
    for name in ("low", "high", "change_points_low", "change_points_high", "detectable_points"):
        assert tripled[name] == pytest.approx(single[name]), name
    assert tripled["p_value"] == single["p_value"]
    assert (tripled["n"], tripled["n_targets"]) == (36, 12)
    assert tripled["clusters"] == single["clusters"] == {"unit": "targets", "count": 12}


@pytest.mark.parametrize(
    ("targets", "histories", "unit", "count"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3], "targets", 4),
        ([0, 0, 1, 1], [0, 1, 2, 3], "targets", 2),
        ([0, 1, 2, 3], [0, 1, 0, 1], "histories", 2),
        ([0, 0, 1, 1, 2, 3], [0, 1, 1, 2, 3, 3], "groups of targets and histories", 2),
        ([0, 1], [5, 5], "histories", 1),
    ],
)
def test_clusters_share_a_target_or_a_history(targets, histories, unit, count):
    clusters = stats.find_clusters(targets, histories)
    assert (clusters.unit, clusters.count) == (unit, count)
    for i, j in np.ndindex(len(targets), len(targets)):
        if targets[i] == targets[j] or histories[i] == histories[j]:
            assert clusters.of[i] == clusters.of[j]


def test_a_clustered_interval_covers_where_a_plain_one_does_not():
    """40 clusters of 5 examples that share most of their noise, true change 0."""
    rng = np.random.default_rng(4)
    clusters = stats.find_clusters(own(200), np.repeat(own(40), 5).tolist())
    covered = {"clustered": 0, "plain": 0}
    for _ in range(150):
        values = np.repeat(rng.normal(size=40), 5) + 0.3 * rng.normal(size=200)
        for name, used in (("clustered", clusters), ("plain", None)):
            _, found = stats.mean_and_interval(values[:, None], used or alone(200))
            covered[name] += found["low"][0] <= 0 <= found["high"][0]
    assert 0.88 < covered["clustered"] / 150 <= 1
    assert covered["plain"] / 150 < 0.75


# --- tests


def pairs(gained, lost, same):
    """Two rows of 0/1 scores with these numbers of pairs."""
    before = [0.0] * gained + [1.0] * (lost + same)
    return before, [1.0] * gained + [0.0] * lost + [1.0] * same


@pytest.mark.parametrize(("gained", "lost"), [(1, 8), (5, 5), (0, 6), (10, 2), (0, 1), (30, 70)])
def test_mcnemar_is_a_sum_of_binomials_less_half_of_what_was_seen(gained, lost):
    n, fewer = gained + lost, min(gained, lost)
    by_hand = min(1, 2 * sum(comb(n, k) for k in range(fewer + 1)) / 2**n - comb(n, fewer) / 2**n)
    by_hand = 1 if gained == lost else by_hand
    of_1 = binary(*pairs(gained, lost, 7))[1]
    assert of_1["p_value"] == pytest.approx(by_hand)
    exact = mcnemar([[7, gained], [lost, 0]], exact=True).pvalue
    seen = scipy.stats.binom.pmf(gained, n, 0.5) if gained != lost else 0
    assert of_1["p_value"] == pytest.approx(exact - seen)
    assert of_1["test"] == "mid-p McNemar"


def test_mcnemar_of_1_against_8_by_hand():
    assert binary(*pairs(1, 8, 0))[1]["p_value"] == pytest.approx((2 * (1 + 9) - 9) / 512)


def test_a_sign_flip_test_of_3_differences_by_hand():
    # Sums of (+-1, +-2, +-4): 8 patterns; |sum| >= |1 + 2 - 4| in all, >= 7 in two.
    p_values = flips(np.array([[1.0, 2, -4], [1, 2, 4]]), alone(3)).p_values
    assert p_values.tolist() == [1, 0.25]


@pytest.mark.parametrize("n", [2, 7, 12])
def test_all_sign_flips_are_those_of_scipy(n):
    rng = np.random.default_rng(n)
    changes = np.round(rng.normal(0.3, 1, size=(3, n)), 1)  # with ties
    for p, row in zip(flips(changes, alone(n)).p_values, changes):
        found = scipy.stats.permutation_test(
            (row,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
        )
        assert p == pytest.approx(found.pvalue)


def test_random_sign_flips_approach_the_binomial_they_sample():
    # 21 rises and 9 falls of equal size: the sign-flip test is the sign test.
    (p,) = flips(np.array([[1.0] * 21 + [-1.0] * 9]), alone(30)).p_values
    assert p == pytest.approx(scipy.stats.binomtest(9, 30).pvalue, abs=0.003)
    (again,) = flips(np.array([[1.0] * 21 + [-1.0] * 9]), alone(30)).p_values
    assert p == again


def test_random_sign_flips_never_give_0():
    (p,) = flips(np.ones((1, 40)), alone(40)).p_values
    assert p == 1 / (1 + paired.MOST_FLIPS)


def test_clustered_0_and_1_are_not_tested_by_mcnemar():
    rows = pairs(1, 8, 3)
    of_1 = binary(*rows, histories=[i % 4 for i in range(12)])[1]
    assert of_1["test"] == "sign-flip permutation over histories"
    sums = np.bincount(np.arange(12) % 4, np.subtract(rows[1], rows[0]))
    patterns = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1)
    expected = np.mean(np.abs(sums @ patterns) >= abs(sums.sum()))
    assert of_1["p_value"] == pytest.approx(expected)
    assert of_1["p_value"] >= 2 / 2**4


def test_p_values_are_uniform_where_nothing_changes_but_noise():
    rng = np.random.default_rng(8)
    changes = rng.normal(size=(400, 14))
    p_values = flips(changes, alone(14)).p_values
    assert np.mean(p_values <= 0.05) == pytest.approx(0.05, abs=0.03)
    assert scipy.stats.kstest(p_values, "uniform").pvalue > 0.01


def test_holm_by_hand():
    # Sorted .01, .02, .03, .04 times 4, 3, 2, 1 is .04, .06, .06, .04; then never falling.
    assert stats.holm([0.04, None, 0.01, 0.03, 0.02]) == [
        pytest.approx(0.06), None, pytest.approx(0.04), pytest.approx(0.06), pytest.approx(0.06)
    ]  # fmt: skip
    assert stats.holm([0.7, 0.9]) == [1, 1]
    assert stats.holm([None]) == [None]


def test_the_p_values_of_a_file_are_corrected_over_its_lengths_from_1():
    rows = np.random.default_rng(9).random((4, 60)) < np.array([[0.8], [0.6], [0.5], [0.8]])
    found = binary(*rows)
    expected = multipletests([of_len["p_value"] for of_len in found[1:]], method="holm")[1]
    assert [of_len["p_holm"] for of_len in found[1:]] == pytest.approx(expected)
    assert found[0]["p_holm"] is None


# --- power


@pytest.mark.parametrize(("discordant", "n"), [(0.27, 100), (0.5, 40), (0.1, 1000)])
def test_the_detectable_change_solves_the_formula_of_connor(discordant, n):
    d = stats.detectable_binary(discordant, n) / 100
    needed = (1.959964 * discordant**0.5 + 0.841621 * (discordant - d**2) ** 0.5) ** 2 / d**2
    assert needed == pytest.approx(n, rel=1e-5)


def test_mcnemar_finds_the_detectable_change_about_8_times_in_10():
    n, discordant = 300, 0.3
    change = stats.detectable_binary(discordant, n) / 100
    rng = np.random.default_rng(10)
    draws = rng.multinomial(
        n, [(discordant + change) / 2, (discordant - change) / 2, 1 - discordant], size=1000
    )
    found = [paired.mcnemar(paired.Counts(0, up, down, n)) < 0.05 for up, down, _ in draws]
    assert np.mean(found) == pytest.approx(0.8, abs=0.04)


def test_sign_flips_find_the_detectable_change_about_8_times_in_10():
    changes = np.random.default_rng(11).normal(stats.detectable_mean(1, 16), 1, size=(400, 16))
    assert np.mean(flips(changes, alone(16)).p_values < 0.05) == pytest.approx(0.8, abs=0.06)


def test_the_detectable_change_of_graded_scores_is_that_of_a_paired_t_test():
    before, after = np.random.default_rng(15).random((2, 8)) / 3
    sd = (100 * (after - before)).std(ddof=1)
    power = TTestPower().power(graded(before, after)[1]["detectable_points"] / sd, 8, 0.05)
    assert power == pytest.approx(0.8, abs=1e-4)


def test_the_detectable_change_shrinks_with_the_square_root_of_n():
    assert stats.detectable_mean(10, 400) == pytest.approx(
        stats.detectable_mean(10, 1600) * 2, 0.01
    )
    assert stats.detectable_mean(10, 400) == pytest.approx((1.96 + 0.8416) * 10 / 20, rel=0.01)
    assert stats.detectable_mean(10, 6) is None  # all six have to agree


def test_no_change_is_detectable_that_the_metric_cannot_make():
    before = np.linspace(0.4, 0.6, 8)
    after = np.where(np.arange(8) % 2, 0.0, 1.0)  # sd 57, so that 66 points are detectable
    [entry] = stats.compare(after[None], before[None], alone(8), binary=False)
    assert entry["detectable_points"] is None and "too few" in entry["detectable_points_reason"]
    free = {"binary": False, "room": stats.room_around(before, low=-1, high=2)}
    [entry] = stats.compare(after[None], before[None], alone(8), **free)
    assert 50 < entry["detectable_points"] < 100


def test_no_p_value_below_5_percent_can_come_of_fewer_clusters_than_a_change_is_detectable_with():
    for count in range(2, 7):
        change = np.ones((1, 3 * count)) * np.linspace(0.2, 0.4, 3 * count)
        groups = stats.Clusters("targets", count, np.repeat(np.arange(count), 3))
        [entry] = stats.compare(change, 0 * change, groups, binary=False)
        assert entry["detectable_points"] is None
        assert entry["p_value"] >= 0.05 or count == 6


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (([1, 1, 0], [1, 1, 0]), "no score differs"),
        (([1, 1, 0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0]), "too few"),
        (([1, 0], [0, 0]), "too few"),
        (([1, 1, 1, 1], [0, 0, 0, 0]), "too few"),  # p can be 0.0625 at least
    ],
)
def test_what_cannot_be_detected_is_null_with_its_reason(rows, reason):
    of_1 = binary(*rows)[1]
    assert of_1["detectable_points"] is None
    assert reason in of_1["detectable_points_reason"]


def test_differences_that_do_not_vary_have_no_detectable_change():
    scores = np.random.default_rng(12).random(9)
    assert "do not vary" in graded(scores, scores + 0.1)[1]["detectable_points_reason"]


# --- everything together


def test_the_null_check_every_length_with_the_same_scores():
    scores = np.random.default_rng(13).random(25)
    shared = [i % 5 for i in range(25)]
    for found in (
        graded(*[scores] * 4),
        graded(*[scores] * 4, histories=shared),
        binary(*[scores > 0.5] * 4),
        binary(*[scores > 0.5] * 4, histories=shared),
    ):
        for h, of_len in enumerate(found):
            for name in NUMBERS:
                assert of_len[name] == 0
                low, high = of_len[f"{name}_low"], of_len[f"{name}_high"]
                assert low is high is None or low <= 0 <= high
            assert of_len["p_value"] == of_len["p_holm"] == (1 if h else None)


# --- intervals that agree with their tests


def design(kind, rng):
    """Two rows of scores, some changed, and what groups them: 5 to 60 examples."""
    n = int(rng.integers(5, 60))
    fall = rng.choice([0, 0.15, 0.3])
    if kind == "accuracy":
        before, after = rng.random((2, n)) < np.array([[0.6], [0.6 - fall]])
    else:  # many are 0, some are equal
        before, after = (
            np.where(rng.random(n) < zeros, 0, rng.random(n).round(1))
            for zeros in (0.4, 0.4 + fall)
        )
    same = rng.random(n) < 0.3
    histories = rng.integers(0, max(2, n // 3), n).tolist() if "clustered" in kind else own(n)
    return np.array([before, np.where(same, before, after)], dtype=float), histories


@pytest.mark.parametrize("kind", ["accuracy", "rouge", "clustered"])
def test_an_interval_excludes_0_exactly_where_its_test_has_p_below_5_percent(kind):
    rng, seen = np.random.default_rng(20), set()
    for _ in range(60):
        scores, histories = design(kind, rng)
        of_1 = (binary if kind == "accuracy" else graded)(*scores, histories=histories)[1]
        for name in NUMBERS:
            low, high = of_1[f"{name}_low"], of_1[f"{name}_high"]
            if low is not None:
                assert low <= of_1[name] <= high
                assert (not low <= 0 <= high) == (of_1["p_value"] < 0.05), (name, of_1)
                seen.add(of_1["p_value"] < 0.05)
    assert seen == {True, False}


def test_a_shifted_null_is_rejected_exactly_outside_of_the_sign_flip_interval():
    rng = np.random.default_rng(21)
    changes = rng.random((1, 24)) - 0.4
    clusters = stats.find_clusters(own(24), [i % 9 for i in range(24)])
    low, high = flips(changes, clusters).ends[0, :, 0]
    for end, outside in ((low, -1), (high, 1)):
        for step, rejected in ((outside, True), (-outside, False)):
            (p,) = flips(changes - end - step * 1e-6, clusters).p_values
            assert (p < 0.05) == rejected


@pytest.mark.parametrize(("gained", "lost", "n"), [(9, 3, 40), (0, 0, 12), (7, 0, 20), (3, 12, 30)])
def test_tangos_ends_are_where_the_score_of_the_likeliest_table_is_z(gained, lost, n):
    pairs_ = paired.Counts(n - gained - lost, gained, lost, n)
    for end in paired.difference_interval(pairs_):
        q = likeliest_losses(gained, lost, n, end)
        z = (gained - lost - n * end) / (n * (2 * q + end - end**2)) ** 0.5
        assert abs(z) == pytest.approx(1.959964, abs=1e-4)


def likeliest_losses(gained, lost, n, d):
    """The likeliest share q of losses where q + d are gains."""

    def unlikely(q):
        shares = ((gained, q + d), (lost, q), (n - gained - lost, 1 - 2 * q - d))
        return -sum(k * np.log(share) for k, share in shares if k)

    room = (max(0, -d) + 1e-9, (1 - d) / 2 - 1e-9)
    return scipy.optimize.minimize_scalar(
        unlikely, bounds=room, method="bounded", options={"xatol": 1e-10}
    ).x


@pytest.mark.parametrize("table", [(28, 1, 3, 51), (12, 22, 5, 39), (3, 6, 2, 13), (2, 10, 26, 43)])
def test_a_ratio_of_proportions_has_the_interval_of_statsmodels(table):
    both, gained, lost, n = table
    found = statsmodels.stats.proportion._confint_riskratio_paired_nam(
        [[both, gained], [lost, n - both - gained - lost]], alpha=0.05
    )
    assert paired.ratio_interval(paired.Counts(*table)) == pytest.approx(found.confint, abs=1e-6)


def test_too_few_clusters_that_differ_have_a_p_value_and_no_interval():
    of_1 = graded([0.1] * 20, [0.5] * 6 + [0.1] * 14)[1]
    assert of_1["p_value"] == pytest.approx(2 / 2**6, abs=0.002)
    assert of_1["change_points_low"] is of_1["change_points_high"] is None
    assert "6 do" in of_1["change_points_low_reason"]
    assert graded([0.1] * 20, [0.5] * 7 + [0.1] * 13)[1]["change_points_low"] > 0


def test_no_discordant_pair_leaves_what_n_could_have_missed():
    of_1 = binary([1, 0] * 10, [1, 0] * 10)[1]
    assert (of_1["change_points"], of_1["p_value"]) == (0, 1)
    assert of_1["change_points_high"] == -of_1["change_points_low"] == pytest.approx(16.1, abs=0.1)


@pytest.mark.parametrize(
    ("kind", "name"), [("accuracy", "20"), ("rouge", "20"), ("rouge", "8 clusters")]
)
def test_a_few_simulated_draws_cover_and_keep_the_size(kind, name, monkeypatch):
    monkeypatch.setattr(paired, "MOST_FLIPS", coverage.FLIPS)
    cell = coverage.simulate(kind, dict(coverage.designs())[name], draws=100)
    for column in ("change", "percent", "metric", "layers"):
        assert 0.9 < cell[column] < 1 or np.isnan(cell[column])  # 8 clusters: no percentage
    assert cell["size"] < 0.1


@st.composite
def designs(draw):
    """Rows of scores, whether they are 0/1, and names of targets and histories."""
    n, lengths, is_binary = draw(st.integers(1, 9)), draw(st.integers(1, 3)), draw(st.booleans())
    score = st.sampled_from([0.0, 1.0]) if is_binary else st.integers(0, 999).map(lambda k: k / 999)
    rows = draw(
        st.lists(st.lists(score, min_size=n, max_size=n), min_size=lengths, max_size=lengths)
    )
    names = st.lists(st.integers(0, n), min_size=n, max_size=n)
    return np.array(rows), is_binary, draw(names), draw(names)


@settings(max_examples=10, deadline=None)
@given(designs())
def test_no_number_is_ever_nan_and_every_null_has_its_reason(design):
    scores, is_binary, targets, histories = design
    for of_len in stats.stats_by_len(scores, targets, histories, binary=is_binary):
        json.dumps(of_len, allow_nan=False)
        for name, value in of_len.items():
            assert value is not None or of_len[f"{name}_reason"]
        if of_len["p_value"] is not None:
            assert 0 < of_len["p_value"] <= of_len["p_holm"] <= 1
        if of_len["change_points_low"] is not None:
            assert of_len["change_points_low"] <= of_len["change_points_high"]


@settings(max_examples=10, deadline=None)
@given(designs())
def test_swapping_two_lengths_turns_the_change_round_and_keeps_the_p_value(design):
    scores, is_binary, targets, histories = design
    there, back = (
        stats.stats_by_len(rows, targets, histories, binary=is_binary)[1]
        for rows in (scores[[0, -1]], scores[[-1, 0]])
    )
    assert there["change_points"] == pytest.approx(-back["change_points"], abs=1e-12)
    assert there["p_value"] == back["p_value"]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_nor_changes_their_order(p_values):
    corrected = stats.holm(p_values)
    assert all(p <= c <= 1 for p, c in zip(p_values, corrected))
    assert (
        np.argsort(p_values, kind="stable").tolist() == np.lexsort((p_values, corrected)).tolist()
    )


@pytest.mark.parametrize("is_binary", [True, False])
def test_10_000_examples_at_9_lengths_take_a_few_seconds(is_binary):
    scores = np.random.default_rng(14).random((9, 10_000))
    started = time.perf_counter()
    stats.stats_by_len(
        np.round(scores) if is_binary else scores, own(10_000), own(10_000), binary=is_binary
    )
    assert time.perf_counter() - started < 5


def test_every_sign_pattern_comes_once_across_blocks(monkeypatch):
    monkeypatch.setattr(paired, "BLOCK", 50)
    (p,) = flips(np.array([[1.0] * 9 + [-1.0] * 2]), alone(11)).p_values
    assert p == pytest.approx(scipy.stats.binomtest(2, 11).pvalue)
