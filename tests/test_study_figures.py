"""Claims about the figures of sensitivity and of the switch cue."""

import json

import numpy as np
import pytest
from small_results import LENS, TARGETS, draw, label_example, verify, write_pair

from core import records
from reports import curves, style
from reports.groups import load_groups


def study_example(h: int, target: int) -> dict:
    """A label example with replies' log-probabilities and, from h = 1, with a cue."""
    replies = {
        name: {"sum": -1.0 * k - 0.1 * h * target, "tokens": 1 + k}
        for k, name in enumerate(("zero_shot", "own", "reference"))
    }
    example = label_example(h, target) | {"reply_logprobs": replies}
    if h:
        cued = {"prompt_text": "cued", "rewritten_messages": 2 * h + 1, "intruded": None}
        example["cued"] = label_example(h - 1, target) | cued
    return example


@pytest.fixture(autouse=True)
def settings():
    with style.sheet():
        yield


@pytest.fixture
def log(tmp_path):
    return write_pair(tmp_path, make=study_example, cosines=False)


def drawn(log) -> dict:
    groups = load_groups([log.parents[1]])
    return {d.stem.split("__")[-1]: d.figure for d in curves.study_figures(groups)}


def stored(log) -> dict:
    return json.loads(records.result_of_debug(log).read_text())


def test_such_a_result_verifies(log):
    assert verify(log) == 0


def test_sensitivity_has_a_panel_per_variant_with_the_stored_means_per_token(log):
    figure = drawn(log)["sensitivity"]
    by_len = stored(log)["sensitivity_by_len"]
    assert len(figure.axes) == len(curves.PANELS)
    for axes, name in zip(figure.axes, curves.PANELS):
        line = next(line for line in axes.lines if len(line.get_ydata()) == len(LENS))
        expected = [of_len[name]["per_token"]["mean"] for of_len in by_len.values()]
        np.testing.assert_allclose(line.get_ydata(), expected)


def test_the_cue_figure_shows_both_metrics_and_their_difference(log):
    values, differences = drawn(log)["cue"].axes
    result = stored(log)
    plain, cued = (line.get_ydata() for line in values.lines)
    entries = list(result["cue_by_len"].values())[1:]
    np.testing.assert_allclose(plain, list(result["metric_by_len"].values()))
    np.testing.assert_allclose(cued, [entry["metric"] for entry in entries])
    points = differences.lines[-1].get_ydata()
    np.testing.assert_allclose(points, 100 * (cued - plain[1:]))
    np.testing.assert_allclose(points, [entry["change_points"] for entry in entries])


def test_both_are_drawn_by_metric_and_only_where_they_were_read(log, tmp_path):
    assert draw(log.parents[1], tmp_path / "plots") == 0
    names = {path.stem.split("__")[-1] for path in (tmp_path / "plots").iterdir()}
    assert names == {"metric", "change", "sensitivity", "cue"}
    other = write_pair(tmp_path / "plain", cosines=False)
    assert drawn(other) == {}


def test_a_distractor_has_one_colour_in_all_figures(log):
    write_pair(log.parents[1], distractor="a/first", cosines=False)  # has no sensitivity
    groups = load_groups([log.parents[1]])
    metric = next(curves.metric_figures(groups)).figure
    [line] = [each for each in metric.axes[0].lines if each.get_label().startswith("posts")]
    panel = drawn(log)["sensitivity"].axes[0]
    [other] = [each for each in panel.lines if str(each.get_label()).startswith("posts")]
    assert line.get_color() == other.get_color() != style.COLOURS[0]


def test_n_and_units_are_written_on_both(log):
    for figure in drawn(log).values():
        figure.canvas.draw()
        texts = " ".join(text.get_text() for text in figure.legends[0].get_texts())
        assert f"n = {TARGETS}" in texts.replace("\N{NO-BREAK SPACE}", " ")
        labels = " ".join(axes.get_ylabel() for axes in figure.axes)
        assert "points" in labels or "nats" in labels
