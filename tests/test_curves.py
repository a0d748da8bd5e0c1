"""Claims about `viz.py metric`: its files, and that each figure shows what the results store."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import FillBetweenPolyCollection, LineCollection, PathCollection
from PIL import Image
from small_results import (
    TARGETS,
    complains,
    draw,
    edit,
    note_of,
    seal,
    text_example,
    verify,
    write_pair,
)

from core import records
from reports import curves, style
from reports.groups import load_groups

# --- the files


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Folder of figures, and what was printed: two distractors, layers read under one of them."""
    folder = tmp_path_factory.mktemp("drawn")
    write_pair(folder / "results", distractor="posts/test")
    write_pair(folder / "results", distractor="quiz/test", cosines=False)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert draw(folder / "results", folder / "deep" / "plots") == 0
    return folder / "deep" / "plots", printed.getvalue()


def test_metric_writes_each_figure_thrice_and_no_cosines_where_none_were_read(drawn):
    kinds = ("metric", "change", "cosine_posts_test")
    expected = {f"org@name__quiz_test__{k}.{end}" for k in kinds for end in ("pdf", "svg", "png")}
    assert {path.name for path in drawn[0].iterdir()} == expected


def test_every_figure_is_printed_in_a_line_with_its_endings(drawn):
    plots, printed = drawn
    paths = {plots / path.stem for path in plots.iterdir()}
    assert set(printed.splitlines()) == {f"{path}.{{pdf,svg,png}}" for path in paths}
    assert len(printed.splitlines()) == len(paths)


def test_png_has_150_dpi_or_more_and_pdf_embeds_truetype_fonts(drawn):
    for png in drawn[0].glob("*.png"):
        assert round(Image.open(png).info["dpi"][0]) >= 150
        pdf = png.with_suffix(".pdf").read_bytes()
        assert b"/FontFile2" in pdf
        assert b"/Type3" not in pdf


def test_models_and_targets_are_never_mixed(tmp_path):
    for model, target in (("org/a", "quiz/test"), ("org/b", "quiz/test"), ("org/a", "mmlu/test")):
        write_pair(tmp_path, model, target)
    groups = load_groups([tmp_path])
    assert [tuple(group.names.values()) for group in groups] == [
        ("org/a", "mmlu/test"),
        ("org/a", "quiz/test"),
        ("org/b", "quiz/test"),
    ]
    for group in groups:
        for result in group.lines.values():
            assert {field: result[field] for field in group.names} == group.names
    stems = [drawn.stem for drawn in curves.metric_figures(groups)]
    assert len(set(stems)) == len(stems) == 6


def test_the_folder_is_named_by_nobody_but_the_result(tmp_path):
    log = write_pair(tmp_path)
    moved = tmp_path / "elsewhere" / "x.json"
    moved.parent.mkdir()
    records.result_of_debug(log).rename(moved)
    log.rename(records.debug_path(moved))
    [group] = load_groups([tmp_path])
    assert group.names == {"model": "org/name", "target": "quiz/test"}


def test_two_results_of_one_pair_are_refused_and_both_named(tmp_path, capsys):
    logs = [write_pair(tmp_path / name) for name in ("fp32", "fp16")]
    assert draw(tmp_path, tmp_path / "plots") == 2
    assert complains(capsys, *(str(records.result_of_debug(log)) for log in logs))


def test_two_figures_of_one_name_are_refused(tmp_path, capsys):
    write_pair(tmp_path, "org/name", cosines=False)
    write_pair(tmp_path / "other", "org@name", cosines=False)
    assert draw(tmp_path, tmp_path / "plots") == 2
    assert complains(capsys, "same name")


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_a_folder_without_results_is_refused(tmp_path, capsys, folder):
    (tmp_path / "empty").mkdir()
    assert draw(tmp_path / folder, tmp_path / "plots") == 2
    assert complains(capsys, folder)
    assert not (tmp_path / "plots").exists()


@pytest.mark.parametrize(
    "part", ["measures.metrics.aggregate_examples", "reports.curves.draw_line"]
)
def test_a_fault_of_our_own_is_not_blamed_on_a_file(tmp_path, monkeypatch, part):
    def faulty(*arguments, **settings):
        raise KeyError("of ours")

    log = write_pair(tmp_path)
    monkeypatch.setattr(part, faulty)
    with pytest.raises(KeyError, match="of ours"):
        draw(tmp_path, tmp_path / "plots") if "draw" in part else verify(log)


