"""Claims about how figures look: readable, whole and the same at both widths of a paper."""

import itertools
import zlib
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from matplotlib.text import Text

import figures
import grid
import layer_figures
import records
import study_figures
import style
import tables

LONG = "mmlu.high_school_european_history_{}/validation"
MEASURES = ("cos", "drift", "margin", "agree")
MODEL = "meta-llama/Meta-Llama-3.1-405B-Instruct"
LOOKS = [style.Look(width, paper) for width in style.WIDTHS for paper in (False, True)]
LOOK_IDS = [f"{look.width}{'-paper' * look.paper}" for look in LOOKS]


@pytest.fixture(autouse=True)
def settings():
    with style.sheet():
        yield


@cache
def synthetic(lengths: int, blocks: int, seed: int) -> dict:
    """A result of random numbers with every part that is drawn."""
    rng = np.random.default_rng(seed)
    metric = rng.uniform(0.2, 0.8, lengths)
    hs = [str(h) for h in range(lengths)]
    stats, layer_stats, cues, sensitivity = {}, {}, {}, {}
    rows = {key: rng.normal(size=(lengths, blocks)).round(3).tolist() for key in "cdma"}
    for h, value in zip(hs, metric):
        change, p = 100 * (value - metric[0]), None if h == "0" else float(rng.uniform() ** 3)
        entry = dict.fromkeys(records.STATS_KEYS)
        entry |= {"n": 100, "n_targets": 100, "clusters": {"unit": "targets", "count": 100}}
        entry |= {"low": value - 0.1, "high": value + 0.1, "interval": "95% Wilson"}
        entry |= {"change_points": change, "p_value": p, "p_holm": p}
        percent = 100 * (value / metric[0] - 1)
        entry |= {"percent_change": percent, "percent_change_low": percent - 20}
        stats[h] = entry | {"percent_change_high": percent + 20}
        mean = {"interval": "95% Student's t over targets", "excluded": [0] * blocks}
        layer_stats[h] = {
            name: mean | {"low": [x - 0.2 for x in row], "high": [x + 0.2 for x in row]}
            for name, row in zip(
                ("cos", "drift", "margin", "agree"), (rows[k][int(h)] for k in "cdma")
            )
        }
        layer_stats[h]["decision_layer"] = mean | {
            "mean": blocks / 2, "low": blocks / 3, "high": blocks / 1.5, "undecided": 3
        }  # fmt: skip
        cue = {"metric": value, "change_points": 1.0, "change_points_low": -3.0}
        cue |= {"change_points_high": 5.0, "clusters": entry["clusters"]}
        cues[h] = cue if int(h) else {}
        of_reply = {"mean": int(h) / 9, "low": -0.1, "high": 1, "interval": "95% Student's t"}
        sensitivity[h] = {name: {"per_token": of_reply} for name in study_figures.PANELS}
    by_len = dict(zip(hs, rng.multinomial(100, [1 / blocks] * blocks, lengths).tolist()))
    return {
        "schema_version": records.SCHEMA_VERSION, "metric_name": "accuracy", "n": 100,
        "metric_by_len": dict(zip(hs, metric.tolist())), "stats_by_len": stats,
        **{key: {} for key in records.SOMETIMES}, "debug_top5_by_len": {}, "environment": {},
        **{f"{name}_by_len": dict(zip(hs, rows[name[0]])) for name in MEASURES},
        "decision_layer_by_len": by_len, "layer_stats_by_len": layer_stats,
        "cue_by_len": cues, "sensitivity_by_len": sensitivity,
    }  # fmt: skip


def write(folder, lengths=3, blocks=4, model=MODEL, target=None, distractor=None, **config):
    """Write a synthetic result; returns its path."""
    target, distractor = target or LONG.format(0), distractor or LONG.format(1)
    names = {"model": model, "target": target, "distractor": distractor, "config": config}
    path = records.result_path(folder, model, target, distractor)
    seed = zlib.crc32(f"{target} {distractor} {config}".encode())
    records.write_json(path, synthetic(lengths, blocks, seed) | names)
    records.write_json(records.debug_path(path), {})
    return path


def every_figure(folder, look, by="distractor"):
    """Every figure of the results below a folder."""
    groups = figures.load_groups([folder], by)
    frame = tables.make_frame(records.load_results([folder]))
    found = [*figures.metric_figures(groups, look), *study_figures.study_figures(groups, look)]
    one = dict(itertools.islice(groups[0].lines.items(), 1))
    found += layer_figures.layer_figures([replace(groups[0], lines=one)], look)
    if frame["h"].max():
        found += grid.grid_figures(frame, grid.choose_length(frame, None, by), by, look)
    return found


def texts_of(figure) -> list[Text]:
    """What is written on a figure, ticks outside of the axes left out."""
    hidden = set()
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            low, high = sorted((low, high))
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not low - 1e-9 <= tick.get_loc() <= high + 1e-9:
                    hidden |= {tick.label1, tick.label2}
    found = figure.findobj(lambda part: isinstance(part, Text) and part.get_visible())
    return [text for text in found if text.get_text().strip() and text not in hidden]


def flaws(drawn) -> list[str]:
    """Texts that are cut off, overlap another or the curves, or are too small."""
    figure = drawn.figure
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent(), text) for text in texts_of(figure)]
    found = [f"small: {name}" for name, _, text in boxes if text.get_size() < 6]
    whole = figure.bbox
    for name, box, _ in boxes:
        if not (
            box.x0 >= -1 and box.x1 <= whole.x1 + 1 and box.y0 >= -1 and box.y1 <= whole.y1 + 1
        ):
            found.append(f"cut: {name} {box} {whole}")
    for (name, box, _), (other, second, _) in itertools.combinations(boxes, 2):
        if box.padded(-1.5).overlaps(second.padded(-1.5)):
            found.append(f"overlap: {name!r} and {other!r}")
    for legend in figure.legends:
        for axes in figure.axes:
            if legend.get_window_extent().overlaps(axes.get_window_extent()):
                found.append("the legend covers the axes")
    found += ["an empty panel" for axes in figure.axes if not axes.has_data()]
    return [f"{drawn.stem}: {flaw}" for flaw in found]


@pytest.mark.parametrize("look", LOOKS, ids=LOOK_IDS)
@pytest.mark.parametrize(("distractors", "lengths", "blocks"), [(1, 1, 2), (3, 2, 30), (9, 9, 80)])
def test_nothing_is_cut_off_or_overlaps_or_is_too_small(
    tmp_path, look, distractors, lengths, blocks
):
    for number in range(distractors):
        write(tmp_path, lengths, blocks, distractor=LONG.format(number))
    found = every_figure(tmp_path, look)
    assert [flaw for drawn in found for flaw in flaws(drawn)] == []
