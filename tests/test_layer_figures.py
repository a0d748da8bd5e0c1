"""Claims about `viz.py layers`: each figure shows what the result stores."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_results import (
    BLOCKS,
    LENS,
    TARGETS,
    complains,
    edit,
    label_example,
    note_of,
    seal,
    text_example,
)
from small_results import write_pair as write

import viz
from core import records
from reports import layers, style
from reports.groups import load_groups

MEASURES = ("cosine", "cosine_centred", "drift", "margin", "agree", "decision_layer")


@pytest.fixture(autouse=True)
def settings():
    with style.sheet():
        yield


@pytest.fixture
def result(tmp_path):
    return records.result_of_debug(write(tmp_path))


def drawn(path: Path) -> dict:
    """Figures by measure, for a folder of one result."""
    found = layers.layer_figures(load_groups([path.parents[1]]))
    return {stem.split("__")[-1].removesuffix("_posts_test"): figure for stem, figure, *_ in found}


def draw(path: Path, plots: Path) -> int:
    return viz.main(["layers", "--result_dir", str(path.parents[1]), "--out_dir", str(plots)])


def test_every_measure_is_written_in_every_format_and_printed(result, tmp_path, capsys):
    assert draw(result, tmp_path / "plots") == 0
    stems = {f"org@name__quiz_test__{m}_posts_test" for m in MEASURES}
    printed = {Path(line).name for line in capsys.readouterr().out.splitlines()}
    assert printed == {f"{stem}.{{pdf,svg,png}}" for stem in stems}
    names = {f"{stem}.{end}" for stem in stems for end in style.FORMATS}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == names


def test_a_generation_task_has_no_margin(tmp_path):
    path = records.result_of_debug(write(tmp_path, make=text_example))
    assert set(drawn(path)) == set(MEASURES) - {"margin"}


def test_a_result_without_layers_is_two_plain_lines(tmp_path, capsys):
    path = records.result_of_debug(write(tmp_path, cosines=False))
    assert draw(path, tmp_path / "plots") == 2
    assert complains(capsys, "no result below", "--no_cosine")


@pytest.mark.parametrize("measure", layers.DRAWN_MEASURES)
def test_lines_bands_and_heat_map_show_the_stored_numbers(result, measure):
    stored = json.loads(result.read_text())
    lines, heat, _ = drawn(result)[measure.stem].axes
    expected = layers.table(stored[f"{measure.name}_by_len"])
    assert expected.shape == (len(LENS), BLOCKS)
    for h, line in enumerate(lines.lines[: len(LENS)]):
        assert list(line.get_xdata()) == list(range(1, BLOCKS + 1))
        np.testing.assert_array_equal(line.get_ydata(), expected[h])
        [path] = lines.collections[h].get_paths()
        stats = stored["layer_stats_by_len"][str(h)][measure.name]
        bounds = [x for end in ("low", "high") for x in stats[end] if x is not None]
        assert np.max(path.vertices[:, 1]) == pytest.approx(max(bounds))
        assert np.min(path.vertices[:, 1]) == pytest.approx(min(bounds))
    np.testing.assert_array_equal(heat.images[0].get_array().filled(np.nan), expected)


def test_the_decision_layer_is_shown_as_a_distribution(result):
    stored = json.loads(result.read_text())
    lines, heat, _ = drawn(result)["decision_layer"].axes
    counts = layers.table(stored["decision_layer_by_len"])
    assert counts.sum(axis=1).tolist() == [TARGETS] * len(LENS)
    np.testing.assert_allclose(heat.images[0].get_array(), counts / TARGETS)
    for line, row in zip(lines.lines, counts):
        np.testing.assert_allclose(line.get_ydata(), row.cumsum() / TARGETS)
    means = [line.get_xdata()[0] for line in heat.lines if line.get_marker() == "x"]
    stats = stored["layer_stats_by_len"].values()
    assert means == [of_len["decision_layer"]["mean"] for of_len in stats]
    assert heat.get_xlim() == (0.5, BLOCKS + 0.5)


def test_colours_of_a_signed_measure_are_centred_at_zero(result):
    for name, figure in drawn(result).items():
        low, high = figure.axes[1].images[0].get_clim()
        assert (low == -high) == (name == "margin")


def test_values_that_are_not_finite_are_counted_on_the_figure(result):
    text = note_of(drawn(result)["margin"])
    assert f"{TARGETS * len(LENS)} values left out: not finite" in text
    assert "not finite" not in note_of(drawn(result)["drift"])


def test_model_pair_n_and_lens_are_named_on_every_figure(result):
    edit(result, "config", value={"lens": "raw"})
    seal(result)
    for figure in drawn(result).values():
        title = figure.get_suptitle()
        for word in ("org/name", "quiz/test", "posts/test", f"n = {TARGETS}", "raw lens"):
            assert word in title


@pytest.mark.parametrize("make", [label_example, text_example])
def test_no_text_is_cut_off_and_no_panel_is_empty(tmp_path, make):
    for name, figure in drawn(records.result_of_debug(write(tmp_path, make=make))).items():
        figure.canvas.draw()
        whole = figure.bbox
        for axes in figure.axes:
            assert axes.has_data(), name
            box = axes.get_tightbbox()
            assert box.x0 >= -1 and box.x1 <= whole.x1 + 1, name
        title = figure._suptitle.get_window_extent()
        assert title.x0 >= 0 and title.x1 <= whole.x1, name