def test_an_out_dir_that_is_a_file_is_refused(tmp_path, capsys):
    write_pair(tmp_path / "results")
    (tmp_path / "plots").write_text("")
    assert draw(tmp_path / "results", tmp_path / "plots") == 2
    assert complains(capsys, "plots")


# --- what the figures show


@pytest.fixture(autouse=True)
def settings():
    """Figures are made under the settings that they are saved with."""
    with style.sheet():
        yield


def figures_of(folder: Path) -> dict:
    """Figures by the last part of their stem; for a folder of one model and target."""
    drawn = curves.metric_figures(load_groups([folder]))
    return {stem.split("__")[-1]: figure for stem, figure, *_ in drawn}


def test_metric_figure_shows_the_stored_values_and_intervals(tmp_path):
    log = write_pair(tmp_path)
    result = records.read_result(records.result_of_debug(log))
    (axes,) = figures_of(tmp_path)["metric"].axes
    (line,) = axes.lines
    assert list(line.get_ydata()) == list(result["metric_by_len"].values())
    ends = [(of_len["low"], of_len["high"]) for of_len in result["stats_by_len"].values()]
    assert bands_of(axes) == [ends]


def bands_of(axes) -> list[list[tuple[float, float]]]:
    """Lower and upper end at each history length of the bands on these axes."""
    bands = [band for band in axes.collections if isinstance(band, FillBetweenPolyCollection)]
    shapes = [band.get_paths()[0].vertices for band in bands]
    lengths = [sorted(set(shape[:, 0].tolist())) for shape in shapes]
    return [
        [tuple(np.sort(shape[shape[:, 0] == h, 1])[[0, -1]].tolist()) for h in row]
        for shape, row in zip(shapes, lengths)
    ]


def test_many_lines_have_bars_for_bands(tmp_path):
    for name in "abcd":
        log = write_pair(tmp_path, distractor=f"{name}/test")
    (axes,) = figures_of(tmp_path)["metric"].axes
    assert not bands_of(axes)
    bars = [found for found in axes.collections if isinstance(found, LineCollection)]
    stats = records.read_result(records.result_of_debug(log))["stats_by_len"].values()
    for found in bars:
        ends = [segment[:, 1].tolist() for segment in found.get_segments()]
        assert ends == [[of_len["low"], of_len["high"]] for of_len in stats]
    assert len(bars) == 4


def test_change_figure_has_the_stored_interval(tmp_path):
    log = write_pair(tmp_path)
    stats = records.read_result(records.result_of_debug(log))["stats_by_len"].values()
    (axes,) = figures_of(tmp_path)["change"].axes
    names = ("percent_change_low", "percent_change_high")
    assert bands_of(axes) == [[tuple(of_len[name] for name in names) for of_len in stats]]


def test_points_that_survive_the_correction_are_filled_and_the_legend_says_so(tmp_path):
    result = records.result_of_debug(write_pair(tmp_path))
    for h, p in (("1", 0.049), ("2", 0.05)):
        edit(result, "stats_by_len", h, "p_value", value=0.0001)
        edit(result, "stats_by_len", h, "p_holm", value=p)
    seal(result)
    for name in ("metric", "change"):
        figure = figures_of(tmp_path)[name]
        (axes,) = figure.axes
        filled = [dots for dots in axes.collections if isinstance(dots, PathCollection)]
        (points,) = [dots.get_offsets().tolist() for dots in filled]
        assert points == [[1, axes.lines[0].get_ydata()[1]]]
        assert axes.lines[0].get_markerfacecolor() == "white"
        assert "filled: p < 0.05" in figure.legends[0].get_title().get_text()


def test_lines_of_distractors_stay_near_their_history_length_and_apart(tmp_path):
    for name in "abcd":
        write_pair(tmp_path, distractor=f"{name}/test")
    (axes,) = figures_of(tmp_path)["metric"].axes
    x = np.array([line.get_xdata() for line in axes.lines])
    assert np.abs(x - np.arange(3)).max() < 0.5
    assert np.diff(x, axis=0).min() > 0.05
    assert len({line.get_color() for line in axes.lines}) == 4
    assert len({line.get_marker() for line in axes.lines}) == 4


