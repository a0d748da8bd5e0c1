"""Claims about scores and statistics, against numbers that were worked out by hand."""

import random

import numpy as np
import pytest

import metrics
import stats


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


# --- changes


def test_a_percentage_of_nothing_is_null_with_its_reason():
    found = of_scores([0, 0], [1, 0])["stats_by_len"]
    for of_len in found.values():
        assert of_len["percent_change"] is None
        assert "0 at h = 0" in of_len["percent_change_reason"]
    assert found["1"]["change_points"] == 50


def test_changes_are_paired_by_target():
    scores = np.random.default_rng(2).random(10)
    found = of_scores(scores, scores - 0.125, metric_name="rouge")["stats_by_len"]["1"]
    ends = [found[name] for name in ("change_points_low", "change_points_high")]
    assert ends == [pytest.approx(-12.5)] * 2


# --- aggregates


def test_aggregates_are_what_a_hand_gets():
    found = of_scores([1, 1, 0, 0], [1, 0, 0, 0])
    assert found["n"] == 4
    assert found["metric_by_len"] == {"0": 0.5, "1": 0.25}
    assert found["cos_by_len"] == {}
    of_1 = found["stats_by_len"]["1"]
    assert (of_1["n"], of_1["change_points"], of_1["percent_change"]) == (4, -25, -50)
    assert (of_1["low"], of_1["high"]) == stats.wilson(np.array([1.0, 0, 0, 0]))
    assert "Wilson" in of_1["interval"]


def test_rouge_is_a_plain_mean_with_a_bootstrap_interval():
    found = of_scores([0.1, 0.2, 0.6], metric_name="rouge")
    assert found["metric_by_len"] == {"0": pytest.approx(0.3)}
    of_0 = found["stats_by_len"]["0"]
    assert (of_0["low"], of_0["high"]) == stats.bootstrap_mean(np.array([0.1, 0.2, 0.6]))
    assert of_0["interval"] == "95% bootstrap over targets"


def test_cosines_are_means_over_examples_block_by_block():
    examples = [example(0, i, cosines=[0.375 * (i == 2), 1.0]) for i in range(3)]
    assert metrics.aggregate(examples, "accuracy")["cos_by_len"] == {"0": [0.125, 1.0]}


def test_cosines_that_some_examples_lack_are_left_out():
    examples = [example(0, 0, cosines=[0.5, 1.0]), example(0, 1)]
    assert metrics.aggregate(examples, "accuracy")["cos_by_len"] == {}


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


def test_a_target_is_paired_with_itself_under_the_same_seed():
    places = [(h, target, seed) for h in range(2) for target in range(3) for seed in (7, 8)]
    examples = [
        example(h, target, float(seed == 7 if h else target == 0)) for h, target, seed in places
    ]
    for entry, (_, _, seed) in zip(examples, places):
        entry["config"]["seed"] = seed
    found = metrics.aggregate(examples[::-1], "accuracy")
    of_1 = found["stats_by_len"]["1"]
    assert (found["n"], of_1["n"], of_1["n_targets"]) == (6, 6, 3)
    assert of_1["clusters"] == {"unit": "targets", "count": 3}
    assert of_1["change_points"] == pytest.approx(100 * (3 - 2) / 6)
    assert of_1["test"] == "sign-flip permutation over targets"
    assert of_1["interval"] == "95% bootstrap over targets"
    examples[-1]["config"]["seed"] = 9
    with pytest.raises(ValueError, match="not the same targets"):
        metrics.aggregate(examples, "accuracy")


def test_a_target_that_is_there_twice_under_one_seed_is_refused():
    with pytest.raises(ValueError, match="twice"):
        metrics.aggregate([example(h, 0) for h in (0, 0, 1, 1)], "accuracy")


def test_targets_that_share_a_history_are_clustered_but_not_at_h_0():
    examples = examples_of([1, 0, 1, 0, 1, 1], [0, 0, 0, 1, 1, 0])
    for entry in examples:
        entry["config"]["history_number"] = entry["config"]["target_idx"] % 3
    of_0, of_1 = metrics.aggregate(examples, "accuracy")["stats_by_len"].values()
    assert of_0["clusters"] == {"unit": "targets", "count": 6}
    assert of_1["clusters"] == {"unit": "histories", "count": 3}
    assert (of_0["interval"], of_1["interval"]) == ("95% Wilson", "95% bootstrap over histories")


def test_one_history_number_under_two_seeds_is_two_histories():
    examples = examples_of([1, 0, 1, 0], [0, 0, 0, 1])
    for entry in examples:
        target = entry["config"]["target_idx"]
        entry["config"] |= {"seed": target % 2, "history_number": target // 2}
    of_1 = metrics.aggregate(examples, "accuracy")["stats_by_len"]["1"]
    assert of_1["clusters"] == {"unit": "targets", "count": 4}
