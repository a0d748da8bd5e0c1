"""Claims about scores and statistics, against numbers that were worked out by hand."""

import random
from decimal import Decimal

import numpy as np
import pytest

from core import schema
from measures import metrics, scoring, stats, texts


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
    assert scoring.best_label(logprobs) == best
    assert scoring.label_score(logprobs, best) == 1.0
    assert scoring.label_score(logprobs, "other") == 0.0


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
        assert scoring.text_scores(prediction, order)["rouge"] == pytest.approx(score)


# Worked out by hand: rouge1 and rouge2 count shared words and pairs of words, rouge is the longest
# common subsequence; for f1 the articles and the punctuation are gone first. None
# is strictly equal.
@pytest.mark.parametrize(
    ("prediction", "references", "expected"),
    [
        # 2 of 3 and 4 words; 1 of 2 and 3 pairs; without articles 2 of 2 and 3 words
        ("the cat sat", ["a cat sat down"], (4 / 7, 2 / 5, 4 / 7, 0, 4 / 5)),
        ("d c b a", ["a b c d"], (1, 0, 1 / 4, 0, 1)),  # one pair is in order, c b a are not
        ("The end!", ["end"], (2 / 3, 0, 2 / 3, 1, 1)),
        ("x x y", ["x x z"], (2 / 3, 1 / 2, 2 / 3, 0, 2 / 3)),  # both x count
        ("", ["x"], (0, 0, 0, 0, 0)),
        ("x", ["z", "w x"], (2 / 3, 0, 2 / 3, 0, 2 / 3)),  # the best reference
        # each score has its own best reference: the words are in the first, their order is not
        ("w x y z", ["z y x w", "w x y q"], (1, 2 / 3, 3 / 4, 0, 1)),
    ],
)
def test_text_scores_are_what_a_hand_gets(prediction, references, expected):
    for order in (references, references[::-1]):
        found = scoring.text_scores(prediction, order)
        assert tuple(found) == schema.TEXT_SCORES
        assert tuple(found.values()) == pytest.approx((*expected, 0))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The  Cat's\tan (old) hat.", ["cats", "old", "hat"]),
        ("Anna thinks a theme", ["anna", "thinks", "theme"]),
        ("A the an", []),
        ("U.S. re-run", ["us", "rerun"]),
    ],
)
def test_words_are_compared_without_case_punctuation_and_articles(text, words):
    assert texts.normalised_words(text) == words


# --- numbers


NUMBERS = {
    "#### 18": "18",
    "6 * 3 = <<6*3=18>>18\n#### 18": "18",
    "#### 12 no, wait\n#### 14": "14",
    "#### 14 is 7 * 2": "14",  # what is marked, not what is last
    "####18": "18",
    "#### $1,250": "1250",
    "#### -5": "-5",
    "#### unknown, maybe 5": "5",
    "The answer is 1,234.50 dollars.": "1234.5",
    "She has 3 left, not 4.": "4",
    "18.": "18",
    "18.0": "18",
    "007": "7",
    ".5": "0.5",
    "It is -7": "-7",
    "It is \N{MINUS SIGN}7": "-7",
    "10-3": "3",
    "10 - 3": "3",
    "f(2)-1": "1",
    "1,2,3": "3",
    "1,000,000 people": "1000000",
    "12%": "12",
    "\\boxed{42}": "42",
    "**42**": "42",
    "no number": None,
    "####": None,
    "": None,
    "x, . - ,": None,
    # signs and currencies
    "-$5": "-5",
    "$-5": "-5",
    "\\$5": "5",
    "\N{MINUS SIGN}€5": "-5",
    "= - 5": "-5",
    "#### -$5": "-5",
    "- 5": None,
    "\N{PLUS-MINUS SIGN}5": None,
    "5\N{EN DASH}10": "10",
    # groups and decimals
    "1.234,56": "1234.56",
    "1.234.567": "1234567",
    "12,34,567": "1234567",
    "1'234.5": "1234.5",
    "1\N{NO-BREAK SPACE}234": "1234",
    "1\N{NARROW NO-BREAK SPACE}234,5": "1234.5",
    "1{,}234": "1234",
    "3,5": None,
    "0,123": None,
    "1 234": None,
    "1,23": None,
    "1.2.3": None,
    "5'10": None,
    # exponents, fractions and powers
    "1e3": "1000",
    "2.5E-2": "0.025",
    "1.5 \N{MULTIPLICATION SIGN} 10^3": "1500",
    "10\N{SUPERSCRIPT TWO}": "100",
    "2^5": None,
    "1/2": "0.5",
    "3 1/2": "3.5",
    "3\N{VULGAR FRACTION ONE HALF}": "3.5",
    "1/0": None,
    "-\\frac{3}{4}": "-0.75",
    "\N{SQUARE ROOT}2": None,
    "1e999999999": None,
    # what is beside a number, and other scripts
    "5 million": "5000000",
    "$2.5 billion": "2500000000",
    "3\u4e07": "30000",
    "5k": None,
    "3 dozen": None,
    "B12": None,
    "2020-01-05": None,
    "12:30": None,
    "3/4/2020": None,
    "2\N{GREEK SMALL LETTER PI}": None,
    "\N{ARABIC-INDIC DIGIT THREE}": "3",
    "\N{FULLWIDTH DIGIT FIVE}": "5",
    "\u7b54\u6848\u662f5": "5",
    "5 m\N{SUPERSCRIPT TWO}": "5",
}


