"""Claims about how figures look: readable, whole and the same at both widths of a paper."""

import itertools
import re
import zlib
from dataclasses import replace
from functools import cache

import matplotlib
import numpy as np
import pytest
import stored
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

import viz
from core import records, schema
from core.keys import make_keys
from reports import curves, grid, layers, style, tables
from reports.groups import BY, load_groups

LONG = "mmlu.high_school_european_history_{}/validation"
MEASURES = ("cos", "drift", "margin", "agree")
MODEL = "meta-llama/Meta-Llama-3.1-405B-Instruct"
LOOKS = [style.FigureStyle(width, paper) for width in style.WIDTHS for paper in (False, True)]
LOOK_IDS = [f"{look.width}{'-paper' * look.paper}" for look in LOOKS]


@pytest.fixture(autouse=True)
def settings():
    with style.sheet():
        yield


STATISTICS = (
    *("n", "n_targets", "clusters", "interval", "test", "low", "high", "p_value", "p_holm"),
    *("change_points", "change_points_low", "change_points_high", "detectable_points"),
    *("percent_change", "percent_change_low", "percent_change_high"),
)


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
        entry = dict.fromkeys(STATISTICS)
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
        sensitivity[h] = {name: {"per_token": of_reply} for name in curves.PANELS}
    by_len = dict(zip(hs, rng.multinomial(100, [1 / blocks] * blocks, lengths).tolist()))
    return {
        "schema_version": schema.SCHEMA_VERSION, "metric_name": "accuracy", "n": 100,
        "metric_by_len": dict(zip(hs, metric.tolist())), "stats_by_len": stats,
        **{key: {} for key in schema.SOMETIMES}, "debug_top5_by_len": {}, "environment": {},
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
    stored.write_pair(path, synthetic(lengths, blocks, seed) | names, {})
    return path


def every_figure(folder, look, by="distractor"):
    """Every figure of the results below a folder."""
    groups = load_groups([folder], by)
    frame = tables.make_frame(records.load_results([folder]))
    found = [*curves.metric_figures(groups, look), *curves.study_figures(groups, look)]
    one = dict(itertools.islice(groups[0].lines.items(), 1))
    found += layers.layer_figures([replace(groups[0], lines=one)], look)
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


@pytest.mark.parametrize("look", LOOKS[:2], ids=LOOK_IDS[:2])
def test_a_grid_of_forty_distractors_has_room_for_all(tmp_path, look):
    for number in range(40):
        write(tmp_path, distractor=LONG.format(number))
    frame = tables.make_frame(records.load_results([tmp_path]))
    [drawn] = grid.grid_figures(frame, 2, look=look)
    assert flaws(drawn) == []
    signs = ["+" if change > 0 else "-" for change in frame[frame["h"] == 2]["change_points"]]
    names = sorted(LONG.format(number) for number in range(40))
    by_place = sorted(drawn.figure.axes[0].texts, key=lambda text: text.get_position()[0])
    assert [text.get_text() for text in by_place] == signs
    assert len(names) == len(by_place)


# --- the style sheet


def test_every_size_of_a_text_is_one_of_the_sheets_and_6_points_or_more(tmp_path):
    write(tmp_path)
    settings = matplotlib.rc_params_from_file(style.SHEET, use_default_template=False)
    sizes = {value for name, value in settings.items() if name.endswith("size")} - {4.0}
    assert min(sizes) >= 6
    found = [
        text for drawn in every_figure(tmp_path, style.PLAIN) for text in texts_of(drawn.figure)
    ]
    assert {text.get_size() for text in found} <= sizes


def test_the_users_own_settings_change_nothing(tmp_path):
    write(tmp_path / "results")
    written = []
    for name, size in (("a", 10), ("b", 30)):
        with matplotlib.rc_context(
            {"font.size": size, "text.color": "red", "svg.fonttype": "none"}
        ):
            assert draw(tmp_path / "results", tmp_path / name, "--format", "svg", "pdf") == 0
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]


def test_svg_needs_no_font(tmp_path):
    write(tmp_path / "results")
    assert draw(tmp_path / "results", tmp_path / "plots", "--format", "svg") == 0
    texts = [path.read_text() for path in (tmp_path / "plots").iterdir()]
    assert len(texts) == 5
    assert not any("<text" in text or "font-family" in text for text in texts)


