"""Claims about scores and statistics, against numbers that were worked out by hand."""

import random

import numpy as np
import pytest

import metrics


def example(h, target, score=1.0, top5=(), **settings):
    config = {"history_len": h, "target_idx": target}
    return {"config": config, "score": score, "top5": list(top5), **settings}


def examples_of(*scores):
    """Examples with these scores, a row per history length."""
    return [
        example(h, i, score, top5=[f"t{i}"])
        for h, row in enumerate(scores)
        for i, score in enumerate(row)
    ]


def of_scores(*scores, metric_name="accuracy"):
    return metrics.aggregate(examples_of(*scores), metric_name)


# --- scores


@pytest.mark.parametrize(
    ("logprobs", "best"),
    [
        ({"A": -2.0, "B": -1.0}, "B"),
        ({"no": -1.0, "yes": -1.0}, "no"),
        ({"only": -9.0}, "only"),
    ],
)
def test_the_best_label_is_the_likeliest_and_of_equals_the_first(logprobs, best):
    assert metrics.best_label(logprobs) == best
    assert metrics.label_score(logprobs, best) == 1.0
    assert metrics.label_score(logprobs, "other") == 0.0


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("the cat sat", ["the cat sat"], 1),
        ("the cat sat", ["the cat sat on the mat"], 2 * 1 * 0.5 / 1.5),  # P = 3/3, R = 3/6
        ("a b c d", ["d c b a"], 0.25),  # a common subsequence of one word
        ("a b x c", ["a b c"], 2 * 0.75 / 1.75),  # P = 3/4, R = 3/3
        ("The CAT, sat!", ["the cat sat"], 1),
        ("cats", ["cat"], 0),  # no stemming
        ("", ["the cat"], 0),
        ("the cat", ["a dog", "the cat sat", "no"], 0.8),  # the best reference
    ],
)
def test_rouge_is_the_f1_of_the_best_reference(prediction, references, score):
    for order in (references, references[::-1]):
        assert metrics.rouge_scores([prediction], [order]) == [pytest.approx(score)]


def test_rouge_scores_keep_the_order_and_are_no_sample():
    predictions, references = ["a", "b", "a b"], [["a"], ["a", "c"], ["a"]]
    once = metrics.rouge_scores(predictions, references)
    assert once == [1, 0, pytest.approx(2 / 3)]
    assert metrics.rouge_scores(predictions, references) == once
    assert metrics.evaluated_rouge(predictions, references) == once


# --- intervals


@pytest.mark.parametrize(("hits", "n"), [(3, 8), (0, 5), (5, 5), (60, 100)])
def test_wilson_is_its_formula(hits, n):
    z, p = 1.959963984540054, hits / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    low, high = metrics.wilson(np.array([1.0] * hits + [0.0] * (n - hits)))
    assert (low, high) == (pytest.approx(middle - half), pytest.approx(middle + half))


def test_wilson_agrees_with_statsmodels():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    expected = proportion.proportion_confint(3, 8, method="wilson")
    assert metrics.wilson(np.array([1.0] * 3 + [0.0] * 5)) == pytest.approx(expected)


def test_a_bootstrap_is_the_same_every_time_and_contains_the_mean():
    values = np.random.default_rng(1).random(30)
    low, high = metrics.bootstrap_mean(values)
    assert (low, high) == metrics.bootstrap_mean(values)
    assert low < values.mean() < high
    error = values.std() / 30**0.5  # of the mean: the interval is about 2 of them either way
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


@pytest.mark.parametrize("values", [[0.5], [0.25] * 4])
def test_what_does_not_vary_has_an_interval_of_one_point(values):
    assert metrics.bootstrap_mean(np.array(values)) == (values[0], values[0])


# --- changes


def test_a_percentage_change_is_relative_to_the_baseline():
    assert metrics.percent_change(0.3, 0.4) == {"percent_change": pytest.approx(-25)}
    assert metrics.percent_change(0.4, 0.4) == {"percent_change": 0}


def test_a_percentage_of_nothing_is_null_with_its_reason():
    stats = of_scores([0, 0], [1, 0])["stats_by_len"]
    for of_len in stats.values():
        assert of_len["percent_change"] is None
        assert "0 at h = 0" in of_len["percent_change_reason"]
    assert stats["1"]["change_points"] == 50


def test_changes_are_paired_by_target():
    scores = np.random.default_rng(2).random(10)
    stats = of_scores(scores, scores - 0.125, metric_name="rouge")["stats_by_len"]["1"]
    ends = [stats[name] for name in ("change_points_low", "change_points_high")]
    assert ends == [pytest.approx(-12.5)] * 2


# --- aggregates


def test_aggregates_are_what_a_hand_gets():
    found = of_scores([1, 1, 0, 0], [1, 0, 0, 0])
    assert found["n"] == 4
    assert found["metric_by_len"] == {"0": 0.5, "1": 0.25}
    assert found["cos_by_len"] == {}
    stats = found["stats_by_len"]["1"]
    assert (stats["n"], stats["change_points"], stats["percent_change"]) == (4, -25, -50)
    assert (stats["low"], stats["high"]) == metrics.wilson(np.array([1.0, 0, 0, 0]))
    assert "Wilson" in stats["interval"]


def test_rouge_is_a_plain_mean_with_a_bootstrap_interval():
    found = of_scores([0.1, 0.2, 0.6], metric_name="rouge")
    assert found["metric_by_len"] == {"0": pytest.approx(0.3)}
    stats = found["stats_by_len"]["0"]
    assert (stats["low"], stats["high"]) == metrics.bootstrap_mean(np.array([0.1, 0.2, 0.6]))
    assert "bootstrap" in stats["interval"]


def test_the_5_most_frequent_tokens_are_counted_per_length():
    tops = [" a b c d e", " a b c d f", " a b c e f", " a g"]
    examples = [example(0, i, top5=top.split()) for i, top in enumerate(tops)]
    examples += [example(1, i, top5=["z"]) for i in range(4)]
    found = metrics.aggregate(examples, "accuracy")["debug_top5_by_len"]
    assert found == {"0": [["a", 4], ["b", 3], ["c", 3], ["d", 2], ["e", 2]], "1": [["z", 4]]}


def test_aggregates_do_not_depend_on_the_order_of_the_log():
    scores = [[1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 1, 0]]
    shuffled = random.Random(0).sample(examples_of(*scores), 12)
    assert metrics.aggregate(shuffled, "accuracy") == of_scores(*scores)


@pytest.mark.parametrize(
    "places",
    [
        [(0, 0), (0, 1), (1, 0)],
        [(0, 0), (1, 1)],
        [(0, 0), (0, 0), (1, 0)],
        [(1, 0), (2, 0)],
        [(0, 0), (2, 0)],
    ],
)
def test_lengths_with_other_targets_are_not_compared(places):
    with pytest.raises(ValueError, match="not the same targets"):
        metrics.aggregate([example(h, target) for h, target in places], "accuracy")