def test_a_distractor_looks_the_same_in_every_figure(tmp_path):
    write_pair(tmp_path, "org/a", distractor="b/test")
    for distractor in ("a/test", "b/test"):
        write_pair(tmp_path, "org/b", distractor=distractor)
    groups = load_groups([tmp_path])
    drawn = {stem: figure for stem, figure, *_ in curves.metric_figures(groups)}
    alone = drawn["org@a__quiz_test__metric"].axes[0].lines[0]
    second = drawn["org@b__quiz_test__change"].axes[0].lines[1]
    assert alone.get_color() == second.get_color()
    assert alone.get_marker() == second.get_marker()


def test_a_percentage_change_of_null_is_a_gap_with_its_reason_and_never_zero(tmp_path):
    write_pair(tmp_path, distractor="posts/test")
    result = records.result_of_debug(write_pair(tmp_path, distractor="quiz/test"))
    edit(result, "stats_by_len", "1", "percent_change", value=None)
    edit(result, "stats_by_len", "1", "percent_change_reason", value="the metric is 0 at h = 0")
    seal(result)
    (axes,) = figures_of(tmp_path)["change"].axes
    whole, broken, zero = axes.lines
    assert np.isfinite(whole.get_ydata()).all()
    assert np.isnan(broken.get_ydata()).tolist() == [False, True, False]
    assert list(zero.get_ydata()) == [0, 0]
    assert "gaps because the metric is 0 at h = 0: quiz/test" in note_of(axes.figure)


def test_an_interval_of_null_is_left_out_with_its_reason(tmp_path):
    result = records.result_of_debug(write_pair(tmp_path))
    for end in ("low", "high"):
        edit(result, "stats_by_len", "2", f"percent_change_{end}", value=None)
        edit(result, "stats_by_len", "2", f"percent_change_{end}_reason", value="of rain")
    seal(result)
    (axes,) = figures_of(tmp_path)["change"].axes
    assert np.isfinite(axes.lines[0].get_ydata()).all()
    assert "no interval because of rain: posts/test (h = 2)" in note_of(axes.figure)


def test_an_interval_between_two_of_null_is_a_bar(tmp_path):
    result = records.result_of_debug(write_pair(tmp_path))
    for h in "02":
        for end in ("low", "high"):
            edit(result, "stats_by_len", h, end, value=None)
    seal(result)
    (axes,) = figures_of(tmp_path)["metric"].axes
    (bar,) = [found for found in axes.collections if isinstance(found, LineCollection)]
    of_len = records.read_result(result)["stats_by_len"]["1"]
    assert [s.tolist() for s in bar.get_segments()] == [[[1, of_len["low"]], [1, of_len["high"]]]]


def test_no_note_where_nothing_is_missing(tmp_path):
    write_pair(tmp_path)
    note = note_of(figures_of(tmp_path)["change"])
    assert "because" not in note


def test_units_and_n_are_written_on_every_figure(tmp_path):
    write_pair(tmp_path, make=text_example)
    drawn = figures_of(tmp_path)
    assert "ROUGE-L F1" in drawn["metric"].axes[0].get_ylabel()
    assert "(%)" in drawn["change"].axes[0].get_ylabel()
    for name, figure in drawn.items():
        legend = " ".join(text.get_text() for text in figure.legends[0].get_texts())
        assert f"n = {TARGETS}" in legend.replace("\N{NO-BREAK SPACE}", " "), name


@pytest.mark.parametrize("distractors", [1, 3, 9])
def test_the_legend_never_covers_the_axes(tmp_path, distractors):
    for number in range(distractors):
        write_pair(tmp_path, distractor=f"mmlu.subject_{number}/validation")
    for figure in figures_of(tmp_path).values():
        figure.draw_without_rendering()
        legend = figure.legends[0].get_window_extent()
        assert not legend.overlaps(figure.axes[0].get_window_extent())
        assert figure.bbox.x0 <= legend.x0 and legend.x1 <= figure.bbox.x1