@pytest.mark.parametrize("width", style.WIDTHS)
def test_every_figure_is_as_wide_as_asked(tmp_path, width):
    assert style.WIDTHS == {"single": 3.5, "double": 7.2}
    write(tmp_path / "results")
    for command in ("metric", "layers", "grid"):
        plots = tmp_path / command
        flags = ("--width", width, "--format", "png")
        assert draw(tmp_path / "results", plots, *flags, command=command) == 0
        for path in plots.glob("*.png"):
            image = Image.open(path)
            inches = image.width / image.info["dpi"][0]
            assert inches == pytest.approx(style.WIDTHS[width], abs=0.01), path


def draw(results, plots, *flags, command="metric") -> int:
    """Status of a command of viz.py that draws."""
    folders = ["--result_dir", str(results), "--out_dir", str(plots)]
    return viz.main([command, *folders, *flags])


def test_panels_are_as_high_under_nine_lines_as_under_one(tmp_path):
    heights = []
    for count in (1, 9):
        for number in range(count):
            write(tmp_path / str(count), distractor=LONG.format(number))
        drawn = next(curves.metric_figures(load_groups([tmp_path / str(count)])))
        drawn.figure.draw_without_rendering()
        heights.append(drawn.figure.axes[0].get_window_extent().height / drawn.figure.dpi)
    assert heights == pytest.approx([curves.PANEL_HEIGHTS["double"]] * 2, abs=0.02)


# --- captions


def test_a_paper_has_neither_title_nor_notes_and_the_caption_holds_all_of_them(tmp_path):
    for number in range(2):
        write(tmp_path, distractor=LONG.format(number), switch_cue="Now another.")
    plain, paper = (every_figure(tmp_path, style.FigureStyle(paper=on)) for on in (False, True))
    assert [drawn.stem for drawn in plain] == [drawn.stem for drawn in paper]
    for with_title, without in zip(plain, paper):
        said = words(without.caption)
        assert MODEL in without.caption
        assert not without.figure.get_suptitle()
        titles = [with_title.figure.get_suptitle(), with_title.figure.get_supxlabel()]
        titles += [legend.get_title().get_text() for legend in with_title.figure.legends]
        assert words(" ".join(titles)) <= said, with_title.stem
        kept = words(" ".join(text.get_text() for text in texts_of(without.figure)))
        assert not kept & {"wilson", "student", "holm", "hatched", "crosses", "hollow"}


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower().replace("validation\n", "validation ")))


@pytest.mark.parametrize("command", ["metric", "layers", "grid"])
def test_a_caption_is_written_beside_each_figure_of_a_paper_only(tmp_path, capsys, command):
    write(tmp_path / "results")
    assert draw(tmp_path / "results", tmp_path / "a", "--paper", command=command) == 0
    printed = capsys.readouterr().out.split()
    paths = list((tmp_path / "a").iterdir())
    stems = {path.with_suffix("") for path in paths}
    assert set(printed) == {f"{stem}.{{pdf,svg,png,txt}}" for stem in stems}
    stems = {ending: set() for ending in (".txt", ".pdf", ".svg", ".png")}
    for path in paths:
        stems[path.suffix].add(path.stem)
    assert stems[".txt"] and len(set(map(frozenset, stems.values()))) == 1
    assert draw(tmp_path / "results", tmp_path / "b", command=command) == 0
    assert not list((tmp_path / "b").glob("*.txt"))


# --- grey


def test_nine_lines_differ_in_two_ways_that_a_grey_print_shows():
    lines = list(style.line_styles(map(str, range(9))).values())
    for one, other in itertools.combinations(lines, 2):
        light, second = (style.luminance(line["color"]) for line in (one, other))
        ways = (
            one["marker"] != other["marker"],
            one["linestyle"] != other["linestyle"],
            abs(light - second) > 0.08,
        )
        assert sum(ways) >= 2, (one, other)


def test_no_two_of_315_lines_look_alike():
    lines = style.line_styles(map(str, range(315))).values()
    assert len({(line["color"], line["marker"], line["linestyle"]) for line in lines}) == 315


