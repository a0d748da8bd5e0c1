"""Claims about the layer measures and their aggregates, against numbers worked out by hand."""

import warnings

import numpy as np
import pytest
from scipy.stats import t, ttest_1samp

from lm.prompts import Layers
from measures import layers, metrics
from measures.stats import find_clusters
from measures.table import Group
from run.examples import layer_measures

LOGITS = {"A": (1.0, 0.0, 3.0, 2.0), "B": (2.0, 1.0, 1.0, 0.5), "C": (0.0, 4.0, 1.0, 1.5)}
nan, inf = float("nan"), float("inf")


def example(h=0, target=0, **measures):
    config = {"history_len": h, "target_idx": target}
    return {"config": config, "score": 1.0, "top5": [], **measures}


def read(**settings):
    return Layers(
        **{
            "cosines": (0.5, 1.0),
            "drift": (0.9, 0.8),
            "label_logits": None,
            "agree": None,
            **settings,
        }
    )


def aggregate(group, targets=None):
    """Aggregates of examples at h = 0, those of equal targets in one cluster."""
    names = targets or range(len(group))
    clusters = find_clusters(names, range(len(group)))
    return layers.aggregate({"0": Group.of(group, layers.columns)}, clusters, clusters)


# --- one example


def test_the_margin_is_the_reference_against_the_best_other_label():
    assert layers.margin(LOGITS, "A") == [-1.0, -4.0, 2.0, 0.5]
    assert layers.margin(LOGITS, "C") == [-2.0, 3.0, -2.0, -0.5]


def test_a_common_shift_of_all_logits_changes_no_margin_and_no_decision():
    shifted = {label: tuple(x - 40 for x in row) for label, row in LOGITS.items()}
    assert layers.margin(shifted, "B") == layers.margin(LOGITS, "B")
    assert layers.leads(shifted, "A") == layers.leads(LOGITS, "A")


@pytest.mark.parametrize(
    ("holds", "layer"),
    [
        ([False, True, True], 2),
        ([True, True, True], 1),
        ([True, False, True], 3),
        ([True, True, False], None),
        ([False], None),
    ],
)
def test_the_decision_layer_is_the_first_from_which_it_stays(holds, layer):
    assert layers.first_kept(holds) == layer


def test_an_example_of_a_label_task_has_margin_and_decision_layer():
    found = layer_measures(read(label_logits=LOGITS), "A", "C")
    assert found["margin"] == layers.margin(LOGITS, "C")
    assert found["decision_layer"] == 3
    assert "agree" not in found


def test_the_margin_is_positive_from_the_decision_layer_on_where_the_answer_is_right():
    found = layer_measures(read(label_logits=LOGITS), "A", "A")
    decided = found["decision_layer"] - 1
    assert min(found["margin"][decided:]) > 0 >= found["margin"][decided - 1]


def test_an_answer_in_words_is_decided_where_the_lens_keeps_the_top_token():
    found = layer_measures(read(agree=(False, True, False, True, True)), "word", "other")
    assert found["agree"] == [0, 1, 0, 1, 1] and found["decision_layer"] == 4
    assert not {"margin", "decision_layer"} & layer_measures(read(), "word", "other").keys()


@pytest.mark.parametrize("bad", [nan, inf, -inf])
def test_what_is_not_finite_is_null_in_the_log(bad):
    spoiled = {**LOGITS, "A": (1.0, bad, 3.0, 2.0)}
    found = layer_measures(read(cosines=(bad, 1.0), label_logits=spoiled), "A", "A")
    assert found["cosines"] == [None, 1.0]
    assert found["margin"] == [-1.0, None, 2.0, 0.5]
    assert found["decision_layer"] == 3


# --- many examples


def test_means_are_over_examples_block_by_block():
    group = [example(target=i, cosines=[0.375 * (i == 2), 1.0]) for i in range(3)]
    assert metrics.aggregate(group, "accuracy")["cos_by_len"] == {"0": [0.125, 1.0]}


def test_a_measure_that_some_examples_lack_is_left_out():
    found = aggregate([example(cosines=[0.5, 1.0], drift=[1, 1]), example(drift=[1, 1])])
    assert found["cos_by_len"] == {} and found["drift_by_len"] == {"0": [1.0, 1.0]}


def test_without_layers_every_layer_aggregate_is_empty():
    assert set(map(str, aggregate([example()]).values())) == {"{}"}


def test_null_is_left_out_of_the_mean_and_counted():
    group = [example(margin=[value, 1.0]) for value in (1.0, None, 4.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = aggregate(group)
    assert found["margin_by_len"] == {"0": [2.5, 1.0]}
    assert found["layer_stats_by_len"]["0"]["margin"]["excluded"] == [1, 0]


def test_a_block_without_a_finite_value_has_no_mean_and_one_value_no_interval():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = aggregate([example(drift=[None, 0.5]), example(drift=[None, None])])
    assert found["drift_by_len"] == {"0": [None, 0.5]}
    stats = found["layer_stats_by_len"]["0"]["drift"]
    assert stats["low"] == stats["high"] == [None, None] and stats["excluded"] == [2, 1]


def test_intervals_are_those_of_students_t():
    values = np.random.default_rng(0).normal(size=(12, 3))
    group = [example(margin=row) for row in values.tolist()]
    stats = aggregate(group)["layer_stats_by_len"]["0"]["margin"]
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert stats["low"] == pytest.approx(expected.low, abs=1e-6)
    assert stats["high"] == pytest.approx(expected.high, abs=1e-6)


def test_intervals_of_clusters_leave_out_one_after_another():
    values = np.random.default_rng(0).normal(size=12)
    names = np.array([0, 0, 0, 1, 2, 2, 3, 3, 4, 5, 5, 5])
    found = aggregate([example(margin=[v]) for v in values], names.tolist())
    stats = found["layer_stats_by_len"]["0"]
    without = np.array([values[names != name].mean() for name in range(6)])
    error = (5 / 6 * ((without - values.mean()) ** 2).sum()) ** 0.5
    half = t.ppf(0.975, 12**2 / (9 + 1 + 4 + 4 + 1 + 9) - 1) * error
    assert stats["margin"]["low"] == [pytest.approx(values.mean() - half, abs=1e-6)]
    assert stats["margin"]["interval"] == "95% Student's t over targets"


def test_decision_layers_are_counted_by_block():
    group = [example(cosines=[0, 0, 1], decision_layer=block) for block in (2, 3, 2, None, 3, 3)]
    found = aggregate(group)
    assert found["decision_layer_by_len"] == {"0": [0, 2, 3]}
    stats = found["layer_stats_by_len"]["0"]["decision_layer"]
    assert stats["mean"] == pytest.approx(13 / 5) and stats["undecided"] == 1
    assert stats["low"] < stats["mean"] < stats["high"]