@pytest.mark.parametrize(("text", "number"), NUMBERS.items())
def test_the_number_of_a_text(text, number):
    assert scoring.find_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("text", "score", "extracted", "failed"),
    [
        ("so 18", 1, "18", False),
        ("#### 18.00", 1, "18.00", False),
        ("#### 18 (and 5 more)", 1, "18", False),
        ("19", 0, "19", False),
        ("eighteen", 0, None, True),
    ],
)
def test_a_text_without_a_number_is_wrong_and_a_format_failure(text, score, extracted, failed):
    scores = scoring.text_scores(text, ["9 * 2 = 18\n#### 18"])
    found = scoring.judge_text(text, ["9 * 2 = 18\n#### 18"], "accuracy", scores)
    assert found == {
        "score": score, "scores": scores, "extracted": extracted, "format_failure": failed
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reference", "score", "failed"),
    [
        ("-$5", "-5", 1, False),
        ("-$5", "$5", 0, False),
        ("5 km", "5 kilometres", 1, False),
        ("5 km", "5 m", 0, True),
        ("5", "5 m", 1, False),
        ("5 cents", "$5", 0, True),
        ("1.234,56 \N{EURO SIGN}", "1,234.56", 1, False),
        ("1/3", "2/6", 1, False),
        ("3,5", "5", 0, True),
        ("", "0", 0, True),
    ],
)
def test_numbers_are_read_right_or_are_format_failures(text, reference, score, failed):
    found = scoring.judge_text(text, [reference], "accuracy", {})
    assert (found["score"], found["format_failure"]) == (score, failed)


@pytest.mark.parametrize(
    ("text", "score", "failed"),
    [("5", 1, False), ("7 km", 1, False), ("6", 0, False), ("8 kg", 0, True), ("x", 0, True)],
)
def test_a_number_is_right_where_it_is_that_of_any_reference(text, score, failed):
    found = scoring.judge_text(text, ["5 m", "7 km"], "accuracy", {})
    assert (found["score"], found["format_failure"]) == (score, failed)


@pytest.mark.parametrize("name", schema.TEXT_SCORES)
def test_the_headline_is_the_score_that_the_metric_names(name):
    scores = dict.fromkeys(schema.TEXT_SCORES, 0.25) | {name: 0.75}
    assert scoring.judge_text("x", ["y"], name, scores) == {"score": 0.75, "scores": scores}


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


def test_rouge_is_a_plain_mean_with_an_interval_within_0_and_1():
    found = of_scores([0.1, 0.2, 0.6], metric_name="rouge")
    assert found["metric_by_len"] == {"0": pytest.approx(0.3)}
    of_0 = found["stats_by_len"]["0"]
    assert 0 < of_0["low"] < 0.3 < of_0["high"] < 1
    assert of_0["interval"] == "95% Wilson at the effective n, over targets"


@pytest.mark.parametrize("name", schema.PROPORTIONS)
def test_what_is_0_or_1_has_a_wilson_interval(name):
    found = of_scores([1, 0, 1], metric_name=name)["stats_by_len"]["0"]
    assert (found["low"], found["high"]) == stats.wilson(np.array([1.0, 0, 1]))


def test_each_score_of_texts_has_a_mean_by_length():
    def scores(value):
        return {name: value / (1 + k) for k, name in enumerate(schema.TEXT_SCORES)}

    examples = [
        example(h, i, scores=scores(value))
        for h, row in enumerate([(1, 0.5), (0, 1)])
        for i, value in enumerate(row)
    ]
    found = metrics.aggregate(examples, "rouge")["scores_by_len"]
    assert found == {"0": pytest.approx(scores(0.75)), "1": pytest.approx(scores(0.5))}


def test_format_failures_are_counted_by_length():
    failed = [(True, False, True), (False, False, True)]
    examples = [
        example(h, i, format_failure=value)
        for h, row in enumerate(failed)
        for i, value in enumerate(row)
    ]
    assert metrics.aggregate(examples, "accuracy")["format_failures_by_len"] == {"0": 2, "1": 1}


def test_label_tasks_have_neither_text_scores_nor_format_failures():
    found = of_scores([1, 0], [0, 0])
    assert found["scores_by_len"] == found["format_failures_by_len"] == {}


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
        [(0, 0), (2, 0), (2, 1)],
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
    assert of_1["interval"] == "95% Wilson at the effective n, over targets"
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
    assert (of_0["interval"], of_1["interval"]) == (
        "95% Wilson",
        "95% Wilson at the effective n, over histories",
    )


def test_one_history_number_under_two_seeds_is_two_histories():
    examples = examples_of([1, 0, 1, 0], [0, 0, 0, 1])
    for entry in examples:
        target = entry["config"]["target_idx"]
        entry["config"] |= {"seed": target % 2, "history_number": target // 2}
    of_1 = metrics.aggregate(examples, "accuracy")["stats_by_len"]["1"]
    assert of_1["clusters"] == {"unit": "targets", "count": 4}