@pytest.mark.parametrize("count", [2, 5, 9])
def test_longer_histories_are_lighter(count):
    light = [style.luminance(style.colour_of(h, count)) for h in range(count)]
    assert min(np.diff(light)) > 0.01
    assert light[-1] < 0.7  # still dark enough on white


def test_maps_of_layers_grow_lighter_with_the_value(tmp_path):
    write(tmp_path)
    for drawn in layers.layer_figures(load_groups([tmp_path])):
        [image] = drawn.figure.axes[1].images
        low, high = image.get_clim()
        light = [style.luminance(image.to_rgba(x)) for x in np.linspace(low, high, 50)]
        assert min(np.diff(light)) > 0, drawn.stem


def test_luminance_is_0_for_black_1_for_white_and_that_of_its_definition_between():
    assert [style.luminance(name) for name in ("black", "white")] == [0, pytest.approx(1)]
    assert style.luminance("#808080") == pytest.approx(((128 / 255 + 0.055) / 1.055) ** 2.4)


# --- text


@pytest.mark.parametrize("inches", [0.6, 1, 3])
def test_a_wrapped_text_loses_nothing_and_fits(inches):
    text = f"target {LONG} of org/a-model, p < 0.05"
    lines = style.wrap(text, inches).splitlines()
    assert "".join("".join(lines).split()) == "".join(text.split())
    pieces = re.split(r"(?<=[/._-])|\s", text)
    for line in lines:
        assert style.text_inches(line) <= inches or line in pieces


def test_the_measured_width_is_the_drawn_one():
    figure, axes = style.new_figure(style.PLAIN)
    text = axes.text(0, 0, LONG, size=matplotlib.rcParams["legend.fontsize"])
    drawn = text.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width / figure.dpi
    assert style.text_inches(LONG) == pytest.approx(drawn, rel=0.05)


# --- what stands side by side


@pytest.fixture
def runs(tmp_path):
    """Two models, distractors, histories and seeds: 16 results."""
    fields = (("org/a", "org/b"), ("q/test",), ("q/test", "p/test"))
    for history, seed in itertools.product(("teacher", "model"), (2, 10)):
        for model, target, distractor in itertools.product(*fields):
            folder = tmp_path / "results" / f"{history}{seed}"
            settings = {"history": history, "seed": [seed]}
            write(folder, 3, 2, model, target, distractor, **settings)
    return tmp_path / "results"


@pytest.mark.parametrize("by", BY)
def test_every_result_is_one_line_of_one_figure_and_lines_differ_in_one_field(runs, by):
    results = records.load_results([runs])
    groups = load_groups([runs], by)
    assert len(groups) == 8
    found = [result["path"] for group in groups for result in group.lines.values()]
    assert sorted(found) == sorted(result["path"] for result in results.values())
    for group in groups:
        found = make_keys(list(group.lines.values()))
        fields = [key.fields for key in found]
        assert [each.pop(by) for each in fields] == list(group.lines)
        assert fields == [group.names] * len(fields)


@pytest.fixture
def without_layout(monkeypatch):
    """Figures are drawn but not laid out, which takes most of the time."""
    monkeypatch.setattr(style, "finish", lambda *arguments: None)


@pytest.mark.parametrize("by", BY)
def test_no_two_figures_of_runs_share_a_name(runs, without_layout, by):
    stems = [drawn.stem for drawn in curves.metric_figures(load_groups([runs], by))]
    assert len(set(stems)) == len(stems) == 16
    frame = tables.make_frame(records.load_results([runs]))
    stems = [drawn.stem for drawn in grid.grid_figures(frame, 2, by)]
    assert len(set(stems)) == len(stems) == 8


def test_no_two_results_share_the_name_of_their_layers(runs, without_layout):
    groups = load_groups([runs])
    stems = [drawn.stem for drawn in layers.cosine_figures(groups)]
    assert len(set(stems)) == len(stems) == 16


def test_what_all_results_share_is_not_in_a_name(tmp_path):
    write(tmp_path, model="org/a", target="q/test", history="teacher", seed=[0])
    groups = load_groups([tmp_path])
    stems = [drawn.stem for drawn in curves.metric_figures(groups)]
    assert stems == ["org@a__q_test__metric", "org@a__q_test__change"]


def test_seeds_stand_in_their_order_and_are_said_not_to_be_pooled(runs):
    group = load_groups([runs], "seed")[0]
    assert list(group.lines) == ["2", "10"]
    drawn = next(curves.metric_figures([group]))
    assert "nothing is pooled" in drawn.caption
    heading = drawn.figure.legends[0].get_title().get_text()
    assert heading.startswith("Seed\n") and "pooled" in heading
    for line, result in zip(drawn.figure.axes[0].lines, group.lines.values()):
        assert list(line.get_ydata()) == list(result["metric_by_len"].values())


@pytest.mark.parametrize("inches", [0.6, 0.8, 1.6, 3.0])
def test_no_line_ends_within_a_name_and_its_number(inches):
    text = "after n = 6, at h = 0 and h >= 1 with p < 0.05 or p >= 0.05, as h = 12 (n = 1)"
    lines = style.wrap(text, inches).split("\n")
    assert " ".join(lines) == text and len(lines) > 1
    assert not [line for line in lines if line.endswith((" n", " h", " p", "=", "<", ">"))]
    assert not [line for line in lines if line.startswith(("=", "<", ">")) or line in "nhp"]


def test_a_history_that_is_not_the_usual_one_is_in_every_name_and_title(tmp_path):
    write(tmp_path / "a", history="teacher")
    write(tmp_path / "b", history="filler")
    [usual, other] = (every_figure(tmp_path / name, style.PLAIN) for name in "ab")
    assert not {drawn.stem for drawn in usual} & {drawn.stem for drawn in other}
    for drawn in other:
        assert "__filler__" in drawn.stem and "filler" in drawn.figure.get_suptitle()
    assert not [drawn.stem for drawn in usual if "teacher" in drawn.stem]


@pytest.mark.parametrize("by", BY)
def test_columns_of_a_grid_are_what_was_asked_for(runs, without_layout, by):
    frame = tables.make_frame(records.load_results([runs]))
    [drawn, *_] = grid.grid_figures(frame, 2, by)
    axes = drawn.figure.axes[0]
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert set(names) == set(frame[by]) and axes.get_xlabel() == by.capitalize()
    first = frame[(frame["h"] == 2) & (frame["target"] == "q/test")]
    for field in set(BY) - {by}:
        first = first[first[field] == sorted(frame[field])[0]]
    changes = first.set_index(by)["change_points"]
    assert axes.images[0].get_array()[0].tolist() == [changes[name] for name in names]


def test_by_is_a_flag_of_metric_and_grid(tmp_path):
    for model in ("org/a", "org/b"):
        write(tmp_path / "results", 2, 2, model)
    flags = ("--by", "model", "--format", "png")
    for command in ("metric", "grid"):
        assert draw(tmp_path / "results", tmp_path / command, *flags, command=command) == 0
    names = {path.stem.split("__")[-1] for path in tmp_path.glob("*/*.png")}
    kinds = {f"{kind}_by_model" for kind in ("metric", "change", "cue", "sensitivity", "h1")}
    assert {name for name in names if "cosine" not in name} == kinds
    assert len(list(tmp_path.glob("*/*by_model.png"))) == len(kinds)


# --- nothing to draw


def test_without_a_history_there_is_no_change_and_no_cue(tmp_path):
    write(tmp_path, lengths=1)
    groups = load_groups([tmp_path])
    kinds = [drawn.stem.split("__")[-1] for drawn in curves.metric_figures(groups)]
    kinds += [drawn.stem.split("__")[-1] for drawn in curves.study_figures(groups)]
    assert kinds == ["metric", "sensitivity"]


def test_where_no_change_can_be_computed_the_panel_says_so(tmp_path):
    path = write(tmp_path)
    result = records.read_json(path)
    for entry in result["stats_by_len"].values():
        entry["percent_change"], entry["percent_change_reason"] = None, "the metric is 0 at h = 0"
    records.write_json(path, result)
    _, change = curves.metric_figures(load_groups([tmp_path]))
    assert [text.get_text() for text in change.figure.axes[0].texts] == ["no value can be computed"]
    assert "Gaps because the metric is 0 at h = 0" in change.caption
    assert flaws(change) == []
